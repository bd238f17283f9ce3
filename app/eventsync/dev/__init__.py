"""`eventsync dev`: the whole system on one machine, for development and tests."""

__all__ = ["data_dir", "mongod", "port", "supervisor", "terminal"]
