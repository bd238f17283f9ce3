"""Retention: the events that leave MongoDB, and those that are removed. Pure.

The policy says what should go (`wanted`); safety, what may (`allowed`): whatever happens, the newest stored snapshot of
each tracked collection and the events in MongoDB are the collection, and the log's newest event stays, because the
numbering continues from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eventsync.domain.positions import Seq


@dataclass(frozen=True, slots=True)
class Bounds:
    """The events and bytes to keep; 0 means unbounded."""

    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SealedRange:
    """A segment: its last event, and its size in bytes."""

    last: Seq
    size: int


def wanted(head: Seq, aged: Seq, bounds: Bounds, sealed: Sequence[SealedRange] = ()) -> Seq:
    """Return the newest event beyond the bounds or the age limit. `aged` is the newest event that is too old."""
    counted = head - bounds.events if bounds.events else 0
    return Seq(max(0, aged, counted, _over(bounds.bytes, sealed)))


def _over(max_bytes: int, sealed: Sequence[SealedRange]) -> int:
    size = 0
    for segment in reversed(sealed):
        size += segment.size
        if max_bytes and size > max_bytes:
            return segment.last
    return 0


def allowed(tail: Seq, counted_up_to: Seq, quiet_until: Iterable[Seq]) -> Seq:
    """Return the newest event that may leave MongoDB.

    `quiet_until` has, for each tracked collection, the last event up to which its newest stored snapshot is current. A
    collection without changes therefore does not hold up others.
    """
    return Seq(max(0, min([tail - 1, counted_up_to, *quiet_until])))


def horizon(target: Seq, archived_up_to: Seq, sealed: Sequence[SealedRange]) -> Seq:
    """Return the horizon nearest to `target` that does not split a segment."""
    if target >= archived_up_to:
        return archived_up_to
    return max((segment.last for segment in sealed if segment.last <= target), default=Seq(0))
