"""Child processes that are kept running, and the server processes behind `eventsync serve --workers`."""

__all__ = ["child", "server_processes"]
