"""Health of a server for `/readyz`, and the overview that MongoDB holds for `/metrics`."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.errors import ConfigurationError, EventsyncError
from eventsync.mongodb.client import time_limit
from eventsync.settings import Settings
from eventsync.stores.archive.identity import ArchiveIdentity
from eventsync.stores.log.logs import NoLogYet
from eventsync.stores.stats.overview import Overview, read_overview
from eventsync.stores.stores import SEQUENCING, Stores
from eventsync.sync.live.feed import Feed
from eventsync.sync.live.window import Window

logger = logging.getLogger(__name__)

_ARCHIVE_AGE: Final = 10.0
"""Seconds between two checks of the archive, however many load balancers probe."""

_OVERVIEW_AGE: Final = 5.0
"""Seconds for which the overview is cached, however many scrapers ask."""

_TIMEOUT: Final = 3.0
"""Timeout of a check, and of reading the overview, in seconds."""


class CachedOverview:
    """Reads the overview from MongoDB, and caches it for seconds."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._cache: TTLCache[Overview | None] = TTLCache(ttl=_OVERVIEW_AGE, max_entries=1)

    async def read(self) -> Overview | None:
        """Return the overview; None if MongoDB does not answer in time."""
        return await self._cache.get("overview", self._read)

    async def _read(self) -> Overview | None:
        try:
            with time_limit(_TIMEOUT):
                return await read_overview(self._stores)
        except EventsyncError as error:
            logger.warning("no overview: %s", error.diagnosis)
            return None


@dataclass(frozen=True, slots=True)
class ArchiveState:
    """The reason why the archive can't be read; None if it can. A `lasting` one needs an operator."""

    reason: str | None = None
    lasting: bool = False


class ArchiveWatch:
    """Checks periodically whether this server can read the archive."""

    def __init__(self, identity: ArchiveIdentity) -> None:
        self._identity = identity
        self._cache: TTLCache[ArchiveState] = TTLCache(ttl=_ARCHIVE_AGE, max_entries=1)

    async def state(self) -> ArchiveState:
        """Return the result of the last check, or of a new one."""
        return await self._cache.get("archive", self._check)

    async def _check(self) -> ArchiveState:
        try:
            with time_limit(_TIMEOUT):
                async with asyncio.timeout(2 * _TIMEOUT):
                    await self._identity.check()
        except ConfigurationError as error:
            return ArchiveState(error.message, lasting=True)
        except EventsyncError as error:
            return ArchiveState(error.message)
        except TimeoutError:
            return ArchiveState(f"the archive does not answer within {2 * _TIMEOUT:g} s")
        return ArchiveState()


@dataclass(frozen=True, slots=True)
class Health:
    """The response of `/readyz`.

    `live`: this server follows the log, and is `lag_events` behind its head. `lag_seconds`: seconds since the worker
    recorded how far it has read. `sequencer_live`: a worker leads and makes progress. `archive`: the reason why the
    archive can't be read. `journal_delay`: seconds that changes wait for MongoDB's journal where it is not flushed for
    them, as it is now; None otherwise. `detail`: the worst problem.
    """

    status: str
    live: bool
    sequencer_live: bool
    leader: str | None
    position: str | None
    lag_events: int | None
    lag_seconds: float | None
    archive: str | None
    connections: int
    journal_delay: float | None
    detail: str


class HealthCheck:
    """Checks a server's feed, window and archive, and the lease of the leading worker."""

    def __init__(self, stores: Stores, feed: Feed, window: Window, settings: Settings) -> None:
        self._stores = stores
        self._feed = feed
        self._window = window
        self._settings = settings
        self._archive = ArchiveWatch(stores.archive.identity)

    def is_stale(self) -> bool:
        """Return True if the sequencer has made no progress for `stale_after` seconds."""
        return self._lag() > self._settings.stale_after

    async def archive(self) -> ArchiveState | None:
        """Return the state of the archive, checked periodically; None without an archive."""
        return None if self._stores.archive.objects is None else await self._archive.state()

    async def check(self, connections: int) -> Health:
        """Read the lease and the head of the log, and check the archive periodically. Raises `Unavailable`."""
        feed = self._feed.state
        if not feed.heard:
            # MongoDB does not answer yet. A health check must not wait for it.
            return Health("not_ready", False, False, None, None, None, None, None, connections, None, feed.detail)
        lease = await self._stores.leases.read(SEQUENCING)
        log = self._window.log
        unread = await self.unread()
        journal_delay = await self._stores.logs.journal_delay(log) if log is not None and unread is not None else None
        archive = await self._archive.state()
        fresh = time.monotonic() - feed.heard < 3 * self._settings.mongodb_timeout
        live = feed.live and fresh and log is not None
        leads = lease is not None and lease.live
        return Health(
            status=_status(live=live, archive=archive),
            live=live,
            sequencer_live=leads and not self.is_stale(),
            leader=lease.owner if lease and lease.live else None,
            position=f"{log}:{self._window.head}" if log else None,
            lag_events=unread,
            lag_seconds=round(self._lag(), 3) if feed.sequenced else None,
            archive=archive.reason,
            connections=connections,
            journal_delay=journal_delay,
            detail=self._detail(archive, journal_delay, live=live, leads=leads),
        )

    async def unread(self) -> int | None:
        """Return the number of events that this server has not read; None while it follows no log.

        Raises `Unavailable`.
        """
        log = self._window.log
        if log is None or self._window.suspended is not None:
            return None
        return max(0, await self._stores.events.head(log) - self._window.head)

    def _lag(self) -> float:
        return time.monotonic() - self._feed.state.sequenced

    def _detail(self, archive: ArchiveState, journal_delay: float | None, *, live: bool, leads: bool) -> str:
        if live:
            return archive.reason or self._worker_detail(journal_delay, leads=leads)
        return NoLogYet().message if self._feed.state.live and self._window.log is None else self._feed.state.detail

    def _worker_detail(self, journal_delay: float | None, *, leads: bool) -> str:
        if not leads:
            return "no worker leads: changes are delivered once one does"
        if not self._feed.state.sequenced:
            return "a worker leads, but has made no progress since this server started"
        if self.is_stale():
            return f"the worker has made no progress for {self._lag():.0f} s"
        if journal_delay is not None:
            return f"the worker flushes MongoDB's journal for writers with w: 1 (a delay of {journal_delay:.3f} s)"
        return self._feed.state.detail


def _status(*, live: bool, archive: ArchiveState) -> str:
    """Return `ready`, `not_ready`, or `degraded`: the archive does not answer, and clients far behind must wait."""
    if not live or archive.lasting:
        return "not_ready"
    return "degraded" if archive.reason else "ready"
