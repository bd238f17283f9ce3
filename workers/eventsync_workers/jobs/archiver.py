"""The archiver: moves old events from MongoDB into segments on object storage.

Seal, verify, register, touch, raise the floor, drop. Killed between any two of them, the next archiver goes on where
that one was: an object that is not registered is an orphan, which the compactor sweeps; a segment that is registered
and beyond the floor is taken up at the touching; and events up to the floor are dropped.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from eventsync.domain.policies.retention import Bounds, wanted
from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment
from eventsync.stores.archive.witness import Witness, read_witness, record_witness
from eventsync.stores.stores import ARCHIVING, Stores
from eventsync_workers.jobs.job import Job
from eventsync_workers.jobs.safety import removable
from eventsync_workers.jobs.sealer import Limits, Sealer

logger = logging.getLogger(__name__)

_PAUSE = 5
"""Checkpoint intervals between two looks."""


class Archiver(Job):
    """Seals what is beyond the bounds of the hot tier, a segment at a time."""

    def __init__(self, stores: Stores, settings: Settings, name: str, stop: asyncio.Event) -> None:
        super().__init__(ARCHIVING, stores.leases, settings, name, stop)
        self._pause = _PAUSE * settings.checkpoint_interval
        self._stores = stores
        self._witnessed: tuple[LogId, Witness | None] | None = None
        self._settings = settings
        self._limits = Limits(settings.segment_events, settings.segment_bytes, settings.segment_block_bytes)

    async def look(self) -> None:
        """One look: finish what was begun, then seal whole segments until there is none to fill."""
        current = await self._stores.logs.current()
        if current is None:
            return
        await self._stores.archive.identity.claim(current.id)
        await self.bear_witness(current.id)
        await self._finish(current.id)
        while self._stores.archive.objects is not None:
            after = (await self._stores.tiers.read(current.id)).archived_up_to
            last = await self._last(current.id, after)
            if last <= after:
                return
            sealer = Sealer(self._stores.tiered, self._stores.archive.objects, self._limits, self.step)
            segment = await sealer.seal(current.id, after, last)
            await sealer.verify(segment)
            await self.register(segment)
            await self._finish(current.id)

    async def bear_witness(self, name: LogId) -> None:
        """Record beside the segments how far the log has come, where it has."""
        objects = self._stores.archive.objects
        if objects is None or not self._settings.archive_url:
            return  # nobody has said where the archive is
        tail = await self._stores.events.tail(name)
        if tail is None:
            return
        if self._witnessed is None or self._witnessed[0] != name:
            self._witnessed = name, await read_witness(objects, name)
        known, new = self._witnessed[1], Witness(tail.seq, tail.token)
        if known is not None:
            token = await self._stores.events.token(name, known.seq)
            # What contradicts the log is evidence, for whoever takes it up next.
            if known.seq >= new.seq or token not in {None, known.token}:
                return
        await record_witness(objects, name, new)
        self._witnessed = name, new

    async def finish(self) -> None:
        """Witness what came since the last look, too."""
        current = await self._stores.logs.current()
        if current is not None:
            await self.bear_witness(current.id)

    async def register(self, segment: Segment) -> None:
        """Make it part of the log, unless another archiver was first. Raises `Unavailable` then."""
        segments = self._stores.archive.segments
        if not await segments.register(segment):
            raise Unavailable(f"another archiver has sealed event {segment.span.first}")
        if await segments.is_quarantined(segment):
            await segments.forget(segment)
            raise Unavailable(f"segment {segment.path} was taken for an orphan, it was made so slowly")
        logger.info(
            "log %s: events %d to %d are sealed: %d bytes of %d",
            segment.log, segment.span.first, segment.span.last, segment.size, segment.raw,
        )  # fmt: skip

    async def touch(self, name: LogId, after: Seq, up_to: Seq) -> None:
        """Record which documents these events are of: nobody else knows, once they are dropped."""
        async with aclosing(self._stores.hot.named(name, after, up_to)) as batches:
            async for documents in batches:
                await self.step()
                await self._stores.archive.touched.touch(name, documents)

    async def raise_archived_up_to(self, name: LogId, up_to: Seq) -> None:
        """From here on readers look for these events in the segments."""
        await self._stores.tiers.raise_archived_up_to(name, up_to)

    async def drop(self, name: LogId, up_to: Seq) -> None:
        """Remove them from MongoDB."""
        async with aclosing(self._stores.hot.remove(name, up_to)) as removed:
            async for _ in removed:
                await self.step()

    async def _finish(self, name: LogId) -> None:
        archived_up_to = (await self._stores.tiers.read(name)).archived_up_to
        newest = await self._stores.archive.segments.newest(name)
        if newest is not None and newest.span.last > archived_up_to:
            await self.touch(name, archived_up_to, newest.span.last)
            await self.raise_archived_up_to(name, newest.span.last)
            archived_up_to = newest.span.last
        if archived_up_to:
            await self.drop(name, archived_up_to)

    async def _last(self, name: LogId, after: Seq) -> Seq:
        """Up to where events are to be sealed now; `after` where they do not fill a segment."""
        tail = await self._stores.events.tail(name)
        if tail is None:
            return after
        aged = datetime.now(UTC) - timedelta(seconds=self._settings.hot_age)
        old = await self._stores.instants.newest(name, aged, tail.seq)
        target = wanted(tail.seq, old, Bounds(self._settings.hot_events))
        last = await removable(self._stores, name, target, self.step)
        return last if last > after and await self._fills(name, after, last) else after

    async def _fills(self, name: LogId, after: Seq, last: Seq) -> bool:
        """Whether the events make a segment, by their number or about by their bytes."""
        if last - after >= self._limits.events:
            return True
        tally = await self._stores.counters.after(name, after)
        return tally.events > 0 and tally.bytes * (last - after) // tally.events >= self._limits.bytes
