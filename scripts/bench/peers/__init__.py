"""What eventsync is measured beside: servers that send the same bytes to the same clients, each told what to do."""
