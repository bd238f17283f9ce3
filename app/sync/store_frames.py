"""Frames for cursors behind the window, read from the store: once for all who stand at the same place.

What a frame says stays true: these are the shape's events of its span. So it is kept for the next ones, while there is
room; after a restart a thousand clients come back from about the same place.
"""

from __future__ import annotations

from contextlib import aclosing

from app.byte_cache import ByteCache
from app.domain import messages
from app.domain.position import LogId, Seq
from app.domain.shape import Shape
from app.stores.events import EventStore
from app.sync.admission import Admission
from app.sync.flights import Flights
from app.sync.pages import Page, PageLimit, pages_from
from app.sync.window import Frame

_OVERHEAD = 500
"""What a frame costs here besides its bytes, roughly."""

_AT_ONCE = 8
"""Frames that are read at a time, at most, and the share of the cache that they may fill."""

_Key = tuple[LogId, Shape, Seq]


class StoreFrames:
    """The frames used last, bounded in bytes."""

    def __init__(self, events: EventStore, admission: Admission, limit: PageLimit, most_bytes: int) -> None:
        self._events = events
        self._admission = admission
        self._limit = limit
        # The next ones, too, which who is so far behind will ask for: a read takes MongoDB four answers, however short.
        self._at_once = max(1, min(_AT_ONCE, most_bytes // (_AT_ONCE * limit.bytes)))
        self._kept: ByteCache[_Key, Frame] = ByteCache(most_bytes, _cost)
        self._flights: Flights[Frame] = Flights()
        self.reads = 0
        """How many frames were read from the store."""

    async def frame(self, log: LogId, shape: Shape, cursor: Seq, head: Seq) -> Frame:
        """The next events of `shape` after `cursor`, up to `head` at most; `data` is empty where there are none.

        Raises `Unavailable`, `Damaged` and `BehindHorizon`.
        """
        key = (log, shape, cursor)
        if (known := self._kept.get(key)) is not None:
            return known
        return await self._flights.fetch(key, lambda: self._read(key, head))

    async def _read(self, key: _Key, head: Seq) -> Frame:
        log, shape, cursor = key
        frames: list[Frame] = []
        for page in await self._pages(log, shape, cursor, head, self._limit, self._at_once):
            start = frames[-1].end if frames else cursor
            end = page.upto(head)
            data = messages.events(shape, log, start, end, page.bodies) if page.events else b""
            frames.append(Frame(start, end, data))
            self._kept.keep((log, shape, start), frames[-1])
        return frames[0]

    async def page(self, log: LogId, shape: Shape, cursor: Seq, head: Seq, limit: PageLimit) -> Page:
        """The same as a page of another size, read anew. Raises the same."""
        return (await self._pages(log, shape, cursor, head, limit, 1))[0]

    async def _pages(self, log: LogId, shape: Shape, cursor: Seq, head: Seq, limit: PageLimit, most: int) -> list[Page]:
        async with (
            self._admission.admitted(),
            aclosing(self._events.batches(log, cursor, head, shape=shape)) as batches,
        ):
            self.reads += 1
            return await pages_from(batches, limit, most)

    @property
    def bytes(self) -> int:
        """What the frames that are kept take now."""
        return self._kept.bytes


def _cost(frame: Frame) -> int:
    return len(frame.data) + _OVERHEAD
