"""The HTTP API and the sync transports: Starlette routes over `app.sync` and `app.nodestorage`."""
