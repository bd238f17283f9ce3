"""How a client at some position is brought up to date: by events, by squashed documents, or by a snapshot. Pure.

Each answer is exact; they differ in what they cost. The cost is modelled in microseconds, as a linear function of
counts: the CPU that an answer takes in mongod and here, and the time its bytes take on a line of 100 Mbit/s. What the
coefficients are, and how far from the cheapest answer the chosen one is, measures `scripts/bench/run catch_up`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from eventsync.domain.positions import START, LogId, Position, Seq


class ResetReason(StrEnum):
    """Why a position can't be continued from, as `reset` messages and 409 answers say it."""

    UNKNOWN_LOG = "unknown_log"
    """The position belongs to another log: the numbering has begun anew."""
    FUTURE = "future"
    """The position is beyond the newest event."""
    BEFORE_HORIZON = "before_horizon"
    """The events after the position are not all in the log."""
    DAMAGED = "damaged"
    """What is stored of the past can't be read."""


class Answer(StrEnum):
    """What brings a client up to date."""

    EVENTS = "events"
    """Every event after its position."""
    SQUASHED = "squashed"
    """The present state, or the deletion, of each document that has an event after its position."""
    SNAPSHOT = "snapshot"
    """The shape's whole state."""


@dataclass(frozen=True, slots=True)
class ServableRange:
    """What a log can serve for one shape: the events after `horizon` and after `base` (since when the collection is
    tracked), up to `head`; squashed documents for positions from `squash_floor` (and `base`) on.
    """

    log: LogId
    head: Seq
    base: Seq = START
    horizon: Seq = START
    squash_floor: Seq = START


@dataclass(frozen=True, slots=True)
class Backlog:
    """What has happened after a position: `passed` events of all collections that reading has to pass over, of which
    `events` with `bytes` of JSON are of the shape, about `touched` documents.
    """

    passed: int
    events: int
    bytes: int
    touched: int


@dataclass(frozen=True, slots=True)
class CollectionSize:
    """How many documents, and bytes of JSON."""

    documents: int
    bytes: int

    @property
    def each(self) -> float:
        """Bytes of a document on average."""
        return self.bytes / self.documents if self.documents else 0.0


@dataclass(frozen=True, slots=True)
class SnapshotOption:
    """A stored snapshot: its position (it may be newer than its own), its size, and what has happened since."""

    seq: Seq
    size: CollectionSize
    tail: Backlog


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer, what it is thought to cost in µs, and the reason where the position has to be given up first."""

    answer: Answer
    cost: float
    reset: ResetReason | None = None


# Microseconds, fitted by `scripts/bench/run catch_up` (docs/benchmarks/catch_up.md).
_BYTE: Final = 0.08
_EVENTS, _PASSED, _EVENT = 500.0, 1.0, 2.3
_SQUASHED, _FINDING, _GROUPED, _TOUCHED = 1500.0, 2000.0, 2.0, 27.0
_LIVE, _READ = 2000.0, 21.0
_STORED, _ROW = 3000.0, 0.2

WORTH_STORING: Final = 50_000.0
"""A live read that costs more µs than this is worth a stored snapshot."""


def refusal(position: Position, extent: ServableRange) -> ResetReason | None:
    """Why `position` can't be continued within `extent`; None if the events after it bring it up to date."""
    if position.log != extent.log:
        return ResetReason.UNKNOWN_LOG
    if position.seq > extent.head:
        return ResetReason.FUTURE
    if position.seq < max(extent.base, extent.horizon):
        return ResetReason.BEFORE_HORIZON
    return None


def allowed(position: Position, extent: ServableRange) -> frozenset[Answer]:
    """The answers that are exact for a client at `position`, which keeps what it has."""
    reason = refusal(position, extent)
    if reason is None:
        return frozenset(Answer)
    kept = reason is ResetReason.BEFORE_HORIZON and position.seq >= max(extent.base, extent.squash_floor)
    return frozenset({Answer.SQUASHED, Answer.SNAPSHOT} if kept else {Answer.SNAPSHOT})


def catch_up(
    position: Position,
    extent: ServableRange,
    tail: Backlog,
    size: CollectionSize,
    stored: SnapshotOption | None,
    avoid: frozenset[Answer] = frozenset(),
) -> Plan:
    """The cheapest allowed answer for a client at `position`. `tail` is what it has missed, `size` the shape's.

    `stored` is the newest stored snapshot, if there is a `usable` one; without a `reset` it only counts where it is
    newer than `position`. An answer to `avoid` is given only where no other is allowed.
    """
    exact = allowed(position, extent)
    answers = exact - avoid or exact
    reset = refusal(position, extent) if exact == {Answer.SNAPSHOT} else None
    newer = stored if stored and (reset or stored.seq > position.seq) else None
    costs = {
        Answer.EVENTS: events_cost(tail),
        Answer.SQUASHED: squashed_cost(tail, size),
        Answer.SNAPSHOT: min(live_cost(size), stored_cost(newer, extent) if newer else math.inf),
    }
    # In the order of the enum where two cost the same: the most telling answer first.
    answer = min((item for item in Answer if item in answers), key=costs.__getitem__)
    return Plan(answer, costs[answer], reset)


def usable(stored: SnapshotOption, extent: ServableRange) -> bool:
    """Whether a client that begins with this stored snapshot can be brought on from there."""
    return max(extent.base, min(extent.horizon, extent.squash_floor)) <= stored.seq <= extent.head


def prefers_stored(size: CollectionSize, stored: SnapshotOption | None, extent: ServableRange) -> bool:
    """Whether a new client should get the stored snapshot, and what has happened since, or a reading of its own."""
    return stored is not None and stored_cost(stored, extent) <= live_cost(size)


def events_cost(tail: Backlog) -> float:
    """Of all events of a tail."""
    return _EVENTS + tail.passed * _PASSED + tail.events * _EVENT + tail.bytes * _BYTE


def squashed_cost(tail: Backlog, size: CollectionSize) -> float:
    """Of finding the documents that a tail has touched (a shape of one document names it), and of reading each."""
    finding = _FINDING + tail.passed * _GROUPED if tail.passed else 0.0
    return _SQUASHED + finding + tail.touched * (_TOUCHED + size.each * _BYTE)


def live_cost(size: CollectionSize) -> float:
    """Of reading the whole collection as it is."""
    return _LIVE + size.documents * _READ + size.bytes * _BYTE


def stored_cost(stored: SnapshotOption, extent: ServableRange) -> float:
    """Of a stored snapshot, whose chunks many clients share, and of what has happened since."""
    since = squashed_cost(stored.tail, stored.size)
    if stored.seq >= extent.horizon:
        since = min(since, events_cost(stored.tail))
    return _STORED + stored.size.documents * _ROW + stored.size.bytes * _BYTE + since
