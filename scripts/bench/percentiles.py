"""Percentiles of what was measured, by rank: a value that was. Pure."""

from __future__ import annotations

from collections.abc import Iterable

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def percentiles(values: Iterable[float], prefix: str = "") -> dict[str, float]:
    """The least value that so many of them do not exceed. Raises `ValueError` where there is none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    return {prefix + name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in SHARES.items()}
