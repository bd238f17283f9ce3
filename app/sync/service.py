"""The one door to syncing, for all transports."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.domain import messages
from app.domain.plan import ResetReason
from app.domain.position import Position, Seq, StateVector
from app.domain.replay import Damaged
from app.domain.shape import Shape
from app.errors import BehindRetention, RateLimited, ResetRequired
from app.settings import Settings
from app.stores.stores import SEQUENCING, Stores
from app.stores.tiers import BehindHorizon
from app.stores.tracking import Tracking
from app.sync.bootstrap import Bootstrap
from app.sync.feed import Feed
from app.sync.operating import Behind, behind
from app.sync.pages import PageLimit, page_from, page_of
from app.sync.session import Session
from app.sync.source import Source
from app.sync.window import Window
from app.waiting import set_within

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of the HTTP log: `body` is `{"shape", "from", "to", "events", "live"}`. A `full` one never changes."""

    body: bytes
    start: Position
    end: Position
    events: int
    full: bool


@dataclass(frozen=True, slots=True)
class History:
    """Some of a document's events, encoded. `end` is where to read on, None where there may be no more; `since` is
    where what is kept begins.
    """

    bodies: list[bytes]
    end: Position | None
    since: Position


@dataclass(frozen=True, slots=True)
class Health:
    """What `/readyz` answers. `lag_events` is how far this server is behind the log; `lag_seconds` how long ago the log
    was known to hold every change; `sequencer_live` whether somebody leads and gets on.
    """

    live: bool
    sequencer_live: bool
    leader: str | None
    position: str | None
    lag_events: int | None
    lag_seconds: float | None
    connections: int
    detail: str


class SyncService:
    """Sessions, log pages and snapshots over one feed."""

    def __init__(self, stores: Stores, settings: Settings, *, tailing: Stores | None = None) -> None:
        """`tailing`: the stores on a client of the feed's own, so that requests can't starve it of connections."""
        self._settings = settings
        self._stores = stores
        self.tracking = Tracking()
        limit = PageLimit(settings.frame_events, settings.frame_bytes)
        self.window = Window(settings.window_bytes, limit)
        self.feed = Feed(tailing or stores, self.window, self.tracking, settings)
        self.source = Source.of(stores, settings, self.window, self.tracking, limit=limit, stale=self.is_stale)
        self._sessions: set[Session] = set()
        self._empty = asyncio.Event()
        self._draining = asyncio.Event()

    # --- streams --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(
        self, shapes: Iterable[Shape], vector: StateVector, client_id: str | None
    ) -> AsyncIterator[Session]:
        """A session, for as long as the block runs. Raises `RateLimited` over the bound on connections."""
        if len(self._sessions) >= self._settings.max_connections:
            raise RateLimited(f"this server has its {self._settings.max_connections} connections already")
        with self.window.listening() as listener:
            session = Session(
                self.source,
                listener,
                client_id=client_id or uuid.uuid4().hex,
                heartbeat=self._settings.heartbeat,
                max_shapes=self._settings.max_shapes,
            )
            self._sessions.add(session)
            self._empty.clear()
            try:
                if self._draining.is_set():
                    session.close()
                for shape in shapes:
                    await session.request(messages.Subscribe(shape, vector.get(shape)))
                yield session
            finally:
                await session.aclose()
                self._sessions.discard(session)
                if not self._sessions:
                    self._empty.set()

    async def drain(self) -> None:
        """Say goodbye to every session and to every waiting poll; new ones end at once.

        Returns when all sessions have ended, or after the drain timeout.
        """
        self._draining.set()
        self.window.wake_all()
        for session in list(self._sessions):
            session.close()
        if self._sessions and not await set_within(self._empty, self._settings.drain_timeout):
            log.warning("%d sessions do not end within %g s", len(self._sessions), self._settings.drain_timeout)

    @property
    def connections(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    # --- pages ----------------------------------------------------------------------------------------------------

    async def page(self, shape: Shape, position: Position, *, limit: int, wait: float) -> LogPage:
        """The events after `position`; waits up to `wait` seconds for one where there is none.

        Raises `NotTracked`, `ResetRequired` and `Unavailable`.
        """
        await self._check(shape, position)
        deadline = time.monotonic() + wait
        with self.window.listening() as listener:
            listener.add(shape)
            while True:
                listener.event.clear()
                if position.log != self.window.log:
                    await self._check(shape, position)
                page = await self._page(shape, position, limit)
                if page.events or self._draining.is_set():
                    return page
                if not await set_within(listener.event, deadline - time.monotonic()):
                    return page

    async def _check(self, shape: Shape, position: Position) -> None:
        if reason := await self.source.planner.refusal(shape, position):
            raise ResetRequired(reason.value, f"{shape} can't be continued from {position}: take a snapshot")

    async def oldest(self, shape: Shape) -> Position:
        """The oldest position from which events lead on. Raises `NotTracked` and `Unavailable`."""
        return await self.source.planner.oldest(shape)

    async def _page(self, shape: Shape, position: Position, limit: int) -> LogPage:
        try:
            return await self._read_page(shape, position, limit)
        except BehindHorizon:
            self.source.planner.outdated()
            raise
        except Damaged as error:
            log.log(logging.ERROR, "%s: what is stored is damaged: %s", shape, error.message)
            raise ResetRequired(ResetReason.DAMAGED.value, f"the events after {position} can't be read") from error

    async def _read_page(self, shape: Shape, position: Position, limit: int) -> LogPage:
        log, head, bound = self.source.log(), self.window.head, PageLimit(limit, self._settings.frame_bytes)
        if self.window.covers(position.seq):
            page = page_of(self.window.events(shape, position.seq), bound)
        else:
            page = await page_from(self._stores.events.read(log, position.seq, head, shape=shape), bound)
        end = page.end if page.full and page.end is not None else Seq(max(head, position.seq))
        live = b"false" if page.full else b"true"
        members = messages.events_members(shape, log, position.seq, end, page.bodies)
        return LogPage(b'{%b,"live":%b}' % (members, live), position, Position(log, end), len(page.events), page.full)

    @asynccontextmanager
    async def snapshot(self, shape: Shape, *, live: bool = False) -> AsyncIterator[Bootstrap]:
        """The state of the shape at a position, for as long as the block runs. Raises `NotTracked` and `Unavailable`.

        With `live` it is read from the collection itself, whatever is stored.
        """
        self.tracking.require(shape.collection)
        async with self.source.bootstraps.open(shape, live=live) as bootstrap:
            yield bootstrap

    async def history(self, shape: Shape, *, after_version: int, after: Position | None, limit: int) -> History:
        """A document's events with a version above `after_version` and behind `after`, in order, at most `limit`.

        Raises `NotTracked`, `Unavailable`, `ResetRequired` where `after` is of another log, and `BehindRetention` where
        what follows on it is not all kept.
        """
        self.tracking.require(shape.collection)
        log_id = self.source.log()
        if after is not None and after.log != log_id:
            raise ResetRequired(ResetReason.UNKNOWN_LOG.value, f"{after} is of another log than {log_id}")
        since = Position(log_id, (await self._stores.tiers.read(log_id)).horizon)
        start = after or since
        if start.seq < since.seq:
            raise BehindRetention(f"what followed on {start} is kept from {since} on only", since=str(since))
        found = await self._stores.events.of_document(
            log_id, shape, after_version=after_version, after=start.seq, upto=self.window.head, limit=limit
        )
        end = Position(log_id, found[-1].seq) if len(found) == limit else None
        return History([event.body for event in found], end, since)

    def behind(self) -> Behind:
        """How far the clients are that are connected here."""
        return behind(self.window, (session.vector for session in self._sessions))

    def is_stale(self) -> bool:
        """Whether the sequencer has not been seen at work for `stale_after` seconds."""
        return self._lag() > self._settings.stale_after

    def _lag(self) -> float:
        return time.monotonic() - self.feed.state.sequenced

    # --- health ---------------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Asks MongoDB once for the lease and the log's tail. Raises `Unavailable`."""
        if not self.feed.state.heard:
            # Not asked while MongoDB is waited for: who asks for health wants to know soon.
            return Health(False, False, None, None, None, None, self.connections, self.feed.state.detail)
        lease = await self._stores.leases.read(SEQUENCING)
        log = self.window.log
        tail = await self._stores.events.tail(log) if log else None
        never = not self.feed.state.sequenced
        fresh = time.monotonic() - self.feed.state.heard < 3 * self._settings.mongodb_timeout
        return Health(
            live=self.feed.state.live and fresh and log is not None,
            sequencer_live=lease is not None and lease.live and not self.is_stale(),
            leader=lease.owner if lease and lease.live else None,
            position=f"{log}:{self.window.head}" if log else None,
            lag_events=(tail.seq if tail else 0) - self.window.head if log else None,
            lag_seconds=None if never else round(self._lag(), 3),
            connections=self.connections,
            detail=self.feed.state.detail,
        )
