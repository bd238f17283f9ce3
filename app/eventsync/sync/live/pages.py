"""Cutting a run of events into frames and pages of bounded size, never inside a transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from eventsync.domain.events import Group
from eventsync.domain.positions import Seq
from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.stored_event import StoredEvent


@dataclass(frozen=True, slots=True)
class PageLimit:
    """A page is full when it has this many events or bytes. One transaction may exceed either: it is never split."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some events in order, by number and body.

    `full`: more follow; the cut was made by size, and is made at the same place every time.
    """

    seqs: Sequence[Seq]
    bodies: Sequence[bytes]
    full: bool

    @property
    def end(self) -> Seq | None:
        """The last event's seq."""
        return self.seqs[-1] if self.seqs else None

    def up_to(self, head: Seq) -> Seq:
        """Up to where it says everything, having been made of all events up to `head`."""
        return self.seqs[-1] if self.full else head


class _Builder:
    """Takes events in order until the page is full."""

    def __init__(self, limit: PageLimit) -> None:
        self._limit = limit
        self._seqs: list[Seq] = []
        self._bodies: list[bytes] = []
        self._bytes = 0
        self._last: Group | None = None
        self._is_full = False

    def take(self, seq: Seq, body: bytes, group: Group | None) -> bool:
        """Add an event; False, and not added, when the page is full and the event begins the next one."""
        if self._is_full and not _together(self._last, group):
            return False
        self._add([seq], [body], len(body), group)
        return True

    def take_from(self, event_batch: EventBatch, place: int) -> int:
        """Add events from `place` on; the place of the first one that is not added, and begins the next page."""
        if event_batch.groups or self._last is not None:
            groups = event_batch.groups.get
            while place < len(event_batch.seqs) and self.take(
                event_batch.seqs[place], event_batch.bodies[place], groups(place)
            ):
                place += 1
            return place
        if self._is_full:
            return place
        # None is of a transaction, so it is the first event that fills the page that is its last.
        bodies = event_batch.bodies[place : place + self._limit.events - len(self._bodies)]
        sizes = list(accumulate(map(len, bodies), initial=self._bytes))
        count = min(bisect_left(sizes, self._limit.bytes), len(bodies))
        self._add(event_batch.seqs[place : place + count], bodies[:count], sizes[count] - self._bytes, None)
        return place + count

    def _add(self, seqs: Sequence[Seq], bodies: Sequence[bytes], size: int, last: Group | None) -> None:
        self._seqs += seqs
        self._bodies += bodies
        self._bytes += size
        self._last = last
        self._is_full = len(self._bodies) >= self._limit.events or self._bytes >= self._limit.bytes

    def page(self, *, full: bool) -> Page:
        return Page(self._seqs, self._bodies, full)


def _together(one: Group | None, other: Group | None) -> bool:
    """Whether two neighbours are of the same transaction."""
    return one is not None and other is not None and one.id == other.id


def page_of(events: Iterable[StoredEvent], limit: PageLimit) -> Page:
    """The first page of `events`."""
    builder = _Builder(limit)
    return builder.page(full=not all(builder.take(event.seq, event.body, event.group) for event in events))


async def pages_from(event_batches: AsyncIterable[EventBatch], limit: PageLimit, most: int = 1) -> list[Page]:
    """The first pages of some events, at most so many, reading no passage further than that needs; one at least."""
    pages: list[Page] = []
    builder = _Builder(limit)
    async for event_batch in event_batches:
        place = 0
        while (place := builder.take_from(event_batch, place)) < len(event_batch.seqs):
            pages.append(builder.page(full=True))
            if len(pages) == most:
                return pages
            builder = _Builder(limit)
    return [*pages, builder.page(full=False)]
