"""HTTP and WebSocket: routes, transports, errors as problems."""
