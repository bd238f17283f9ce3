from __future__ import annotations

import pytest

from eventsync.domain.policies.retention import Bounds, SealedRange, allowed, horizon, wanted
from eventsync.domain.positions import Seq

SEALED = [SealedRange(Seq(last), 100) for last in (20, 40, 60)]


@pytest.mark.parametrize(
    ("aged", "bounds", "expected"),
    [
        (0, Bounds(), 0),
        (30, Bounds(), 30),
        (30, Bounds(events=50), 50),
        (70, Bounds(events=50), 70),
        (0, Bounds(events=500), 0),
        (0, Bounds(bytes=300), 0),
        (0, Bounds(bytes=299), 20),
        (0, Bounds(bytes=100), 40),
        (0, Bounds(bytes=99), 60),
        (30, Bounds(bytes=150), 40),
    ],
)
def test_the_wanted_border_follows_bounds_and_age(aged: int, bounds: Bounds, expected: int) -> None:
    assert wanted(Seq(100), Seq(aged), bounds, SEALED) == expected


@pytest.mark.parametrize(
    ("tail", "tallied", "quiet", "expected"),
    [(100, 200, [], 99), (100, 50, [], 50), (100, 100, [70, 40], 40), (0, 0, [], 0), (1, 1, [5], 0)],
)
def test_events_leave_up_to_the_lowest_limit(tail: int, tallied: int, quiet: list[int], expected: int) -> None:
    assert allowed(Seq(tail), Seq(tallied), [Seq(seq) for seq in quiet]) == expected


@pytest.mark.parametrize(("target", "expected"), [(0, 0), (19, 0), (20, 20), (59, 40), (60, 60), (99, 60)])
def test_segments_go_as_a_whole(target: int, expected: int) -> None:
    assert horizon(Seq(target), Seq(60), SEALED) == expected


def test_the_horizon_of_unsealed_events_reaches_archived_up_to() -> None:
    assert horizon(Seq(5), Seq(5), []) == 5
