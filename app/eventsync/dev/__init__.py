"""`eventsync dev`: the whole system on one machine, for development and tests."""
