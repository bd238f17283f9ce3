"""The slope of what was seen over time, and how sure it is. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

_SURE = 1.96
"""Standard errors on either side that 95 % lie within, of many minutes."""


@dataclass(frozen=True, slots=True)
class Slope:
    """An hour's growth, and how far on either side it may lie (95 %)."""

    an_hour: float
    interval: float


def slope(seen: Mapping[float, float]) -> Slope:
    """Return the slope of minute → value, by least squares over each minute's median.

    Medians of minutes, because looks within one are not independent: each would count as evidence of its own.
    Raises `ValueError` for fewer than three minutes.
    """
    minutes: dict[int, list[float]] = defaultdict(list)
    for minute, value in seen.items():
        minutes[int(minute)].append(value)
    xs, ys = list(minutes), [statistics.median(values) for values in minutes.values()]
    if len(xs) < 3:
        raise ValueError("a slope takes three minutes")
    line, middle = statistics.linear_regression(xs, ys), statistics.fmean(xs)
    errors = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    deviation = (errors / (len(xs) - 2) / sum((x - middle) ** 2 for x in xs)) ** 0.5
    return Slope(60 * line.slope, 60 * _SURE * deviation)
