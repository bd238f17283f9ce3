"""From the event log to the clients: feed, window, sessions."""
