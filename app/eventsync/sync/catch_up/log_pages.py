"""Pages of the log for HTTP clients: the events of a shape, and the history of a document."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, NamedTuple

from eventsync.access.access import Access
from eventsync.access.live import LiveAccess, LiveAccesses
from eventsync.concurrency.admission import ConnectionPlaces
from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.concurrency.waiting import LightEvent
from eventsync.domain import protocol
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape, Topic
from eventsync.errors import BehindRetention, ResetRequired
from eventsync.logging import Alarms
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.followed import followed
from eventsync.sync.live.pages import Page, PageLimit, page_of
from eventsync.sync.live.redacting import NO_BODIES, Unredacted, prepared, redacted

_alarms = Alarms(logging.getLogger(__name__))

_EVENT: Final = 100
"""Approximate memory of a cached event besides its body, in bytes."""


Watched = Callable[[Callable[[], None]], AbstractAsyncContextManager[None]]
"""Calls a function if the client disconnects while its block runs."""


def _unwatched(_: Callable[[], None]) -> AbstractAsyncContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of a shape's events. A `full` one never changes.

    `parts`: `{"shape", "from", "to", "events", "live"}` in pieces. The JSON of one event may have 90 MiB, and each copy
    of it would block the event loop for 20 ms.
    """

    parts: Sequence[bytes]
    start: Position
    end: Position
    events: int
    full: bool


@dataclass(frozen=True, slots=True)
class DocumentHistory:
    """A page of a document's encoded events.

    `end` is the position of the next page; None if there is none. `since` is the beginning of the retained log.
    """

    bodies: list[bytes]
    end: Position | None
    since: Position


class LogPages:
    """Reads pages; one instance a server process.

    A waiting poll holds a subscriber of the window and the place of a connection, and nothing else. Reads behind the
    window have the same admission for all transports.
    """

    def __init__(
        self,
        source: Source,
        stores: Stores,
        accesses: LiveAccesses,
        places: ConnectionPlaces,
        *,
        cache_bytes: int = 0,
    ) -> None:
        """Cache pages of documents' histories in up to `cache_bytes`. A poll that waits holds one of `places`."""
        self._histories: SingleFlight[DocumentHistory] = SingleFlight()
        self._pages: SingleFlight[Page] = SingleFlight()
        self._cache: LRUCache[_HistoryKey, DocumentHistory] = LRUCache(cache_bytes, _cost)
        self._source = source
        self._stores = stores
        self._accesses = accesses
        self._places = places
        self.waiting = 0
        """The number of polls that wait."""
        self._draining = asyncio.Event()

    async def page(
        self,
        shape: Shape,
        position: Position | None,
        access: Access,
        *,
        limit: int,
        wait: float,
        watched: Watched = _unwatched,
    ) -> LogPage:
        """Return the events after `position`, or those from now on. If there are none, wait up to `wait` s for one.

        The page is by the rules that are in force when it is returned. If the client of a `watched` poll disconnects,
        the wait ends, and nobody gets the page.

        Raises `ResetRequired`, `Unavailable` and `Unauthenticated`, and as `Source.bind`.
        """
        deadline = time.monotonic() + wait
        bound: Shape | None = None
        with self._accesses.open(access) as reader, self._source.window.subscribers() as subscribers:
            reader.wake = subscribers.event.set
            while True:
                # Cleared before the page is read: what is published meanwhile sets it again.
                subscribers.event.clear()
                if (
                    bound is None
                    or position is None
                    or reader.is_outdated
                    or not self._source.has_all_after(bound, position)
                ):
                    bound = self._bind(shape, reader)
                    subscribers.remove(shape)
                    subscribers.add(bound)
                    position = position or self._head(bound)
                    await self._check(bound, position)
                    # The check may have waited for MongoDB, and a gap or another log may have begun meanwhile.
                    if not self._source.has_all_after(bound, position):
                        continue
                page = await self._page(bound, position, limit)
                if reader.is_outdated:
                    continue
                if page.events or page.full or self._draining.is_set():
                    reader.require_data()
                    self._source.window.figures.polled += page.events
                    return page
                if not await self._wait(subscribers.event, deadline, watched) and not reader.is_outdated:
                    return page

    async def _wait(self, event: LightEvent, deadline: float, watched: Watched) -> bool:
        """Wait for `event`. Return False at the deadline, and once the client has disconnected.

        Raises `Unavailable` if the server has its maximum of connections.
        """
        seconds, is_gone = deadline - time.monotonic(), False
        if event.is_set() or seconds <= 0:
            return event.is_set()

        def end() -> None:
            nonlocal is_gone
            is_gone = True
            event.set()

        with self._places.held():
            self.waiting += 1
            try:
                async with watched(end):
                    return await event.wait(seconds) and not is_gone
            finally:
                self.waiting -= 1

    def _bind(self, shape: Shape, reader: LiveAccess) -> Shape:
        """Bind a shape by the present rules. Raises `Unauthenticated`, and as `Source.bind`."""
        reader.require_data()
        return self._source.bind(shape, reader.access)

    def drain(self) -> None:
        """Answer every waiting poll at once."""
        self._draining.set()
        self._source.window.wake_all()

    def _head(self, shape: Shape) -> Position:
        """Return the position of the newest event, in the log as clients of the shape know it."""
        return Position(scoped(self._source.log(), shape.scope), self._source.window.head)

    async def _check(self, shape: Shape, position: Position) -> None:
        planner = self._source.planner
        if reason := await planner.refusal(shape, position):
            self._source.window.figures.resets[reason.value] += 1
            raise ResetRequired(
                reason.value,
                f"{shape} can't be continued from {position}: take a snapshot",
                oldest=str(await planner.oldest(shape)),
                head=str(self._head(shape)),
            )

    async def _page(self, shape: Shape, position: Position, limit: int) -> LogPage:
        try:
            return await self._read_page(shape, position, limit)
        except BehindHorizon:
            self._source.planner.outdated()
            raise
        except Damaged as error:
            _alarms.log(f"what is stored is damaged: {error.diagnosis}")
            self._source.window.figures.resets[ResetReason.DAMAGED.value] += 1
            raise ResetRequired(ResetReason.DAMAGED.value, f"the events after {position} can't be read") from error

    async def _read_page(self, shape: Shape, position: Position, limit: int) -> LogPage:
        source = self._source
        log, bound = scoped(source.log(), shape.scope), PageLimit(limit, source.limit.bytes)
        page = await self._page_in_window(shape, position.seq, bound)
        # After that has waited: it has read what the window has now.
        head = source.window.head
        if page is None:
            page = await self._pages.fetch(
                (log, shape, shape.topic, position.seq, head, limit),
                lambda: source.behind.page(log, shape, position.seq, head, bound),
            )
        end = page.up_to(Seq(max(head, position.seq)))
        parts = protocol.events_page(shape, log, position.seq, end, page.bodies, live=not page.full)
        return LogPage(parts, position, Position(log, end), len(page.seqs), page.full)

    async def _page_in_window(self, shape: Shape, after: Seq, limit: PageLimit) -> Page | None:
        window, bodies = self._source.window, NO_BODIES
        while window.covers(after, shape):
            try:
                return page_of(window.events(shape, after, bodies), limit)
            except Unredacted as first:
                bodies = await window.redact(shape, first, bodies)
        return None

    async def history(
        self, shape: Shape, access: Access, *, after_version: int, after: Position | None, limit: int, max_bytes: int
    ) -> DocumentHistory:
        """Return a document's events after the position `after` with a version above `after_version`, in order.

        The page ends at `limit` events, or at the first one that reaches `max_bytes`. Of a document that the principal
        may not see all of, it has what the principal saw since the rules are active. It may have fewer events then, and
        counts those of a transaction that it has.

        Raises as `Source.bind`, `ResetRequired` if `after` is of another log, and `BehindRetention` if not
        all events after it are retained.
        """
        shape = self._source.bind(shape, access)
        log_id = self._source.log()
        if after is not None and after.log != log_id:
            raise ResetRequired(ResetReason.UNKNOWN_LOG.value, f"{after} is of another log than {log_id}")
        horizon = (await self._stores.tiers.read(log_id)).horizon
        # What an earlier tracking has left before `began` has a gap behind it.
        began = self._source.tracking.tracked_from(shape.collection) if shape.route is None else shape.route.since
        since = Position(log_id, Seq(max(horizon, began)))
        start = after or since
        if start.seq < since.seq:
            raise BehindRetention(f"the events after {start} are only kept from {since} on", since=str(since))
        key = _HistoryKey(shape, shape.topic, since, start, after_version, self._source.window.head, limit, max_bytes)
        if (history := self._cache.get(key)) is not None:
            return history
        history = await self._histories.fetch(key, lambda: self._read_history(key, shape))
        self._source.require_seen(shape, access, self._accesses.renewed(access))
        return history

    async def _read_history(self, key: _HistoryKey, shape: Shape) -> DocumentHistory:
        log_id, events = key.start.log, self._stores.events
        async with self._source.continuity.reading(), self._source.admissions["read"].admitted():
            page = await events.of_document(
                log_id,
                shape,
                after_version=key.above,
                after=key.start.seq,
                up_to=key.head,
                limit=key.limit,
                max_bytes=key.max_bytes,
            )
        if (route := shape.route) is not None:
            seen = prepared(await redacted(page, route, self._stores.offload))
            bodies = [event.body for event in followed(page, route, seen)]
        else:
            bodies = [event.body for event in page]
        is_full = len(page) == key.limit or sum(len(event.body) for event in page) >= key.max_bytes
        history = DocumentHistory(bodies, Position(log_id, page[-1].seq) if is_full else None, key.since)
        self._cache.keep(key, history)
        return history


class _HistoryKey(NamedTuple):
    """Key of a page of a document's history: everything that its content depends on."""

    shape: Shape
    topic: Topic
    since: Position
    start: Position
    above: int
    head: Seq
    limit: int
    max_bytes: int


def _cost(history: DocumentHistory) -> int:
    return sum(map(len, history.bodies)) + _EVENT * (1 + len(history.bodies))
