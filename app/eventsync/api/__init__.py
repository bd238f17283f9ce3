"""The HTTP API and the sync transports: Starlette routes over `eventsync.sync` and `eventsync.nodestorage`."""

__all__ = [
    "batch",
    "cors",
    "documents",
    "operations",
    "origins",
    "pages",
    "paths",
    "permissions",
    "poll",
    "segments",
    "sse",
    "state",
    "state_vectors",
    "time_travel",
    "transactions",
    "websocket",
]
