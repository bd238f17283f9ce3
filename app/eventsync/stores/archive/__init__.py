"""The cold tier: segments on object storage, their registry, and their reader."""

__all__ = ["archive", "identity", "objects", "segment_reader", "segments", "tiered_log", "witness"]
