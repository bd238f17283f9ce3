"""The source of subscriptions: the window, the store behind it, and the catch-up answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from eventsync.access.access import Access
from eventsync.concurrency.admission import Admission
from eventsync.concurrency.waiting import set_within
from eventsync.domain.positions import LogId, Position, Seq, scoped
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, Unavailable
from eventsync.settings import Settings
from eventsync.stores.log.definitions import Definitions
from eventsync.stores.log.tracking import Tracking
from eventsync.stores.snapshots.chunks import Chunk, ChunkStore
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.binder import Binder
from eventsync.sync.catch_up.bootstrap import Bootstraps
from eventsync.sync.catch_up.chunk_cache import ChunkCache
from eventsync.sync.catch_up.planner import Planner
from eventsync.sync.catch_up.squashed import CatchUps
from eventsync.sync.catch_up.store_frames import StoreFrames
from eventsync.sync.live.continuity import Continuity
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.redacting import NO_BODIES, Unredacted
from eventsync.sync.live.window import Frame, Window

_LOOK_AGAIN: Final = 0.5
"""Seconds after which a read looks at the window also without a notice of the feed, which may begin again."""


@dataclass(frozen=True, slots=True)
class Source:
    """Everything that subscriptions read from; one instance a server process."""

    stores: Stores
    window: Window
    continuity: Continuity
    tracking: Tracking
    definitions: Definitions
    binder: Binder
    planner: Planner
    bootstraps: Bootstraps
    catch_ups: CatchUps
    behind: StoreFrames
    admissions: Mapping[str, Admission]
    """Admissions by name: `begin` for snapshots and squashed answers, `read` for events behind the window."""
    limit: PageLimit
    stale: Callable[[], bool]
    """Returns True while the sequencer makes no progress, so that changes may not have become events yet."""
    noticed: Callable[[], asyncio.Event]
    """Returns an event that is set as soon as the feed has read something more."""
    timeout: float = 10.0
    """Seconds that a connected client waits for a new log, and for its collection to be tracked in it."""

    @classmethod
    def of(
        cls,
        stores: Stores,
        settings: Settings,
        window: Window,
        continuity: Continuity,
        tracking: Tracking,
        definitions: Definitions,
        *,
        stale: Callable[[], bool],
        noticed: Callable[[], asyncio.Event],
    ) -> Source:
        """Create the source, with the bounds that `settings` give."""
        queue, wait = settings.max_waiting, settings.send_timeout
        # Two of them: new clients, whose snapshots take long, hold no place of clients that have missed a few events.
        beginning = Admission(settings.max_bootstraps, queue=queue, wait=wait, what="snapshots")
        reading = Admission(settings.max_reads, queue=queue, wait=wait, what="clients that are behind")
        # A chunk that is cached takes no place.
        chunks = ChunkCache(_admitted(ChunkStore(stores.log).read, reading), settings.snapshot_cache_bytes)
        planner = Planner(stores, window, tracking, definitions)
        bootstraps = Bootstraps(stores, planner, continuity, chunks, beginning)
        limit = window.frame_limit
        behind = StoreFrames(stores.events, continuity, reading, limit, settings.frame_cache_bytes, stores.offload)
        admissions = {"begin": beginning, "read": reading}
        catch_ups = CatchUps(stores, continuity, beginning)
        return cls(
            stores,
            window,
            continuity,
            tracking,
            definitions,
            Binder(tracking, definitions),
            planner,
            bootstraps,
            catch_ups,
            behind,
            admissions,
            limit,
            stale,
            noticed,
            wait,
        )

    def bind(self, shape: Shape, access: Access) -> Shape:
        """Return the shape that a client has asked for as its principal sees it. Raises as `Binder.bind`."""
        return self.binder.bind(shape, access)

    def is_same(self, shape: Shape, by: Access, now: Access) -> bool:
        """Return True if a bound shape is surely the same by another access. False does not say that it is not."""
        return self.binder.is_same(shape, by, now)

    def require_seen(self, shape: Shape, access: Access, renewed: Access) -> None:
        """Raise `Unavailable` unless a shape that is bound by one access is the same by the one in place of it."""
        if renewed is not access and not self.bind(shape, renewed).is_followed_as(shape):
            raise Unavailable("the rules have changed meanwhile: ask again")

    async def wait_until_servable(self, shape: Shape, access: Callable[[], Access]) -> None:
        """Wait while a new log, or the shape's collection or definition, is about to become active; not for ever.

        Also while that is so of the rules of `access`, which returns what the client may see at present.
        """

        def servable() -> bool:
            if self.window.suspended is not None:
                return False
            return shape.declared is not None or not self.tracking.is_pending(shape.collection)

        await self.tracking.until(servable, self.timeout)
        await self.definitions.until(lambda: self._is_bindable(shape, access()), self.timeout)

    def _is_bindable(self, shape: Shape, access: Access) -> bool:
        """Return True if there is nothing to wait for. Binding the shape may still be refused."""
        try:
            self.bind(shape, access)
        except EventsyncError as error:
            return not isinstance(error, Unavailable)
        return True

    def log(self) -> LogId:
        """Return the current log. Raises `Unavailable` before the first worker has run, and while the log is lost."""
        return self.planner.log()

    def has_all_after(self, shape: Shape, position: Position) -> bool:
        """Return True if the log has every event of a shape after `position`: it was followed all along."""
        return self.planner.has_all_after(shape, position)

    async def has_all_between(self, shape: Shape, start: Position, end: Position) -> bool:
        """Return True if the log has every event of a bound shape after `start` and up to `end`, which may be unread.

        False also if this server has not read the log up to `end` within the timeout.
        """
        # The feed reads of an interruption before it reads the events that end it. Before those events, the registry
        # here may be older than a checkpoint in MongoDB.
        deadline = time.monotonic() + self.timeout
        while self.window.head < end.seq and self.has_all_after(shape, start):
            if (left := deadline - time.monotonic()) <= 0:
                return False
            await set_within(self.noticed(), min(left, _LOOK_AGAIN))
        return self.has_all_after(shape, start)

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        """Return the shape's next frame after `cursor`, from the window or from the store behind it.

        A frame with empty `data` says that the shape has no events up to its `end`.
        """
        bodies = NO_BODIES
        while self.window.covers(cursor, shape):
            # The client may be ahead of this server: another one has sent it events that were not read here yet.
            head = max(cursor, self.window.head)
            try:
                return self.window.frame(shape, cursor, bodies) or Frame(cursor, head, b"")
            except Unredacted as first:
                bodies = await self.window.redact(shape, first, bodies)
        return await self.behind.frame(scoped(self.log(), shape.scope), shape, cursor, self.window.head)


def _admitted(
    read: Callable[[str, int], Awaitable[Chunk]], admission: Admission
) -> Callable[[str, int], Awaitable[Chunk]]:
    async def read_admitted(snapshot: str, number: int) -> Chunk:
        async with admission.admitted():
            return await read(snapshot, number)

    return read_admitted
