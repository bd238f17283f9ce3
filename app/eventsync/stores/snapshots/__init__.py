"""Snapshots: of the collection as it is, and stored ones with their chunks, requests and pins."""

__all__ = ["chunks", "live_snapshots", "pins", "requests", "rows", "squashed", "store"]
