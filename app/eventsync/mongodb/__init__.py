"""The driver's edge: connections, errors, change streams, cursors, clocks, the journal, leases, indexes, privileges."""

__all__ = [
    "answer_size",
    "capacity",
    "change_stream",
    "client",
    "clocks",
    "errors",
    "journal",
    "leases",
    "pinned_connection",
    "primary",
    "privileges",
    "raw_cursor",
    "ttl_index",
]
