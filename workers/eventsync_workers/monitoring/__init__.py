"""Monitoring of a worker: what it counts, and the port that shows it."""

__all__ = ["catalogue", "figures", "port"]
