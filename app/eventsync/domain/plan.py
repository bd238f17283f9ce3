"""The catch-up plan: events, squashed documents, or a snapshot. Pure.

Each answer is exact; they differ in cost. The cost is modelled in microseconds, as a linear function of counts: CPU of
mongod and of the server, and the time for its bytes on a line of 100 Mbit/s. `scripts/bench/run catch_up` fits the
coefficients, and measures how much the chosen answer costs more than the cheapest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from eventsync.domain.positions import START, LogId, Position, Seq, unscoped


class ResetReason(StrEnum):
    """Reason why a position can't be continued, in `reset` messages and 409 responses."""

    UNKNOWN_LOG = "unknown_log"
    """The position belongs to another log, with a numbering of its own."""
    FUTURE = "future"
    """The position is beyond the newest event."""
    BEFORE_HORIZON = "before_horizon"
    """The events after the position are not all in the log."""
    DAMAGED = "damaged"
    """The stored events or snapshots can't be read."""
    SCOPE_CHANGED = "scope_changed"
    """The position is of another scope: the shape's definition has changed."""


class Answer(StrEnum):
    """Ways to bring a client up to date."""

    EVENTS = "events"
    """Every event after its position."""
    SQUASHED = "squashed"
    """The present state, or the deletion, of each document that has an event after its position."""
    SNAPSHOT = "snapshot"
    """The shape's whole state."""


@dataclass(frozen=True, slots=True)
class ServableRange:
    """The part of a log that can be served for one shape. `log` has the shape's scope, if it has one.

    Events: after `horizon` and `tracked_from` (since when the collection is tracked), up to `head`; those up to
    `archived_up_to` are in the archive. Squashed documents: for positions from `squash_floor` and `tracked_from` on.
    """

    log: LogId
    head: Seq
    tracked_from: Seq = START
    horizon: Seq = START
    squash_floor: Seq = START
    archived_up_to: Seq = START


@dataclass(frozen=True, slots=True)
class Backlog:
    """The events after a position: `passed` of all collections, which a read has to pass over.

    Of these, `events` with `bytes` of JSON are of the shape, and have touched about `touched` documents.
    """

    passed: int
    events: int
    bytes: int
    touched: int


@dataclass(frozen=True, slots=True)
class CollectionSize:
    """Number of documents, and their bytes of JSON."""

    documents: int
    bytes: int

    @property
    def each(self) -> float:
        """Mean size of a document in bytes."""
        return self.bytes / self.documents if self.documents else 0.0


@dataclass(frozen=True, slots=True)
class SnapshotOption:
    """A stored snapshot: the seq at which it is current, its size, and the backlog since."""

    seq: Seq
    size: CollectionSize
    backlog: Backlog


@dataclass(frozen=True, slots=True)
class CostComparison:
    """The estimates that an answer was chosen by. `costs` are in µs; `exact` are the answers that are exact."""

    costs: Mapping[Answer, float]
    exact: frozenset[Answer]
    servable: ServableRange
    backlog: Backlog
    size: CollectionSize
    stored: SnapshotOption | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer, its estimated cost in µs, and the reason of a `reset` if one must come first.

    `compared` is None where there was nothing to choose. It is for inspection.
    """

    answer: Answer
    cost: float
    reset: ResetReason | None = None
    compared: CostComparison | None = field(default=None, compare=False)


# Microseconds, fitted by `scripts/bench/run catch_up` (docs/benchmarks/catch_up.md).
_BYTE: Final = 0.08
_EVENTS, _PASSED, _EVENT = 500.0, 1.0, 2.3
_SQUASHED, _FINDING, _GROUPED, _TOUCHED = 1500.0, 2000.0, 2.0, 27.0
_LIVE, _READ = 2000.0, 21.0
_STORED, _ROW = 3000.0, 0.2

WORTH_STORING: Final = 50_000.0
"""Cost of a live read, in µs, above which a stored snapshot is worthwhile."""


def refusal(position: Position, servable: ServableRange) -> ResetReason | None:
    """Return the reason why `position` can't be continued; None if the events after it can bring it up to date."""
    if position.log != servable.log:
        same = unscoped(position.log) == unscoped(servable.log)
        return ResetReason.SCOPE_CHANGED if same else ResetReason.UNKNOWN_LOG
    if position.seq > servable.head:
        return ResetReason.FUTURE
    if position.seq < max(servable.tracked_from, servable.horizon):
        return ResetReason.BEFORE_HORIZON
    return None


def allowed(position: Position, servable: ServableRange) -> frozenset[Answer]:
    """Return the exact answers for a client at `position` that keeps its state."""
    reason, answers = refusal(position, servable), {Answer.SNAPSHOT}
    if reason is None:
        answers.add(Answer.EVENTS)
    # Whatever events are kept: those that have touched a route's documents may be, and the documents not be known.
    is_known = position.seq >= max(servable.tracked_from, servable.squash_floor)
    if is_known and reason in (None, ResetReason.BEFORE_HORIZON):
        answers.add(Answer.SQUASHED)
    return frozenset(answers)


def catch_up(
    position: Position,
    servable: ServableRange,
    backlog: Backlog,
    size: CollectionSize,
    stored: SnapshotOption | None,
    avoid: frozenset[Answer] = frozenset(),
) -> Plan:
    """Return the cheapest exact answer for a client at `position` with this backlog. `size` is the shape's.

    `stored` is the newest `usable` stored snapshot. Without a `reset` it counts only if it is newer than `position`. An
    answer in `avoid` is chosen only if no other is exact.
    """
    exact = allowed(position, servable)
    answers = exact - avoid or exact
    reset = refusal(position, servable) if exact == {Answer.SNAPSHOT} else None
    newer = stored if stored and (reset or stored.seq > position.seq) else None
    costs = {
        Answer.EVENTS: events_cost(backlog),
        Answer.SQUASHED: squashed_cost(backlog, size),
        Answer.SNAPSHOT: min(live_cost(size), stored_cost(newer, servable) if newer else math.inf),
    }
    # At equal cost the first of the enum wins, which tells clients most.
    answer = min((item for item in Answer if item in answers), key=costs.__getitem__)
    return Plan(answer, costs[answer], reset, CostComparison(costs, exact, servable, backlog, size, newer))


def usable(stored: SnapshotOption, servable: ServableRange) -> bool:
    """Return True if a client with this stored snapshot can be brought up to date from there."""
    return max(servable.tracked_from, min(servable.horizon, servable.squash_floor)) <= stored.seq <= servable.head


def prefers_stored(size: CollectionSize, stored: SnapshotOption | None, servable: ServableRange) -> bool:
    """Return True if a stored snapshot and its backlog cost a new client no more than a read of the collection."""
    return stored is not None and stored_cost(stored, servable) <= live_cost(size)


def events_cost(backlog: Backlog) -> float:
    """Return the cost of all events of a backlog."""
    return _EVENTS + backlog.passed * _PASSED + backlog.events * _EVENT + backlog.bytes * _BYTE


def squashed_cost(backlog: Backlog, size: CollectionSize) -> float:
    """Return the cost of finding the touched documents (unless the shape names its only one) and reading each."""
    finding = _FINDING + backlog.passed * _GROUPED if backlog.passed else 0.0
    return _SQUASHED + finding + backlog.touched * (_TOUCHED + size.each * _BYTE)


def live_cost(size: CollectionSize) -> float:
    """Return the cost of reading the whole collection."""
    return _LIVE + size.documents * _READ + size.bytes * _BYTE


def stored_cost(stored: SnapshotOption, servable: ServableRange) -> float:
    """Return the cost of a stored snapshot, whose chunks many clients share, and of its backlog."""
    since = squashed_cost(stored.backlog, stored.size)
    if stored.seq >= servable.horizon:
        since = min(since, events_cost(stored.backlog))
    return _STORED + stored.size.documents * _ROW + stored.size.bytes * _BYTE + since
