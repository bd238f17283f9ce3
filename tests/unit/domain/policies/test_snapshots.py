from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from eventsync.domain.policies.snapshots import (
    Cause,
    Conditions,
    Made,
    Retention,
    Since,
    cause,
    retained,
    retained_of_document,
)
from eventsync.domain.positions import Seq

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
NEWEST = Made("a", Seq(100), NOW - timedelta(hours=1), 1000)
CONDITIONS = Conditions(timedelta(days=1), events=50, ratio=2.0, min_events=10, span=10_000)


def made(name: str, seq: int, hours_ago: float) -> Made:
    return Made(name, Seq(seq), NOW - timedelta(hours=hours_ago), 1000)


def test_the_first_one_is_always_due() -> None:
    assert cause(None, Since(0, 0, 0), NOW, CONDITIONS) is Cause.BASE


@pytest.mark.parametrize(
    ("since", "why"),
    [
        (Since(49, 1999, 9_999), None),
        (Since(50, 1, 1), Cause.EVENTS),
        (Since(10, 2000, 1), Cause.RATIO),
        (Since(9, 2000, 1), None),
        (Since(10, 1999, 1), None),
        (Since(1, 1, 10_000), Cause.BEHIND),
        (Since(0, 0, 10_000), None),
        (Since(0, 0, 1, horizon=True), Cause.HORIZON),
    ],
)
def test_each_condition_makes_the_next_one_due_at_its_bound(since: Since, why: Cause | None) -> None:
    assert cause(NEWEST, since, NOW, CONDITIONS) is why


def test_the_period_counts_only_where_there_were_events() -> None:
    old = replace(NEWEST, at=NOW - timedelta(days=1))
    assert cause(old, Since(1, 1, 1), NOW, CONDITIONS) is Cause.PERIOD
    assert cause(old, Since(0, 0, 0), NOW, CONDITIONS) is None
    assert cause(old, Since(1, 1, 1), NOW - timedelta(seconds=1), CONDITIONS) is None


def test_an_empty_collections_snapshot_is_not_outgrown_by_a_few_events() -> None:
    empty = replace(NEWEST, bytes=0)
    assert cause(empty, Since(9, 10**9, 1), NOW, CONDITIONS) is None
    assert cause(empty, Since(10, 1, 1), NOW, CONDITIONS) is Cause.RATIO


def test_the_newest_ones_and_the_last_one_of_each_day_are_kept() -> None:
    snapshots = [
        made("five days ago", 10, 5 * 24),
        made("early two days ago", 20, 2 * 24 + 3),
        made("late two days ago", 30, 2 * 24),
        made("yesterday", 40, 24),
        made("early today", 50, 3),
        made("today", 60, 2),
        made("now", 70, 0),
    ]
    kept = retained(snapshots, NOW, Retention(newest=2, days=3), Seq(70))
    assert kept == {"late two days ago", "yesterday", "today", "now"}
    assert retained(snapshots, NOW, Retention(newest=1, days=0), Seq(70)) == {"now"}


def test_the_last_one_is_kept_however_old() -> None:
    assert retained([made("a", 5, 1000)], NOW, Retention(newest=1, days=1), Seq(500)) == {"a"}


def test_snapshots_around_the_horizon_and_pinned_ones_are_retained() -> None:
    snapshots = [made("a", 10, 90), made("b", 20, 80), made("c", 30, 70), made("d", 40, 60)]
    one = Retention(newest=1, days=0)
    assert retained(snapshots, NOW, one, Seq(20)) == {"b", "c", "d"}
    assert retained(snapshots, NOW, one, Seq(19)) == {"a", "b", "d"}
    assert retained(snapshots, NOW, one, Seq(40)) == {"d"}
    assert retained(snapshots, NOW, one, Seq(9)) == {"a", "d"}, "states from 10 on are made from it"
    assert retained(snapshots, NOW, one, Seq(40), pinned={"b", "of another"}) == {"b", "d"}


def test_a_documents_snapshots_are_kept_as_long_as_the_log_goes_back_to_them() -> None:
    snapshots = [made("a", 10, 90), made("b", 20, 80)]
    two = Retention(newest=2, days=0)
    assert retained_of_document(snapshots, NOW, two, Seq(10)) == {"a", "b"}
    assert retained_of_document(snapshots, NOW, two, Seq(11)) == {"b"}
    assert retained_of_document(snapshots, NOW, two, Seq(21)) == set()
    assert retained_of_document(snapshots, NOW, two, Seq(21), pinned={"a"}) == {"a"}
