"""Under any policy the newest snapshot stays, and every position that could be reconstructed still can be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.policies.snapshots import Conditions, Made, Retention, Since, cause, retained
from eventsync.domain.positions import Seq

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)

SEQS = st.integers(0, 60)
SNAPSHOTS = st.lists(st.tuples(SEQS, st.integers(0, 20 * 24)), min_size=1, max_size=12).map(
    lambda pairs: [
        Made(f"s{number}", Seq(seq), NOW - timedelta(hours=hours), 1) for number, (seq, hours) in enumerate(pairs)
    ]
)
RETENTIONS = st.builds(Retention, st.integers(1, 4), st.integers(0, 9))
CONDITIONS = st.builds(
    Conditions,
    st.timedeltas(timedelta(seconds=1), timedelta(days=9)),
    st.integers(1, 100),
    st.floats(0.1, 9),
    st.integers(1, 50),
    st.integers(1, 100),
)


def reconstructed(snapshots: list[Made], events: set[int], horizon: int, position: int) -> bool:
    """Return True if the state at `position` follows from a snapshot and the events after it.

    Events up to `horizon` are gone.
    """
    return any(
        item.seq <= position and not any(item.seq < seq <= horizon for seq in events if seq <= position)
        for item in snapshots
    )


@given(SNAPSHOTS, RETENTIONS, st.sets(SEQS), SEQS, st.sets(st.sampled_from([f"s{number}" for number in range(12)])))
def test_retained_snapshots_reconstruct_all_that_could_be_reconstructed(
    snapshots: list[Made], retention: Retention, events: set[int], horizon: int, pinned: set[str]
) -> None:
    names = retained(snapshots, NOW, retention, Seq(horizon), pinned)
    kept = [item for item in snapshots if item.id in names]
    assert max(item.seq for item in kept) == max(item.seq for item in snapshots)
    assert pinned & {item.id for item in snapshots} <= names
    assert len(kept) <= retention.newest + retention.days + len(pinned) + 2
    for position in range(horizon, 62):
        if reconstructed(snapshots, events, horizon, position):
            assert reconstructed(kept, events, horizon, position), position


@given(SNAPSHOTS, RETENTIONS, SEQS)
def test_retiring_twice_is_retiring_once(snapshots: list[Made], retention: Retention, horizon: int) -> None:
    once = retained(snapshots, NOW, retention, Seq(horizon))
    assert retained([item for item in snapshots if item.id in once], NOW, retention, Seq(horizon)) == once


@given(CONDITIONS, st.integers(0, 9), st.integers(0, 10**9))
def test_without_events_nothing_is_due(conditions: Conditions, size: int, age: int) -> None:
    newest = Made("a", Seq(1), NOW - timedelta(seconds=age), size)
    assert cause(newest, Since(0, 0, span=10**9), NOW, conditions) is None
