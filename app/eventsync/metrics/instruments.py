"""Histograms that are counted in plain numbers. A counter is an `int` or a `collections.Counter`, and needs no class.

The library's own instruments take a lock at each step, about a microsecond, which is more than a delivery takes.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for what a client waits for, in seconds."""

FINE: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds for steps that take microseconds or milliseconds, in seconds."""

LONG: Final = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
"""Upper bounds for jobs, in seconds."""


class Histogram:
    """Numbers of observations by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = FAST) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations of each bucket alone. The last one has those above all bounds."""
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count `value`, as often as `count` says."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count
