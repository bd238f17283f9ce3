"""Snapshots: of the collection as it is, and stored ones with their chunks, requests and pins."""
