"""The log replayed: time travel, comparison with the collection, restore, verification."""

__all__ = [
    "change_reader",
    "comparison",
    "instants",
    "log_search",
    "log_state",
    "past_pages",
    "proof",
    "restore",
    "route_verification",
    "time_travel",
    "verification",
]
