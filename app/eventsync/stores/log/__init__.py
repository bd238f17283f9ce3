"""The event log in MongoDB: events, logs and checkpoints, tiers, tracked collections, declared shapes."""

__all__ = [
    "definitions",
    "event_batch",
    "event_parts",
    "events",
    "gap_check",
    "hot_tier",
    "logs",
    "registry",
    "repairs",
    "stored_event",
    "tiers",
    "tracking",
]
