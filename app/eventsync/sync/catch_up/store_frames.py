"""Frames for cursors behind the window, read from the store: once for all who stand at the same place.

What a frame says stays true: these are the shape's events of its span. So it is kept for the next ones, while there is
room; after a restart a thousand clients come back from about the same place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import aclosing

from eventsync.concurrency.admission import Admission
from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.domain import protocol
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.events import EventStore
from eventsync.sync.live.pages import Page, PageLimit, pages_from
from eventsync.sync.live.window import Frame

logger = logging.getLogger(__name__)

_OVERHEAD = 500
"""What a frame costs here besides its bytes, roughly."""

_MEAN = 300.0
"""Bytes of an event, before any was read."""

_MARGIN = 1.05
"""Events of a page that are asked for, of those that it is thought to have. With too few, there is another query."""

_AT_ONCE = 8
"""Frames that are read at a time, at most, and the share of the cache that they may fill."""

_MOST_READS = 1000
"""Reads of which it is known where they are gone on from."""

_Key = tuple[LogId, Shape, Seq]


class StoreFrames:
    """The frames used last, bounded in bytes."""

    def __init__(self, events: EventStore, admission: Admission, limit: PageLimit, most_bytes: int) -> None:
        self._events = events
        self._admission = admission
        self._limit = limit
        # Read ahead are several: a read takes MongoDB four answers, however short it is.
        self._at_once = max(1, min(_AT_ONCE, most_bytes // (_AT_ONCE * limit.bytes)))
        self._kept: LRUCache[_Key, Frame] = LRUCache(most_bytes, _cost)
        self._flights: SingleFlight[Frame] = SingleFlight()
        self._gone_on_from: OrderedDict[_Key, Seq] = OrderedDict()
        """The first frame of a read that was not the last one → where the next read begins."""
        self._ahead: OrderedDict[_Key, bool] = OrderedDict()
        """Where they begin: whoever asks for that has come from before, and goes on."""
        self._fetches: set[asyncio.Task[Frame]] = set()
        self._mean = _MEAN
        """Bytes of an event in what was read last: so many are asked for as the pages will have."""
        self.reads = 0
        """How many frames were read from the store."""

    async def frame(self, log: LogId, shape: Shape, cursor: Seq, head: Seq) -> Frame:
        """The next events of `shape` after `cursor`, up to `head` at most; `data` is empty where there are none.

        Raises `Unavailable`, `Damaged` and `BehindHorizon`.
        """
        key = (log, shape, cursor)
        frame = self._kept.get(key)
        if frame is None:
            frame = await self._flights.fetch(key, lambda: self._read(key, head))
        if (end := self._gone_on_from.pop(key, None)) is not None:
            # Whoever begins with these will want those behind them, and meanwhile MongoDB has nothing to do.
            self._fetch_ahead(log, shape, end, head)
        return frame

    def _fetch_ahead(self, log: LogId, shape: Shape, cursor: Seq, head: Seq) -> None:
        key = (log, shape, cursor)
        if self._at_once == 1 or self._kept.get(key) is not None:
            return
        reading = self._flights.fetch(key, lambda: self._read(key, head))
        fetch = asyncio.get_running_loop().create_task(reading, name="read ahead")
        self._fetches.add(fetch)
        fetch.add_done_callback(self._fetched)

    def _fetched(self, fetch: asyncio.Task[Frame]) -> None:
        self._fetches.discard(fetch)
        if not fetch.cancelled() and (error := fetch.exception()) is not None:
            # Whoever needs it asks again, and is told.
            logger.debug("reading ahead failed: %r", error)

    async def _read(self, key: _Key, head: Seq) -> Frame:
        log, shape, cursor = key
        most = self._at_once if self._ahead.pop(key, False) else 1
        frames: list[Frame] = []
        pages = await self._pages(log, shape, cursor, head, self._limit, most)
        for page in pages:
            start = frames[-1].end if frames else cursor
            end = page.up_to(head)
            data = protocol.events(shape, log, start, end, page.bodies) if page.seqs else b""
            frames.append(Frame(start, end, data))
            self._kept.keep((log, shape, start), frames[-1])
        if pages[-1].full:
            self._gone_on_from[key] = frames[-1].end
            self._ahead[log, shape, frames[-1].end] = True
            for known in (self._gone_on_from, self._ahead):
                while len(known) > _MOST_READS:
                    known.popitem(last=False)
        return frames[0]

    async def page(self, log: LogId, shape: Shape, cursor: Seq, head: Seq, limit: PageLimit) -> Page:
        """The same as a page of another size, read anew. Raises the same."""
        return (await self._pages(log, shape, cursor, head, limit, 1))[0]

    async def _pages(self, log: LogId, shape: Shape, cursor: Seq, head: Seq, limit: PageLimit, most: int) -> list[Page]:
        # One more than the pages have: that there is one tells that the last of them is full.
        batch = 1 + most * min(limit.events, 2 + int(_MARGIN * limit.bytes / self._mean))
        async with (
            self._admission.admitted(),
            aclosing(self._events.event_batches(log, cursor, head, shape=shape, batch=batch)) as event_batches,
        ):
            self.reads += 1
            pages = await pages_from(event_batches, limit, most)
        if count := sum(len(page.seqs) for page in pages):
            self._mean = max(1.0, sum(len(body) for page in pages for body in page.bodies) / count)
        return pages

    @property
    def bytes(self) -> int:
        """What the frames that are kept take now."""
        return self._kept.bytes


def _cost(frame: Frame) -> int:
    return len(frame.data) + _OVERHEAD
