"""Frames behind the window, read from the store once for all cursors at the same position.

A frame never changes, so it is cached: after a restart, thousands of clients return from about the same position.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import aclosing

from eventsync.concurrency.admission import Admission
from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.domain import protocol
from eventsync.domain.positions import LogId, Seq, unscoped
from eventsync.domain.shapes import Shape, Topic
from eventsync.stores.log.events import EventStore
from eventsync.sync.live.continuity import Continuity
from eventsync.sync.live.pages import Page, PageLimit, pages_from, routed_pages
from eventsync.sync.live.window import Frame

logger = logging.getLogger(__name__)

_OVERHEAD = 500
"""Approximate memory of a frame besides its data, in bytes."""

_MEAN = 300.0
"""Assumed size of an event in bytes, before the first read."""

_MARGIN = 1.05
"""Ratio of requested to expected events of a page. Too few would take a second query."""

_PREFETCH = 8
"""Maximum frames of a prefetch, which may fill at most the 8th part of the cache."""

_TRACKED_READS = 1000
"""Reads whose end is remembered for prefetching."""

_Key = tuple[LogId, Shape, Topic, Seq]
"""The log, the shape, its topic, which tells what of the shape is seen, and the position."""


class StoreFrames:
    """A cache of frames, bounded in bytes, which reads and prefetches from the store."""

    def __init__(
        self,
        events: EventStore,
        continuity: Continuity,
        admission: Admission,
        limit: PageLimit,
        max_bytes: int,
        offload: Offload | None = None,
    ) -> None:
        """`offload` takes what is hidden out of large events."""
        self._offload = offload or inline()
        self._events = events
        self._continuity = continuity
        self._admission = admission
        self._limit = limit
        # A prefetch reads several frames: MongoDB answers at least four requests a read, however short it is.
        self._frames_a_read = max(1, min(_PREFETCH, max_bytes // (_PREFETCH * limit.bytes)))
        self._cache: LRUCache[_Key, Frame] = LRUCache(max_bytes, _cost)
        self._single_flight: SingleFlight[Frame] = SingleFlight()
        self._continues_at: OrderedDict[_Key, Seq] = OrderedDict()
        """End of each read that has more events behind it, by the key of its first frame."""
        self._prefetch_starts: OrderedDict[_Key, bool] = OrderedDict()
        """Keys at which a read has ended. A cursor there has read before, and will read several frames."""
        self._prefetches: set[asyncio.Task[Frame]] = set()
        self._mean = _MEAN
        """Mean size of an event in the last read; it determines how many events the next read requests."""
        self.reads = 0
        """Number of reads from the store."""

    async def frame(self, log: LogId, shape: Shape, cursor: Seq, head: Seq) -> Frame:
        """Return the shape's next frame after `cursor`, up to `head`; its `data` is empty if there are no events.

        `log` has the shape's scope, if it has one.

        Raises `Unavailable`, `Damaged` and `BehindHorizon`.
        """
        key = (log, shape, shape.topic, cursor)
        frame = self._cache.get(key)
        if frame is None:
            frame = await self._single_flight.fetch(key, lambda: self._read(key, shape, head))
        if (end := self._continues_at.pop(key, None)) is not None:
            # The client that is sent this frame needs the next ones soon, and MongoDB is idle until then.
            self._prefetch(log, shape, end, head)
        return frame

    def _prefetch(self, log: LogId, shape: Shape, cursor: Seq, head: Seq) -> None:
        key = (log, shape, shape.topic, cursor)
        if self._frames_a_read == 1 or self._cache.get(key) is not None:
            return
        reading = self._single_flight.fetch(key, lambda: self._read(key, shape, head))
        fetch = asyncio.get_running_loop().create_task(reading, name="prefetch frames")
        self._prefetches.add(fetch)
        fetch.add_done_callback(self._prefetched)

    def _prefetched(self, fetch: asyncio.Task[Frame]) -> None:
        self._prefetches.discard(fetch)
        if not fetch.cancelled() and (error := fetch.exception()) is not None:
            # A client that needs the frame reads it again, and gets the error.
            logger.debug("prefetching frames failed: %r", error)

    async def _read(self, key: _Key, shape: Shape, head: Seq) -> Frame:
        # Not the shape of the key: an equal one, of another reader, may be bound otherwise.
        log, _, topic, cursor = key
        max_frames = self._frames_a_read if self._prefetch_starts.pop(key, False) else 1
        frames: list[Frame] = []
        pages = await self._pages(log, shape, cursor, head, self._limit, max_frames)
        for page in pages:
            start = frames[-1].end if frames else cursor
            end = page.up_to(head)
            data = protocol.events(shape, log, start, end, page.bodies) if page.seqs else b""
            frames.append(Frame(start, end, data, len(page.seqs)))
            self._cache.keep((log, shape, topic, start), frames[-1])
        if pages[-1].full:
            self._continues_at[key] = frames[-1].end
            self._prefetch_starts[log, shape, topic, frames[-1].end] = True
            for tracked in (self._continues_at, self._prefetch_starts):
                while len(tracked) > _TRACKED_READS:
                    tracked.popitem(last=False)
        return frames[0]

    async def page(self, log: LogId, shape: Shape, cursor: Seq, head: Seq, limit: PageLimit) -> Page:
        """Return a page of another size, which is not cached. Raises what `frame` raises."""
        return (await self._pages(log, shape, cursor, head, limit, 1))[0]

    async def _pages(
        self, log: LogId, shape: Shape, cursor: Seq, head: Seq, limit: PageLimit, max_pages: int
    ) -> list[Page]:
        # One more event than the pages hold: if it exists, the last page is full.
        batch = 1 + max_pages * min(limit.events, 2 + int(_MARGIN * limit.bytes / self._mean))
        async with self._continuity.reading(), self._admission.admitted():
            self.reads += 1
            pages = await self._read_pages(unscoped(log), shape, cursor, head, limit, max_pages, batch)
        if count := sum(len(page.seqs) for page in pages):
            self._mean = max(1.0, sum(len(body) for page in pages for body in page.bodies) / count)
        return pages

    async def _read_pages(
        self, log: LogId, shape: Shape, cursor: Seq, head: Seq, limit: PageLimit, max_pages: int, batch: int
    ) -> list[Page]:
        if shape.route is not None:
            async with aclosing(self._events.read(log, cursor, head, shape=shape, batch=batch)) as events:
                return await routed_pages(events, shape.route, limit, max_pages, offload=self._offload)
        async with aclosing(self._events.event_batches(log, cursor, head, shape=shape, batch=batch)) as batches:
            return await pages_from(batches, limit, max_pages)

    @property
    def bytes(self) -> int:
        """Memory of the cached frames in bytes."""
        return self._cache.bytes


def _cost(frame: Frame) -> int:
    return len(frame.data) + _OVERHEAD
