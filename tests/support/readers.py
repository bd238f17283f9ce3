"""Readers whose rules a test changes at any moment, and a source whose reads a test lets come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from eventsync.access.access import Access
from eventsync.access.audit import Refusals
from eventsync.domain.plan import Answer, Plan, ResetReason, ServableRange, refusal
from eventsync.domain.positions import START, LogId, Position, Seq, scoped
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.domain.views import View
from eventsync.errors import EventsyncError, Unauthenticated, Unavailable
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.catch_up.binder import forbidden
from eventsync.sync.catch_up.bootstrap import Bootstrap
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.pages import Page, PageLimit
from eventsync.sync.live.window import Frame, Window
from support.logs_by_hand import event, seen_shape

LOG = LogId("aaaaaaaa")
A, B = b"a" * 16, b"b" * 16
ORDERS = Shape("orders")


@dataclass(eq=False)
class Reader:
    """An access: what a client sees of `orders`, or why it sees nothing."""

    sees: Shape | EventsyncError
    sub: str = "ada"
    expires: float | None = None
    is_open: bool = False
    credential: str = ""

    @property
    def principal(self) -> Reader:
        return self


def sees(*keys: bytes) -> Reader:
    return Reader(seen_shape("orders", keys))


FORBIDDEN = forbidden(ORDERS)


class Rules:
    """An access control whose rules a test replaces."""

    def __init__(self, reader: Reader) -> None:
        self.changes = 0
        self.on_change: list[Callable[[], None]] = []
        self.refusals = Refusals()
        self.reader: Reader | EventsyncError = reader
        self.tokens: dict[str, Reader] = {}
        self.verified: asyncio.Event | None = None
        """Set when a token that is being verified may count; None if at once."""
        self.time = 0.0

    def change(self, reader: Reader | EventsyncError) -> None:
        self.reader = reader
        self.changes += 1
        for callback in self.on_change:
            callback()

    def renewed(self, _: Access) -> Reader:
        if isinstance(self.reader, EventsyncError):
            raise self.reader
        return self.reader

    def is_current(self, access: Access) -> bool:
        return cast("Reader", access) is self.reader

    async def authenticate(self, token: str, source: str) -> Reader:
        assert source == "sub:ada"
        if token not in self.tokens:
            raise Unauthenticated("token_invalid")
        self.reader = reader = self.tokens[token]
        if self.verified is not None:
            await self.verified.wait()
        return reader

    def now(self) -> float:
        return self.time


class Server:
    """A source whose window holds all events after seq 10. Reads of the store and of snapshots wait for a test."""

    def __init__(self) -> None:
        self.window = Window(1_000_000, PageLimit(1000, 1_000_000))
        self.window.start(LOG, Seq(10))
        self.continuity = SimpleNamespace(is_following=True)
        self.planner = self.bootstraps = self.catch_ups = self.behind = self
        self.limit = PageLimit(1000, 1)
        self.answer = Answer.EVENTS
        self.store = asyncio.Semaphore(0)
        self.changed = asyncio.Event()
        self.reads: list[Shape] = []
        self.during: Callable[[], None] | None = None
        """Called while the window is read."""
        self.is_interrupted = False
        """True if the log lacks events after all positions, until something is planned again."""
        self.plans: asyncio.Semaphore | None = None
        """Plans that may be made; None for any number."""
        self.planning: Callable[[], None] | None = None
        """Called before a subscription is planned."""
        self.views: dict[str, Shape] | None = None
        """Views by shape; None for those of the reader."""

    def release(self, count: int = 1) -> None:
        """Let some reads of the store, or batches of a snapshot, come."""
        for _ in range(count):
            self.store.release()

    def bind(self, shape: Shape, access: Access) -> Shape:
        seen = cast("Reader", access).sees
        if isinstance(seen, EventsyncError):
            raise seen
        if self.views is not None:
            return self.views[str(shape)]
        assert isinstance(seen.route, View)
        return seen_shape(str(shape), *seen.route.clauses)

    def is_same(self, _shape: Shape, _by: Access, _now: Access) -> bool:
        return False

    async def wait_until_servable(self, _: Shape, access: Callable[[], Access]) -> None:
        if self.planning is not None:
            self.planning()
        while isinstance(cast("Reader", access()).sees, Unavailable):
            self.changed.clear()
            await self.changed.wait()

    def stale(self) -> bool:
        return False

    def has_all_after(self, shape: Shape, position: Position) -> bool:
        return position.log == self.window.log_of(shape) and not self.is_interrupted

    async def has_all_between(self, shape: Shape, start: Position, _: Position) -> bool:
        return self.has_all_after(shape, start)

    def log(self) -> LogId:
        return LOG

    async def refusal(self, shape: Shape, position: Position) -> ResetReason | None:
        return refusal(position, ServableRange(scoped(LOG, shape.scope), self.window.head, START))

    async def oldest(self, shape: Shape) -> Position:
        return Position(scoped(LOG, shape.scope), START)

    async def plan(self, shape: Shape, position: Position, _: frozenset[Answer]) -> Plan:
        self.is_interrupted = False
        if self.plans is not None:
            await self.plans.acquire()
        reason = await self.refusal(shape, position)
        return Plan(self.answer if reason is None else Answer.SNAPSHOT, 0.0, reason)

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        if self.window.covers(cursor, shape):
            if self.during is not None:
                self.during()
            return await Source.frame(cast("Source", SimpleNamespace(window=self.window)), shape, cursor)
        self.reads.append(shape)
        await self.store.acquire()
        return Frame(cursor, Seq(10), _frame(shape, cursor))

    async def page(self, _log: LogId, shape: Shape, _cursor: Seq, _head: Seq, _limit: PageLimit) -> Page:
        self.reads.append(shape)
        await self.store.acquire()
        return Page([Seq(9)], [b'{"seq":9,"of":"%s"}' % shape.scope.encode()], full=False)

    @asynccontextmanager
    async def open(self, shape: Shape, start: Position | None = None, **_: Any) -> AsyncIterator[Any]:
        self.reads.append(shape)
        position = Position(scoped(LOG, shape.scope), self.window.head)
        found = Bootstrap(shape, position, self._rows(shape))
        yield found if start is None else SimpleNamespace(end=position, rows=found.rows)

    async def _rows(self, shape: Shape) -> AsyncIterator[list[bytes]]:
        for number in range(3):
            await self.store.acquire()
            yield [b'{"id":"%d","of":"%s"}' % (number, shape.scope.encode())]


def _frame(shape: Shape, cursor: Seq) -> bytes:
    log = scoped(LOG, shape.scope)
    return b'{"type":"events","from":"%s:%d","to":"%s:10","events":[{"stored":true}]}' % (
        log.encode(), cursor, log.encode()
    )  # fmt: skip


def of(key: bytes, seq: int, collection: str = "orders") -> StoredEvent:
    return event(seq, collection, routes=Routes((key,)))
