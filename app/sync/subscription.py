"""One shape of one client: from wherever the client stands to live, and on, without a hole.

A subscription is a cursor. It holds a position and, while a snapshot is read, the reading; never a queue.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from app.domain import messages
from app.domain.plan import Extent, ResetReason, refusal
from app.domain.position import LogId, Position, Seq, StateVector
from app.domain.shape import Shape
from app.errors import Unavailable
from app.stores.stores import Stores
from app.stores.tracking import Tracking
from app.sync.admission import Admission
from app.sync.pages import PageLimit, page_from
from app.sync.window import Frame, Window


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for the client, encoded; `kind` is its type."""

    kind: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Source:
    """What subscriptions read from: one for a whole server process."""

    stores: Stores
    window: Window
    tracking: Tracking
    bootstraps: Admission
    limit: PageLimit
    stale: Callable[[], bool]
    """Whether nobody has read the changes lately, so that there may be some that are no events yet."""

    def log(self) -> LogId:
        """The log in force. Raises `Unavailable` before the first worker has run."""
        if self.window.log is None:
            raise Unavailable("there is no event log yet: is a worker running?", retry_after=2.0)
        return self.window.log

    async def refusal(self, shape: Shape, position: Position) -> ResetReason | None:
        """Why the client can't go on from `position`. Raises `NotTracked` and `Unavailable`."""
        extent = Extent(self.log(), self.tracking.base(shape.collection), self.window.head)
        reason = refusal(position, extent)
        if reason is ResetReason.FUTURE:
            # Another server may have told the client of events that have not reached this one.
            tail = await self.stores.events.tail(extent.log)
            reason = None if tail is not None and position.seq <= tail.seq else reason
        return reason

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        """The next events of `shape` after `cursor`: from the window, or from the store where it reaches further back.

        Without any, `data` is empty and `end` is how far there are none.
        """
        if self.window.covers(cursor):
            head = max(cursor, self.window.head)
            return self.window.frame(shape, cursor) or Frame(cursor, head, b"")
        log, head = self.log(), self.window.head
        async with aclosing(self.stores.events.read(log, cursor, head, shape=shape)) as events:
            page = await page_from(events, self.limit)
        end = page.end if page.full and page.end is not None else head
        data = messages.events(shape, log, cursor, end, page.bodies) if page.events else b""
        return Frame(cursor, end, data)


class Subscription:
    """`position` is what the client has once it has taken what was sent; None while it has nothing whole."""

    def __init__(self, source: Source, shape: Shape, position: Position | None) -> None:
        self.shape = shape
        self.position = position
        self._source = source
        self.live = False

    async def outgoing(self) -> AsyncGenerator[Outgoing | None]:
        """What to send, for ever; None whenever there is nothing for now.

        Raises `NotTracked` and `Unavailable`.
        """
        while True:
            if self.position is not None and (reason := await self._refusal(self.position)):
                self.position = None
                yield Outgoing("reset", messages.reset(self.shape, reason.value))
            if self.position is None:
                async with aclosing(self._snapshot()) as parts:
                    async for part in parts:
                        yield part
                continue
            async with aclosing(self._events(self.position)) as following:
                async for message in following:
                    yield message

    async def _refusal(self, position: Position) -> ResetReason | None:
        self.live = False
        return await self._source.refusal(self.shape, position)

    async def _snapshot(self) -> AsyncGenerator[Outgoing]:
        """The shape's state, in parts of bounded size."""
        async with self._source.bootstraps.admitted():
            self._source.tracking.require(self.shape.collection)
            async with self._source.stores.snapshots.open(self._source.log(), self.shape) as snapshot:
                part, rows, size = 0, list[bytes](), 0
                async for document in snapshot.documents:
                    if rows and size + len(document.row) > self._source.limit.bytes:
                        data = messages.snapshot(snapshot.position, self.shape, part, rows, last=False)
                        yield Outgoing("snapshot", data)
                        part, rows, size = part + 1, [], 0
                    rows.append(document.row)
                    size += len(document.row)
                self.position = snapshot.position
                data = messages.snapshot(snapshot.position, self.shape, part, rows, last=True)
        yield Outgoing("snapshot", data)

    async def _events(self, position: Position) -> AsyncGenerator[Outgoing | None]:
        """The events after `position`, until the log is another one or the collection is tracked no longer."""
        told = position.seq
        while position.log == self._source.window.log and self.shape.collection in self._source.tracking:
            frame = await self._source.frame(self.shape, position.seq)
            if frame.data and frame.start > told:
                # It does not know yet that there was nothing of its shape in between, and would take that for a hole.
                yield Outgoing("progress", messages.progress({self.shape: position}))
            if frame.end > position.seq:
                self.position = position = Position(position.log, frame.end)
            if frame.data:
                told = frame.end
                yield Outgoing("events", frame.data)
            elif self._source.window.covers(position.seq) and not self.live:
                self.live, told = True, position.seq
                yield Outgoing("live", messages.live(self.shape, position))
            else:
                yield None


def vector_of(subscriptions: list[Subscription]) -> StateVector:
    """What the client has of each shape; a shape that it has nothing whole of is left out."""
    return {item.shape: item.position for item in subscriptions if item.position is not None}
