"""Retention and snapshot policies: what is due, from counts and clocks that are given. Pure."""

__all__ = ["retention", "snapshots"]
