"""State that eventsync keeps: the event log and its archive, snapshots, past states, clients, statistics."""

__all__ = ["access", "archive", "clients", "formats", "history", "log", "readiness", "snapshots", "stats", "stores"]
