"""The compactor: gives up what is kept no longer, and then removes it.

Each mark is raised before anything behind it is removed, and what a live pin needs stays. Killed anywhere, it leaves
what the next look removes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from eventsync.domain.policies.retention import Bounds, SealedRange, horizon, wanted
from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment
from eventsync.stores.archive.witness import forget_witness
from eventsync.stores.stats.counters import BLOCK
from eventsync.stores.stores import COMPACTING, Stores
from eventsync_workers.jobs.job import Job
from eventsync_workers.jobs.safety import removable

logger = logging.getLogger(__name__)

_ALL = Seq(2**63 - 2)
_ORPHANED = 3600.0
"""Seconds after which an object that is not registered is nobody's any more; so often they are looked for."""

_PAUSE = 60
"""A look takes a dozen reads, and nothing that it does is urgent: so many checkpoint intervals."""

_STEPS = 500
"""The squash floor is exact to a `_STEPS`th of its age."""


class Compactor(Job):
    """Applies the retention policy."""

    def __init__(self, stores: Stores, settings: Settings, name: str, stop: asyncio.Event) -> None:
        super().__init__(COMPACTING, stores.leases, settings, name, stop)
        self._pause = _PAUSE * settings.checkpoint_interval
        self._stores = stores
        self._settings = settings
        self._swept = 0.0

    async def look(self) -> None:
        """One look: the horizon, the squash floor, former logs, orphans."""
        current = await self._stores.logs.current()
        if current is None:
            return
        # What is removed from another archive would still be in this one, and nobody would know of it.
        await self._stores.archive.identity.claim(current.id)
        await self._raise_horizon(current.id)
        await self._remove(current.id)
        await self._squash(current.id)
        for former in await self._stores.logs.former(current):
            await self._forget(former)
        if time.monotonic() - self._swept > _ORPHANED or not self._swept:
            await self.sweep(current.id)
            self._swept = time.monotonic()

    # --- events ---------------------------------------------------------------------------------------------------

    async def _raise_horizon(self, name: LogId) -> None:
        tiers = await self._stores.tiers.read(name)
        segments = await self._segments(name, tiers.archived_up_to)
        sealed = [SealedRange(segment.span.last, segment.size) for segment in segments]
        target = await self._pinned(name, await self._wanted(name, sealed))
        last = await removable(self._stores, name, target, self.step) if target > tiers.archived_up_to else target
        if last > tiers.archived_up_to:
            await self._give_up(name, tiers.archived_up_to, last)
        elif (goal := horizon(target, tiers.archived_up_to, sealed)) > tiers.horizon:
            await self._stores.tiers.raise_horizon(name, goal)
            logger.info("log %s: events up to %d are kept no longer", name, goal)
        reached = (await self._stores.tiers.read(name)).horizon
        if reached:
            await self._stores.tiers.record_horizon(name, reached, every=self._settings.squash_age / _STEPS)

    async def _wanted(self, name: LogId, sealed: Sequence[SealedRange]) -> Seq:
        tail = await self._stores.events.tail(name)
        if tail is None:
            return Seq(0)
        bounds = Bounds(self._settings.retention_events, self._settings.retention_bytes)
        aged = Seq(0)
        if self._settings.retention_age:
            old = datetime.now(UTC) - timedelta(seconds=self._settings.retention_age)
            aged = await self._stores.instants.newest(name, old, tail.seq)
        return wanted(tail.seq, aged, bounds, sealed)

    async def _give_up(self, name: LogId, archived_up_to: Seq, up_to: Seq) -> None:
        """Events that never were sealed."""
        async with aclosing(self._stores.hot.named(name, archived_up_to, up_to)) as batches:
            async for documents in batches:
                await self.step()
                await self._stores.archive.touched.touch(name, documents)
        await self._stores.tiers.give_up(name, up_to)
        logger.info("log %s: events up to %d are kept no longer", name, up_to)

    async def _remove(self, name: LogId) -> None:
        tiers = await self._stores.tiers.read(name)
        # Asked for only now: who has pinned later has seen the horizon.
        up_to = await self._pinned(name, tiers.horizon)
        for segment in await self._segments(name, up_to):
            if segment.span.last <= up_to:
                await self._remove_segment(segment)
        await self._drop(name, tiers.archived_up_to)

    async def _remove_segment(self, segment: Segment) -> None:
        await self.step()
        if self._stores.archive.objects is not None:
            await self._stores.archive.objects.remove(segment.path)
        await self._stores.archive.segments.forget(segment)

    async def _drop(self, name: LogId, up_to: Seq) -> None:
        async with aclosing(self._stores.hot.remove(name, up_to)) as removed:
            async for _ in removed:
                await self.step()

    async def _pinned(self, name: LogId, seq: Seq) -> Seq:
        """`seq`, or what a live pin still needs the events after."""
        pinned = (await self._stores.pins.pinned(name)).seq
        return seq if pinned is None else Seq(min(seq, pinned))

    async def _segments(self, name: LogId, up_to: Seq) -> list[Segment]:
        async with aclosing(self._stores.archive.segments.covering(name, Seq(0), up_to)) as segments:
            return [segment async for segment in segments]

    # --- what is beside them --------------------------------------------------------------------------------------

    async def _squash(self, name: LogId) -> None:
        if not self._settings.squash_age:
            return
        gone = await self._stores.tiers.gone_for(name, self._settings.squash_age)
        # Between two blocks of the tallies: what was touched before it, they can tell.
        goal = Seq(gone // BLOCK * BLOCK - 1)
        if goal > (await self._stores.tiers.read(name)).squash_floor:
            await self._stores.tiers.raise_squash_floor(name, goal)
            await self._stores.archive.touched.remove_up_to(name, goal)

    async def _forget(self, former: LogId) -> None:
        """Remove a former log, whose positions nobody can continue from."""
        await self._drop(former, _ALL)
        for segment in await self._segments(former, _ALL):
            await self._remove_segment(segment)
        await self._stores.archive.touched.remove_up_to(former, _ALL)
        await self._stores.counters.forget(former)
        await self._stores.tiers.forget(former)
        await self._stores.logs.forget_checkpoint(former)
        if self._stores.archive.objects is not None:
            await forget_witness(self._stores.archive.objects, former)

    async def sweep(self, name: LogId) -> int:
        """Remove objects that no segment is registered for, and that nobody can be about to register."""
        objects, segments = self._stores.archive.objects, self._stores.archive.segments
        if objects is None:
            return 0
        swept = 0
        old = datetime.now(UTC) - timedelta(seconds=_ORPHANED)
        async with aclosing(objects.list(name)) as listed:
            paths = [entry.path async for entry in listed if entry.modified < old]
        for path in paths:
            await self.step()
            if not await segments.registered([path]) and await segments.quarantine([path]):
                await objects.remove(path)
                swept += 1
        if swept:
            logger.info("log %s: %d objects that no segment is registered for are removed", name, swept)
        return swept
