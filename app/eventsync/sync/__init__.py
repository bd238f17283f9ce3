"""From the event log to the clients: feed, window, sessions."""

__all__ = ["catch_up", "clients", "live", "operations", "service", "sessions"]
