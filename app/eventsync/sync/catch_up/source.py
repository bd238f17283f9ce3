"""Where subscriptions read from: the window, the store behind it, and what brings the others there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from eventsync.concurrency.admission import Admission
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.settings import Settings
from eventsync.stores.log.tracking import Tracking
from eventsync.stores.snapshots.chunks import Chunk, ChunkStore
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.bootstrap import Bootstraps
from eventsync.sync.catch_up.chunk_cache import ChunkCache
from eventsync.sync.catch_up.planner import Planner
from eventsync.sync.catch_up.squashed import CatchUps
from eventsync.sync.catch_up.store_frames import StoreFrames
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Frame, Window


@dataclass(frozen=True, slots=True)
class Source:
    """One for a whole server process."""

    stores: Stores
    window: Window
    tracking: Tracking
    planner: Planner
    bootstraps: Bootstraps
    catch_ups: CatchUps
    behind: StoreFrames
    admissions: Mapping[str, Admission]
    """What clients wait for their turn to do, by name."""
    limit: PageLimit
    stale: Callable[[], bool]
    """Whether nobody has read the changes lately, so that there may be some that are no events yet."""
    patience: float = 10.0
    """Seconds that a connected client waits for a new log to begin, and to have its collection."""

    @classmethod
    def of(
        cls,
        stores: Stores,
        settings: Settings,
        window: Window,
        tracking: Tracking,
        *,
        limit: PageLimit,
        stale: Callable[[], bool],
    ) -> Source:
        """Planner, chunks, and the places of those who begin or catch up, as `settings` bound them."""
        queue, wait = settings.max_waiting, settings.send_timeout
        admission = Admission(settings.max_bootstraps, queue=queue, wait=wait, what="snapshots")
        reading = Admission(settings.max_reads, queue=queue, wait=wait, what="clients that are behind")
        chunks = ChunkCache(_few_at_a_time(ChunkStore(stores.log).read, reading), settings.snapshot_cache_bytes)
        planner = Planner(stores, window, tracking)
        bootstraps = Bootstraps(stores, planner, chunks, admission)
        behind = StoreFrames(stores.events, reading, limit, settings.frame_cache_bytes)
        admissions = {"begin": admission, "read": reading}
        catch_ups = CatchUps(stores, admission)
        return cls(stores, window, tracking, planner, bootstraps, catch_ups, behind, admissions, limit, stale, wait)

    async def wait_until_servable(self, shape: Shape) -> None:
        """Wait while a new log, or the tracking of the shape's collection, is about to begin; not for ever."""

        def servable() -> bool:
            return self.window.suspended is None and not self.tracking.is_pending(shape.collection)

        await self.tracking.until(servable, self.patience)

    def log(self) -> LogId:
        """The log in force. Raises `Unavailable` before the first worker has run, and while the log is lost."""
        return self.planner.log()

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        """The next events of `shape` after `cursor`: from the window, or from the store where it reaches further back.

        Without any, `data` is empty and `end` is how far there are none.
        """
        if self.window.covers(cursor, shape):
            head = max(cursor, self.window.head)
            return self.window.frame(shape, cursor) or Frame(cursor, head, b"")
        return await self.behind.frame(self.log(), shape, cursor, self.window.head)


def _few_at_a_time(
    read: Callable[[str, int], Awaitable[Chunk]], admission: Admission
) -> Callable[[str, int], Awaitable[Chunk]]:
    async def admitted(snapshot: str, number: int) -> Chunk:
        async with admission.admitted():
            return await read(snapshot, number)

    return admitted
