"""The archiver: moves old events from MongoDB into segments on object storage.

Its steps are seal, verify, register, record the touched documents, raise `archived_up_to`, drop. Killed between any two
of them, the next archiver continues. An object that is not registered is an orphan, which the compactor sweeps. A
segment that is registered and beyond `archived_up_to` is continued at the touched documents, and events up to
`archived_up_to` are dropped.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from eventsync.domain.policies.retention import Bounds, wanted
from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment
from eventsync.stores.archive.witness import Witness, read_witness, record_witness
from eventsync.stores.stores import ARCHIVING, Stores
from eventsync_workers.jobs.job import Job
from eventsync_workers.jobs.sealer import Limits, Sealer
from eventsync_workers.jobs.trimming import HotTierTrimmer

logger = logging.getLogger(__name__)

_PAUSE = 5
"""Pause between two runs, in checkpoint intervals."""


class Archiver(Job):
    """Seals the events beyond the bounds of the hot tier, one segment at a time."""

    def __init__(self, stores: Stores, settings: Settings, name: str, stop: asyncio.Event) -> None:
        super().__init__(ARCHIVING, stores.leases, settings, name, stop)
        self._pause = _PAUSE * settings.checkpoint_interval
        self._stores = stores
        self._witnessed: tuple[LogId, Witness | None] | None = None
        self._settings = settings
        self._limits = Limits(settings.segment_events, settings.segment_bytes, settings.segment_block_bytes)
        self._trimmer = HotTierTrimmer(stores, self.yield_control)

    async def run_once(self) -> None:
        """Finish what was begun, then seal segments until there are too few events to fill one."""
        current = await self._stores.logs.current()
        if current is None:
            return
        # Events that are sealed into another archive than the log's would be lost to all readers.
        await self._stores.archive.identity.claim(current.id)
        await self.bear_witness(current.id)
        await self._finish_segment(current.id)
        while self._stores.archive.objects is not None:
            after = (await self._stores.tiers.read(current.id)).archived_up_to
            last = await self._last_to_seal(current.id, after)
            if last <= after:
                return
            await self._stores.archive.identity.check()
            sealer = Sealer(self._stores.archive.tiered, self._stores.archive.objects, self._limits, self.yield_control)
            segment = await sealer.seal(current.id, after, last)
            await sealer.verify(segment)
            await self.register(segment)
            await self._finish_segment(current.id)

    async def bear_witness(self, log_id: LogId) -> None:
        """Record the log's newest event beside the segments, if it is newer than the recorded one."""
        objects = self._stores.archive.objects
        if objects is None:
            return
        tail = await self._stores.events.tail(log_id)
        if tail is None:
            return
        if self._witnessed is None or self._witnessed[0] != log_id:
            self._witnessed = log_id, await read_witness(objects, log_id)
        known, new = self._witnessed[1], Witness(tail.seq, tail.token)
        if known is not None:
            token = await self._stores.events.token(log_id, known.seq)
            # A witness that contradicts the log is evidence for the next leader: keep it.
            if known.seq >= new.seq or token not in {None, known.token}:
                return
        # A directory whose volume was unmounted is empty or missing, and would be filled instead.
        await self._stores.archive.identity.check()
        await record_witness(objects, log_id, new)
        self._witnessed = log_id, new

    async def finish(self) -> None:
        """Record the events that were appended since the last run."""
        current = await self._stores.logs.current()
        if current is not None:
            await self.bear_witness(current.id)

    async def register(self, segment: Segment) -> None:
        """Make a segment part of the log. Raises `Unavailable` if another archiver was first."""
        segments = self._stores.archive.segments
        if not await segments.register(segment):
            raise Unavailable(f"another archiver has sealed event {segment.span.first}")
        await self._check_object(segment)
        events = segment.span.last - segment.span.first + 1
        self.figures.done.update(sealed_events=events, sealed_bytes=segment.size)
        logger.info(
            "log %s: events %d to %d are sealed: %d bytes of %d",
            segment.log, segment.span.first, segment.span.last, segment.size, segment.raw,
        )  # fmt: skip

    async def _check_object(self, segment: Segment) -> None:
        """Raise `Unavailable` for a segment whose object was taken for an orphan, and forget it."""
        # Registered first, then checked. The sweeper of orphans does the opposite, so one of the two sees the other.
        if await self._stores.archive.segments.is_quarantined(segment):
            await self._stores.archive.segments.forget(segment)
            raise Unavailable(f"segment {segment.path} took so long that it was removed as an orphan")

    async def raise_archived_up_to(self, log_id: LogId, up_to: Seq) -> None:
        """Make readers look for these events in the segments."""
        await self._stores.tiers.raise_archived_up_to(log_id, up_to)

    async def _finish_segment(self, log_id: LogId) -> None:
        archived_up_to = (await self._stores.tiers.read(log_id)).archived_up_to
        newest = await self._stores.archive.segments.newest(log_id)
        if newest is not None and newest.span.last > archived_up_to:
            # An archiver that was paused for long has registered it, and may not have come to check it.
            await self._check_object(newest)
            # Before `archived_up_to` is raised: squashed answers rely on the record up to there.
            await self._trimmer.record_touched(log_id, archived_up_to, newest.span.last)
            await self.raise_archived_up_to(log_id, newest.span.last)
            archived_up_to = newest.span.last
        if archived_up_to:
            await self._trimmer.drop(log_id, archived_up_to)

    async def _last_to_seal(self, log_id: LogId, after: Seq) -> Seq:
        """Return the last event to be sealed now, or `after` if the events do not fill a segment."""
        tail = await self._stores.events.tail(log_id)
        if tail is None:
            return after
        aged = datetime.now(UTC) - timedelta(seconds=self._settings.hot_age)
        old = await self._stores.history.instants.newest(log_id, aged, tail.seq)
        target = wanted(tail.seq, old, Bounds(self._settings.hot_events))
        last = await self._trimmer.removable(log_id, target)
        return last if last > after and await self._fill_a_segment(log_id, after, last) else after

    async def _fill_a_segment(self, log_id: LogId, after: Seq, last: Seq) -> bool:
        """Return True if the events fill a segment by their number, or by about their bytes."""
        if last - after >= self._limits.events:
            return True
        count = await self._stores.stats.counters.after(log_id, after)
        return count.events > 0 and count.bytes * (last - after) // count.events >= self._limits.bytes
