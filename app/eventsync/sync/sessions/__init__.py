"""Sessions, their subscriptions, and the inspection of one."""

__all__ = ["inspections", "session", "sessions", "subscription"]
