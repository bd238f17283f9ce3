"""From the event log to the clients: feed, window, sessions."""

__all__ = ["catch_up", "clients", "diagnosis", "live", "operations", "reports", "service", "sessions", "tasks"]
