from __future__ import annotations

import random

import pytest

from eventsync.stores.stats.estimates import distinct


def test_nothing_is_nothing() -> None:
    assert distinct([], 1000) == 0


def test_the_estimate_lies_between_the_values_seen_and_the_rows() -> None:
    assert distinct(["a", "b", "b"], 3) == 2
    assert distinct(["a", "b", "c"], 3) == 3
    assert distinct(["a", "b", "c"], 4) == 4
    assert distinct(["a"], 0) == 1


@pytest.mark.parametrize(("kinds", "low", "high"), [(10, 10, 10), (500, 400, 650), (5_000, 3_000, 8_000)])
def test_a_sample_of_a_thousand_tells_few_from_many(kinds: int, low: int, high: int) -> None:
    choose = random.Random(kinds)
    sample = [choose.randrange(kinds) for _ in range(1000)]
    assert low <= distinct(sample, 1_000_000) <= high
