"""The HTTP API and the sync transports: Starlette routes over `eventsync.sync` and `eventsync.nodestorage`."""
