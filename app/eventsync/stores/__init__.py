"""State that eventsync keeps in MongoDB: the event log, its head, leases, tracked collections."""

__all__ = ["archive", "clients", "history", "log", "readiness", "snapshots", "stats", "stores"]
