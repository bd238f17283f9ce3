"""`eventsync dev`: an embedded MongoDB, a worker and a server under one supervisor."""
