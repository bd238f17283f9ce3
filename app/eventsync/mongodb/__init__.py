"""The driver's edge: connections, errors, change streams, cursors, clocks, the journal, leases, indexes, privileges."""

__all__ = [
    "answer_size",
    "capacity",
    "change_stream",
    "client",
    "clocks",
    "connections",
    "errors",
    "journal",
    "leases",
    "primary",
    "privileges",
    "query_plans",
    "raw_cursor",
    "ttl_index",
]
