"""The log as pages: what HTTP clients follow, and a document's history."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.domain import protocol
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.errors import BehindRetention, ResetRequired
from eventsync.logging import Alarms
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.pages import PageLimit, page_of

_alarms = Alarms(logging.getLogger(__name__))

_EVENT: Final = 100
"""Bytes that an event takes in the cache besides its own, roughly."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of the HTTP log: `body` is `{"shape", "from", "to", "events", "live"}`. A `full` one never changes."""

    body: bytes
    start: Position
    end: Position
    events: int
    full: bool


@dataclass(frozen=True, slots=True)
class DocumentHistory:
    """Some of a document's events, encoded. `end` is where to read on, None where there may be no more; `since` is
    where what is kept begins.
    """

    bodies: list[bytes]
    end: Position | None
    since: Position


class LogPages:
    """One for a whole server process. A poll that waits holds a place in the window's list of listeners, no more.

    What is behind the window is read by a few at a time, whatever transport they use.
    """

    def __init__(self, source: Source, stores: Stores, *, cache_bytes: int = 0) -> None:
        """The pages of documents' histories that were read last are kept in `cache_bytes`."""
        self._histories: SingleFlight[DocumentHistory] = SingleFlight()
        self._known: LRUCache[_Page, DocumentHistory] = LRUCache(cache_bytes, _cost)
        self._source = source
        self._stores = stores
        self._draining = asyncio.Event()

    async def page(self, shape: Shape, position: Position, *, limit: int, wait: float) -> LogPage:
        """The events after `position`; waits up to `wait` seconds for one where there is none.

        Raises `NotTracked`, `ResetRequired` and `Unavailable`.
        """
        await self._check(shape, position)
        deadline = time.monotonic() + wait
        with self._source.window.subscribers() as subscribers:
            subscribers.add(shape)
            while True:
                subscribers.event.clear()
                if position.log != self._source.window.log:
                    await self._check(shape, position)
                page = await self._page(shape, position, limit)
                if page.events or self._draining.is_set():
                    return page
                if not await subscribers.event.within(deadline - time.monotonic()):
                    return page

    def drain(self) -> None:
        """Have every waiting poll answered, as it is."""
        self._draining.set()
        self._source.window.wake_all()

    async def _check(self, shape: Shape, position: Position) -> None:
        if reason := await self._source.planner.refusal(shape, position):
            raise ResetRequired(reason.value, f"{shape} can't be continued from {position}: take a snapshot")

    async def _page(self, shape: Shape, position: Position, limit: int) -> LogPage:
        try:
            return await self._read_page(shape, position, limit)
        except BehindHorizon:
            self._source.planner.outdated()
            raise
        except Damaged as error:
            _alarms.tell(f"what is stored is damaged: {error.diagnosis}")
            raise ResetRequired(ResetReason.DAMAGED.value, f"the events after {position} can't be read") from error

    async def _read_page(self, shape: Shape, position: Position, limit: int) -> LogPage:
        source = self._source
        log, head, bound = source.log(), source.window.head, PageLimit(limit, source.limit.bytes)
        if source.window.covers(position.seq, shape):
            page = page_of(source.window.events(shape, position.seq), bound)
        else:
            page = await source.behind.page(log, shape, position.seq, head, bound)
        end = page.up_to(Seq(max(head, position.seq)))
        live = b"false" if page.full else b"true"
        members = protocol.events_members(shape, log, position.seq, end, page.bodies)
        return LogPage(b'{%b,"live":%b}' % (members, live), position, Position(log, end), len(page.seqs), page.full)

    async def history(
        self, shape: Shape, *, after_version: int, after: Position | None, limit: int, most_bytes: int
    ) -> DocumentHistory:
        """A document's events with a version above `after_version` and behind `after`, in order.

        At most `limit`, and none behind those that have `most_bytes`.

        Raises `NotTracked`, `Unavailable`, `ResetRequired` where `after` is of another log, and `BehindRetention` where
        what follows on it is not all kept.
        """
        self._source.tracking.require(shape.collection)
        log_id = self._source.log()
        if after is not None and after.log != log_id:
            raise ResetRequired(ResetReason.UNKNOWN_LOG.value, f"{after} is of another log than {log_id}")
        since = Position(log_id, (await self._stores.tiers.read(log_id)).horizon)
        start = after or since
        if start.seq < since.seq:
            raise BehindRetention(f"what followed on {start} is kept from {since} on only", since=str(since))
        key = _Page(shape, since, start, after_version, self._source.window.head, limit, most_bytes)
        if (known := self._known.get(key)) is not None:
            return known
        return await self._histories.fetch(key, lambda: self._read_history(key))

    async def _read_history(self, key: _Page) -> DocumentHistory:
        log_id, events = key.start.log, self._stores.events
        async with self._source.admissions["read"].admitted():
            found = await events.of_document(
                log_id,
                key.shape,
                after_version=key.above,
                after=key.start.seq,
                up_to=key.head,
                limit=key.limit,
                most_bytes=key.most_bytes,
            )
        bodies = [event.body for event in found]
        is_full = len(found) == key.limit or sum(map(len, bodies)) >= key.most_bytes
        history = DocumentHistory(bodies, Position(log_id, found[-1].seq) if is_full else None, key.since)
        self._known.keep(key, history)
        return history


class _Page(NamedTuple):
    """The key of a page of a document's history: all that its content depends on."""

    shape: Shape
    since: Position
    start: Position
    above: int
    head: Seq
    limit: int
    most_bytes: int


def _cost(history: DocumentHistory) -> int:
    return sum(map(len, history.bodies)) + _EVENT * (1 + len(history.bodies))
