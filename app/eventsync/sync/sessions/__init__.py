"""Sessions and their subscriptions."""

__all__ = ["session", "sessions", "subscription"]
