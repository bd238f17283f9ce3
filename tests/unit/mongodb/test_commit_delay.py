"""The delay of changes, by two clocks that differ."""

from __future__ import annotations

import pytest

from eventsync.mongodb.journal import CommitDelay

SKEWS = (-3600.0, 0.0, 3600.0)


@pytest.mark.parametrize("skew", SKEWS)
def test_the_least_difference_of_the_clocks_counts_as_no_delay(skew: float) -> None:
    delays = CommitDelay()
    seen = [
        delays.observe(1000 + number, 999.5 + number + skew, 1000 + number + lasts + skew)
        for number, lasts in enumerate((0.005, 0.085, 0.045))
    ]
    assert seen == pytest.approx([0, 0.08, 0.04], abs=1e-6)


def test_a_change_that_was_committed_before_the_read_began_waits_from_then_on() -> None:
    delays = CommitDelay()
    delays.observe(1000, 999, 1000)
    assert delays.observe(1001, 1060, 1060.003) == pytest.approx(0.003)


def test_a_clock_that_was_set_is_followed_within_ten_minutes() -> None:
    delays = CommitDelay()
    delays.observe(1000, 999, 1000)
    later = [delays.observe(1000 + second, 999 + second, 1000.5 + second) for second in range(1, 700)]
    assert later[0] == pytest.approx(0.5)
    assert later[-1] == pytest.approx(0)
