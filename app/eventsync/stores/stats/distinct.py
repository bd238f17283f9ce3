"""How many different things there are, judged from a few of them. Pure.

Source: A. Chao, Nonparametric Estimation of the Number of Classes in a Population, 1984 (bias-corrected form).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable


def distinct(sample: Iterable[Hashable], population: float) -> int:
    """About how many different values a population of this size has, of which `sample` was drawn at random.

    Never fewer than the sample has, nor (but for that) more than the population. The more of the sample came only once,
    the more must be those that it has not met.
    """
    times = Counter(sample)
    once, twice = (sum(count == number for count in times.values()) for number in (1, 2))
    unseen = once * (once - 1) / (2 * (twice + 1))
    return max(len(times), int(min(population, len(times) + unseen)))
