"""What identity stores: service keys and tickets by their hashes, and what was revoked."""

__all__ = ["keys", "revocations", "tickets"]
