"""New events to connected clients: feed, window, fan-out."""
