"""eventsync: a sync server for MongoDB that needs nothing but MongoDB."""

__version__ = "0.1.0"
