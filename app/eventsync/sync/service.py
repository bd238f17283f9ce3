"""The SyncService: the feed, the window, and everything that serves clients from them, wired together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.access.live import LiveAccesses
from eventsync.concurrency.admission import ConnectionPlaces
from eventsync.domain.shapes import Shape
from eventsync.errors import Forbidden, NotTracked, Unauthenticated, Unavailable, UnknownShape
from eventsync.mongodb.primary import primary_process
from eventsync.settings import Settings
from eventsync.stores.log.definitions import Definitions
from eventsync.stores.log.tracking import Tracking
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.bootstrap import Bootstrap
from eventsync.sync.catch_up.log_pages import LogPages
from eventsync.sync.catch_up.source import Source
from eventsync.sync.clients.lag import ClientLag
from eventsync.sync.clients.state_vectors import StateVectorManager
from eventsync.sync.clients.vector_writer import VectorWriter
from eventsync.sync.live.barriers import Barriers
from eventsync.sync.live.continuity import Continuity
from eventsync.sync.live.feed import Feed
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window
from eventsync.sync.operations import ArchiveState, Health, HealthCheck
from eventsync.sync.sessions.sessions import Sessions


class SyncService:
    """Entry point of all transports: `sessions` for streams, `pages` for polls, `vectors` for both."""

    def __init__(
        self,
        stores: Stores,
        settings: Settings,
        *,
        tailing: Stores | None = None,
        access: AccessControl | None = None,
    ) -> None:
        """`tailing` are stores of the feed's own: requests can't use up their connections and their helper processes.

        Without `access`, as for an operator's command, rules are not obeyed.
        """
        obeyed = access or AccessControl.open(stores.credentials, settings)
        self._stores = stores
        self._control = obeyed
        self.tracking = Tracking()
        self.definitions = Definitions(self.tracking)
        limit = PageLimit(settings.frame_events, settings.frame_bytes)
        self.window = Window(settings.window_bytes, limit, (tailing or stores).offload)
        self.continuity = Continuity(lambda: primary_process(stores.log), settings.send_timeout)
        self.feed = Feed(
            tailing or stores,
            self.window,
            self.continuity,
            self.tracking,
            self.definitions,
            settings,
            access,
        )
        self._health = HealthCheck(stores, self.feed, self.window, settings)
        self.source = Source.of(
            stores,
            settings,
            self.window,
            self.continuity,
            self.tracking,
            self.definitions,
            stale=self._health.is_stale,
            noticed=lambda: self.feed.noticed,
        )
        self._writer = VectorWriter(
            stores.vectors,
            interval=settings.ack_interval,
            max_waiting=settings.max_connections,
            timeout=2 * settings.mongodb_timeout,
        )
        lag = ClientLag(self.source, stores.events)
        self.vectors = StateVectorManager(stores.vectors, self._writer, self.source, self.feed, lag)
        self._accesses = LiveAccesses(obeyed)
        places = ConnectionPlaces(settings.max_connections)
        self.sessions = Sessions(self.source, self.vectors, settings, self._accesses, places)
        self.barriers = Barriers(stores, self.feed, settings.barrier_timeout)
        self.pages = LogPages(self.source, stores, self._accesses, places, cache_bytes=settings.past_cache_bytes)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the log and store acknowledgements until `stop`; then store those that are left."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._writer.run(), name="record state vectors")
            group.create_task(self.sessions.report(stop), name="record connected clients")
            keeping = self._stores.hot.gap_check.keep(lambda: self.window.log, lambda: self.window.head, stop)
            group.create_task(keeping, name="look for gaps in the log")
            try:
                await self.feed.run(stop)
            finally:
                self._writer.close()

    async def drain(self) -> None:
        """End every session and every waiting poll; new ones end at once.

        Returns when all sessions have ended, or at the drain timeout.
        """
        self.pages.drain()
        await self.sessions.drain()

    @asynccontextmanager
    async def snapshot(self, shape: Shape, access: Access, *, live: bool = False) -> AsyncIterator[Bootstrap]:
        """Open the state of a shape at a position for the block. Raises `Unavailable`, and as `Source.bind`.

        With `live` it is read from the collection, also if there is a stored snapshot.
        """
        async with self.source.bootstraps.open(self.source.bind(shape, access), live=live) as bootstrap:
            yield bootstrap

    def still_seen(self, shape: Shape, access: Access) -> Access:
        """Return the present access of a principal that is being sent a bound shape.

        Raises `Unavailable` if it may not have the same any more.
        """
        try:
            renewed = self._accesses.renewed(access)
            self.source.require_seen(shape, access, renewed)
        except (Forbidden, NotTracked, Unauthenticated, UnknownShape) as error:
            raise Unavailable(f"its client may not have it any more: {error.message}") from error
        return renewed

    @property
    def is_open(self) -> bool:
        """True if no rules are in force, so that everything is allowed to everybody."""
        return self._control.rules is None

    def is_stale(self) -> bool:
        """Return True if the sequencer has made no progress for `stale_after` seconds."""
        return self._health.is_stale()

    async def archive_state(self) -> ArchiveState | None:
        """Return the state of the archive, checked periodically; None without an archive."""
        return await self._health.archive()

    async def unread(self) -> int | None:
        """Return the number of events that this server has not read; None while it follows no log.

        Raises `Unavailable`.
        """
        return await self._health.unread()

    async def health(self) -> Health:
        """Check this server. Raises `Unavailable`."""
        return await self._health.check(len(self.sessions))
