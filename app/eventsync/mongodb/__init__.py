"""The driver's edge: connections, errors, change streams, raw cursors, clocks, leases, indexes, privileges."""

__all__ = [
    "answer_size",
    "capacity",
    "change_stream",
    "client",
    "clocks",
    "errors",
    "leases",
    "privileges",
    "raw_cursor",
    "ttl_index",
]
