"""The stored credentials: service keys and tickets by their hashes, and revocations."""

__all__ = ["keys", "revocations", "tickets"]
