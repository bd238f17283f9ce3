"""The HTTP API and the sync transports: Starlette routes over `eventsync.sync` and `eventsync.nodestorage`."""

__all__ = [
    "admin",
    "batch",
    "cors",
    "credentials",
    "documents",
    "endpoint",
    "operations",
    "origins",
    "pages",
    "paths",
    "poll",
    "scrape",
    "segments",
    "sse",
    "state",
    "state_vectors",
    "time_travel",
    "transactions",
    "websocket",
]
