"""Access: principals, and what the rules file lets each of them read and write. Pure."""

__all__ = ["auth", "principal"]
