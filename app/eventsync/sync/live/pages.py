"""Pages: runs of events of bounded size, which never split a transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from eventsync.concurrency.offload import Offload
from eventsync.domain.events import TransactionPart
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.views import View
from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.followed import followed
from eventsync.sync.live.redacting import prepared, redacted

MAX_UNSEEN: Final = 10_000
"""Events that are read for a page and are nothing to its readers. Then the page ends, with fewer events or none."""


@dataclass(frozen=True, slots=True)
class PageLimit:
    """A page is full at this many events or bytes. A transaction may exceed both, because it is never split."""

    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive events of a shape: their seqs and bodies.

    `full` is True if the limit ended the page, and more events follow. Such a page always ends at the same event: its
    last one, or `read_up_to` if it was ended by events behind that one that are nothing to the reader.
    """

    seqs: Sequence[Seq]
    bodies: Sequence[bytes]
    full: bool
    read_up_to: Seq | None = None

    @property
    def end(self) -> Seq | None:
        """Seq of the last event."""
        return self.seqs[-1] if self.seqs else None

    def up_to(self, head: Seq) -> Seq:
        """Return the seq up to which the page is complete, if it was read from all events up to `head`."""
        if not self.full:
            return head
        return self.seqs[-1] if self.read_up_to is None else self.read_up_to


class _Builder:
    """Appends events in order until the page is full."""

    def __init__(self, limit: PageLimit) -> None:
        self._limit = limit
        self._seqs: list[Seq] = []
        self._bodies: list[bytes] = []
        self._bytes = 0
        self._last: TransactionPart | None = None
        self._is_full = False

    def take(self, seq: Seq, body: bytes, transaction: TransactionPart | None) -> bool:
        """Append an event and return True; return False if the page is full and the event belongs to the next one."""
        if self._is_full and not _same_transaction(self._last, transaction):
            return False
        self._add([seq], [body], len(body), transaction)
        return True

    def take_from(self, batch: EventBatch, start: int) -> int:
        """Append events from index `start` on; return the index of the first one that belongs to the next page."""
        # One by one only where a transaction may cross the end of the page.
        if batch.transactions or self._last is not None:
            transaction_at = batch.transactions.get
            while start < len(batch.seqs) and self.take(batch.seqs[start], batch.bodies[start], transaction_at(start)):
                start += 1
            return start
        if self._is_full:
            return start
        # No event is of a transaction, so the first event that fills the page ends it.
        bodies = batch.bodies[start : start + self._limit.events - len(self._bodies)]
        sizes = list(accumulate(map(len, bodies), initial=self._bytes))
        count = min(bisect_left(sizes, self._limit.bytes), len(bodies))
        self._add(batch.seqs[start : start + count], bodies[:count], sizes[count] - self._bytes, None)
        return start + count

    def _add(self, seqs: Sequence[Seq], bodies: Sequence[bytes], size: int, last: TransactionPart | None) -> None:
        self._seqs += seqs
        self._bodies += bodies
        self._bytes += size
        self._last = last
        self._is_full = len(self._bodies) >= self._limit.events or self._bytes >= self._limit.bytes

    def page(self, *, full: bool, read_up_to: Seq | None = None) -> Page:
        return Page(self._seqs, self._bodies, full, read_up_to)


def _same_transaction(one: TransactionPart | None, other: TransactionPart | None) -> bool:
    """Return True if two consecutive events are of the same transaction."""
    return one is not None and other is not None and one.id == other.id


def page_of(events: Iterable[StoredEvent], limit: PageLimit) -> Page:
    """Return the first page of `events`."""
    builder = _Builder(limit)
    return builder.page(full=not all(builder.take(event.seq, event.body, event.transaction) for event in events))


async def pages_from(batches: AsyncIterable[EventBatch], limit: PageLimit, max_pages: int = 1) -> list[Page]:
    """Return the first pages of the events, between one and `max_pages`. Reads no more batches than they need."""
    pages: list[Page] = []
    builder = _Builder(limit)
    async for batch in batches:
        start = 0
        while (start := builder.take_from(batch, start)) < len(batch.seqs):
            pages.append(builder.page(full=True))
            if len(pages) == max_pages:
                return pages
            builder = _Builder(limit)
    return [*pages, builder.page(full=False)]


async def routed_pages(
    events: AsyncIterable[StoredEvent],
    route: Route | View,
    limit: PageLimit,
    max_pages: int = 1,
    *,
    offload: Offload,
) -> list[Page]:
    """Return the first pages of a route's or a view's events as its readers see them, between one and `max_pages`.

    A page also ends after `MAX_UNSEEN` events that its readers don't see.
    """
    pages: list[Page] = []
    builder = _Builder(limit)
    unseen = behind = 0  # in the page, and of these behind its last event
    async with aclosing(_transactions(events)) as transactions:
        async for transaction in transactions:
            bodies = await redacted(transaction, route, offload)
            shown = list(followed(transaction, route, prepared(bodies)))
            for event in shown:
                if not builder.take(event.seq, event.body, event.transaction):
                    pages.append(builder.page(full=True))
                    if len(pages) == max_pages:
                        return pages
                    builder, unseen = _Builder(limit), behind
                    builder.take(event.seq, event.body, event.transaction)
            unseen += len(transaction) - len(shown)
            # Only those behind the last event: the page ends there, and the next one has to begin in the same way.
            behind = sum(event.seq > shown[-1].seq for event in transaction) if shown else behind + len(transaction)
            if unseen >= MAX_UNSEEN:
                return [*pages, builder.page(full=True, read_up_to=transaction[-1].seq)]
    return [*pages, builder.page(full=False)]


async def _transactions(events: AsyncIterable[StoredEvent]) -> AsyncGenerator[list[StoredEvent]]:
    """Yield the events of each transaction at a time, and others one by one."""
    held: list[StoredEvent] = []
    async for event in events:
        if held and not _same_transaction(held[-1].transaction, event.transaction):
            yield held
            held = []
        held.append(event)
    if held:
        yield held
