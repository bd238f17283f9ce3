"""The rules file, beside a database: reading and following it, and trying its rules on documents and events."""

__all__ = ["comparison", "costs", "file", "follower", "review", "trial"]
