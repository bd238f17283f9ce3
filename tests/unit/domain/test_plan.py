from __future__ import annotations

from dataclasses import replace

import pytest

from eventsync.domain.plan import (
    Answer,
    Backlog,
    CollectionSize,
    Plan,
    ResetReason,
    ServableRange,
    SnapshotOption,
    allowed,
    catch_up,
    live_cost,
    prefers_stored,
    refusal,
    usable,
)
from eventsync.domain.positions import LogId, Position, Seq

LOG, OTHER = LogId("aaaa"), LogId("bbbb")


@pytest.mark.parametrize(
    ("log", "seq", "reason"),
    [
        (LOG, 10, None),
        (LOG, 15, None),
        (LOG, 20, None),
        (LOG, 9, ResetReason.BEFORE_HORIZON),
        (LOG, 0, ResetReason.BEFORE_HORIZON),
        (LOG, 21, ResetReason.FUTURE),
        (OTHER, 15, ResetReason.UNKNOWN_LOG),
        (OTHER, 99, ResetReason.UNKNOWN_LOG),
    ],
)
def test_a_position_is_continued_where_every_later_event_is_there(
    log: LogId, seq: int, reason: ResetReason | None
) -> None:
    assert refusal(Position(log, Seq(seq)), ServableRange(LOG, Seq(20), horizon=Seq(10))) == reason
    # A collection has no events from before it was tracked, whatever the log reaches back to.
    assert refusal(Position(log, Seq(seq)), ServableRange(LOG, Seq(20), tracked_from=Seq(10))) == reason


def test_the_beginning_of_a_log_that_has_everything_is_continued() -> None:
    assert refusal(Position(LOG, Seq(0)), ServableRange(LOG, Seq(0))) is None


def test_the_reasons_are_the_words_of_the_protocol() -> None:
    assert {reason.value for reason in ResetReason} == {
        "unknown_log",
        "future",
        "before_horizon",
        "damaged",
        "scope_changed",
    }


SERVABLE = ServableRange(LOG, Seq(2000), tracked_from=Seq(10), horizon=Seq(1000), squash_floor=Seq(500))
SMALL, LARGE = CollectionSize(100, 100_000), CollectionSize(1_000_000, 1_000_000_000)
NO_BACKLOG = Backlog(0, 0, 0, 0)


def at(seq: int, log: LogId = LOG) -> Position:
    return Position(log, Seq(seq))


@pytest.mark.parametrize(
    ("position", "answers"),
    [
        (at(1000), set(Answer)),
        (at(2000), set(Answer)),
        (at(999), {Answer.SQUASHED, Answer.SNAPSHOT}),
        (at(500), {Answer.SQUASHED, Answer.SNAPSHOT}),
        (at(499), {Answer.SNAPSHOT}),
        (at(9), {Answer.SNAPSHOT}),
        (at(2001), {Answer.SNAPSHOT}),
        (at(1500, OTHER), {Answer.SNAPSHOT}),
    ],
)
def test_the_exact_answers_depend_on_the_position(position: Position, answers: set[Answer]) -> None:
    assert allowed(position, SERVABLE) == answers


def test_nothing_is_squashed_where_the_touched_documents_are_not_known() -> None:
    """Those of a route are not known of archived events, and those of a view never."""
    route = replace(SERVABLE, squash_floor=Seq(1500))
    assert allowed(at(1499), route) == {Answer.EVENTS, Answer.SNAPSHOT}
    assert allowed(at(1500), route) == set(Answer)
    assert allowed(at(2000), replace(SERVABLE, squash_floor=Seq(2001))) == {Answer.EVENTS, Answer.SNAPSHOT}
    assert allowed(at(999), route) == {Answer.SNAPSHOT}


@pytest.mark.parametrize(
    ("tail", "size", "expected"),
    [
        (Backlog(1000, 1000, 300_000, 1000), LARGE, Answer.EVENTS),
        (Backlog(100_000, 100_000, 30_000_000, 100), LARGE, Answer.SQUASHED),
        (Backlog(5_000_000, 5_000_000, 1_500_000_000, 1_000_000), LARGE, Answer.SNAPSHOT),
        (Backlog(100_000, 100_000, 30_000_000, 100), SMALL, Answer.SNAPSHOT),
        (Backlog(100_000, 0, 0, 0), LARGE, Answer.EVENTS),
    ],
)
def test_each_answer_is_the_cheapest_somewhere(tail: Backlog, size: CollectionSize, expected: Answer) -> None:
    chosen = catch_up(at(1500), SERVABLE, tail, size, None)
    assert (chosen.answer, chosen.reset) == (expected, None)


def test_a_position_that_can_be_kept_is_kept() -> None:
    tail = Backlog(1400, 1400, 400_000, 1400)
    assert catch_up(at(600), SERVABLE, tail, LARGE, None).answer is Answer.SQUASHED
    assert catch_up(at(600), SERVABLE, tail, SMALL, None) == Plan(Answer.SNAPSHOT, live_cost(SMALL))
    for position, reason in [(at(400), "before_horizon"), (at(2001), "future"), (at(1500, OTHER), "unknown_log")]:
        chosen = catch_up(position, SERVABLE, tail, SMALL, None)
        assert (chosen.answer, chosen.reset) == (Answer.SNAPSHOT, reason)


def test_an_avoided_answer_is_chosen_only_if_no_other_is_exact() -> None:
    tail = Backlog(100_000, 100_000, 30_000_000, 100)
    avoid = frozenset({Answer.SQUASHED})
    assert catch_up(at(1500), SERVABLE, tail, LARGE, None, avoid).answer is Answer.EVENTS
    assert catch_up(at(600), SERVABLE, tail, LARGE, None, frozenset(Answer)).answer is Answer.SQUASHED


def test_a_stored_snapshot_counts_for_those_who_are_before_it() -> None:
    stored, tail = SnapshotOption(Seq(1700), LARGE, NO_BACKLOG), Backlog(9_000_000, 9_000_000, 3_000_000_000, 1_000_000)
    cheaper = catch_up(at(1600), SERVABLE, tail, LARGE, stored)
    assert cheaper.answer is Answer.SNAPSHOT
    assert cheaper.cost < live_cost(LARGE)
    assert catch_up(at(1800), SERVABLE, tail, LARGE, stored).cost == live_cost(LARGE), "nobody goes back"
    assert catch_up(at(1800, OTHER), SERVABLE, tail, LARGE, stored).cost == cheaper.cost


def test_a_new_client_begins_with_what_is_stored_unless_too_much_has_happened_since() -> None:
    busy = Backlog(50_000_000, 50_000_000, 15_000_000_000, 1_000_000)
    assert prefers_stored(LARGE, SnapshotOption(Seq(1700), LARGE, NO_BACKLOG), SERVABLE)
    assert not prefers_stored(LARGE, SnapshotOption(Seq(1700), LARGE, busy), SERVABLE)
    assert not prefers_stored(LARGE, None, SERVABLE)
    # Behind the horizon there is a squashed answer, or none.
    hot = Backlog(10, 10, 3000, 10)
    assert not prefers_stored(
        CollectionSize(100, 10_000), SnapshotOption(Seq(700), CollectionSize(100, 10_000), hot), SERVABLE
    )
    assert prefers_stored(
        CollectionSize(100, 10_000), SnapshotOption(Seq(1700), CollectionSize(100, 10_000), hot), SERVABLE
    )


@pytest.mark.parametrize(("seq", "is_usable"), [(499, False), (500, True), (1700, True), (2001, False)])
def test_a_stored_snapshot_is_usable_where_its_position_can_be_continued(seq: int, is_usable: bool) -> None:
    assert usable(SnapshotOption(Seq(seq), SMALL, NO_BACKLOG), SERVABLE) is is_usable
    assert not usable(
        SnapshotOption(Seq(seq), SMALL, NO_BACKLOG), ServableRange(LOG, Seq(2000), tracked_from=Seq(1701))
    )
