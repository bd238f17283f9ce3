"""The log replayed: time travel, comparison with the collection, restore, verification."""

__all__ = ["comparison", "history", "instants", "log_state", "restore", "time_travel", "verification"]
