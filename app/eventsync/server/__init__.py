"""The HTTP server: uvicorn with bounds on untrusted connections, deadlines, and the table from error to answer."""

__all__ = [
    "deadline",
    "extensions",
    "limits",
    "observing",
    "problems",
    "response_stream",
    "retry",
    "sized_response",
    "sockets",
    "supervision",
    "uvicorn_server",
    "websocket_frames",
]
