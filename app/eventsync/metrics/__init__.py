"""Metrics: plain counts that cost nothing to keep, and their text in Prometheus' format at a scrape."""

__all__ = ["catalogue", "figures", "instruments", "process", "shared"]
