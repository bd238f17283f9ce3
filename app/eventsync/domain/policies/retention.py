"""Which events leave MongoDB, and which are not kept at all. Pure.

The policy says what should go (`wanted`); safety, what may (`allowed`): whatever happens, the newest stored snapshot of
each tracked collection and the events in MongoDB are the collection, and the log's newest event stays, because the
numbering goes on from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eventsync.domain.positions import Seq


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many events, and how many bytes, are kept; 0 is without bound."""

    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SealedRange:
    """A segment: its last event, and how many bytes it takes."""

    last: Seq
    size: int


def wanted(head: Seq, aged: Seq, bounds: Bounds, sealed: Sequence[SealedRange] = ()) -> Seq:
    """The newest event that is too many, or too old: `aged` is the newest one of those. `sealed` comes in order."""
    counted = head - bounds.events if bounds.events else 0
    return Seq(max(0, aged, counted, _over(bounds.bytes, sealed)))


def _over(most: int, sealed: Sequence[SealedRange]) -> int:
    size = 0
    for segment in reversed(sealed):
        size += segment.size
        if most and size > most:
            return segment.last
    return 0


def allowed(tail: Seq, tallied: Seq, quiet_until: Iterable[Seq]) -> Seq:
    """The newest event that may leave MongoDB.

    `quiet_until` says of each tracked collection up to where its newest stored snapshot is what it was. So a collection
    in which nothing happens holds up no other.
    """
    return Seq(max(0, min([tail - 1, tallied, *quiet_until])))


def horizon(target: Seq, floor: Seq, sealed: Sequence[SealedRange]) -> Seq:
    """How far the horizon may go towards `target` among sealed events: segments go as a whole."""
    if target >= floor:
        return floor
    return max((segment.last for segment in sealed if segment.last <= target), default=Seq(0))
