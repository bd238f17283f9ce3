"""Sessions, their subscriptions, and the inspection of one."""

__all__ = ["inspection", "inspections", "session", "sessions", "subscription"]
