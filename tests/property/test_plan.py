"""The plan over all counts and positions: always an exact answer, and never one that is modelled as dearer."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.plan import (
    Answer,
    Backlog,
    CollectionSize,
    ResetReason,
    ServableRange,
    SnapshotOption,
    allowed,
    catch_up,
    events_cost,
    live_cost,
    refusal,
    squashed_cost,
    stored_cost,
    usable,
)
from eventsync.domain.positions import LogId, Position, Seq

COUNT = st.integers(0, 10**7)
SEQ = st.integers(0, 60).map(Seq)
POSITIONS = st.builds(Position, st.sampled_from(["aaaa", "bbbb"]).map(LogId), SEQ)
EXTENTS = st.tuples(*[SEQ] * 4).map(
    lambda seqs: ServableRange(LogId("aaaa"), max(seqs), seqs[3], *sorted(seqs[:2], reverse=True))
)
SIZES = st.builds(CollectionSize, COUNT, COUNT)
TAILS = st.builds(Backlog, COUNT, COUNT, COUNT, COUNT)
STORED = st.none() | st.builds(SnapshotOption, SEQ, SIZES, TAILS)
AVOID = st.frozensets(st.sampled_from(Answer))


@given(POSITIONS, EXTENTS, TAILS, SIZES, STORED, AVOID)
def test_there_is_always_an_answer_and_it_is_exact(
    position: Position,
    extent: ServableRange,
    tail: Backlog,
    size: CollectionSize,
    stored: SnapshotOption | None,
    avoid: frozenset[Answer],
) -> None:
    chosen = catch_up(position, extent, tail, size, stored, avoid)
    reachable = position.log == extent.log and extent.tracked_from <= position.seq <= extent.head
    if chosen.answer is Answer.EVENTS:
        assert reachable
        assert position.seq >= extent.horizon
    if chosen.answer is Answer.SQUASHED:
        assert reachable
        assert position.seq >= min(extent.squash_floor, extent.horizon)
    if chosen.reset is not None:
        assert chosen.answer is Answer.SNAPSHOT
        assert chosen.reset is refusal(position, extent)
    else:
        assert reachable, "who stands where nothing leads on gives the position up"
        assert refusal(position, extent) in {None, ResetReason.BEFORE_HORIZON}


@given(POSITIONS, EXTENTS, TAILS, SIZES, STORED)
def test_no_exact_answer_is_modelled_as_cheaper(
    position: Position, extent: ServableRange, tail: Backlog, size: CollectionSize, stored: SnapshotOption | None
) -> None:
    chosen = catch_up(position, extent, tail, size, stored)
    exact = allowed(position, extent)
    others = [live_cost(size)]
    others += [events_cost(tail)] if Answer.EVENTS in exact else []
    others += [squashed_cost(tail, size)] if Answer.SQUASHED in exact else []
    if stored is not None and (stored.seq > position.seq or chosen.reset):
        others.append(stored_cost(stored, extent))
    assert chosen.cost == min(others)


@given(POSITIONS, EXTENTS, TAILS, SIZES, st.sampled_from(["passed", "events", "bytes", "touched"]), COUNT)
def test_a_longer_backlog_never_costs_less(
    position: Position, extent: ServableRange, tail: Backlog, size: CollectionSize, field: str, more: int
) -> None:
    worse = replace(tail, **{field: getattr(tail, field) + more})
    assert catch_up(position, extent, worse, size, None).cost >= catch_up(position, extent, tail, size, None).cost


@given(EXTENTS, TAILS, SIZES, SEQ)
def test_from_a_usable_snapshot_nobody_is_reset(
    extent: ServableRange, tail: Backlog, size: CollectionSize, seq: Seq
) -> None:
    stored = SnapshotOption(seq, size, tail)
    if usable(stored, extent):
        assert catch_up(Position(extent.log, seq), extent, tail, size, None).reset is None


@given(POSITIONS, EXTENTS, SIZES, STORED)
def test_a_client_that_missed_nothing_gets_events_unless_it_is_refused(
    position: Position, extent: ServableRange, size: CollectionSize, stored: SnapshotOption | None
) -> None:
    chosen = catch_up(position, extent, Backlog(0, 0, 0, 0), size, stored)
    assert (chosen.answer is Answer.EVENTS) == (refusal(position, extent) is None)
