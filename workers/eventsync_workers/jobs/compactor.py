"""The compactor: raises the horizon by the retention policy, then removes what lies before it, and what restores that
have died have left.

A border is raised before anything behind it is removed, and all that a live pin needs stays. Killed anywhere, it leaves
nothing that the next run does not remove.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from eventsync.domain.policies.retention import Bounds, SealedRange, horizon, wanted
from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment
from eventsync.stores.archive.witness import forget_witness
from eventsync.stores.history.restore import Restore
from eventsync.stores.stats.counters import BLOCK
from eventsync.stores.stores import COMPACTING, Stores
from eventsync_workers.jobs.job import Job
from eventsync_workers.jobs.trimming import HotTierTrimmer

logger = logging.getLogger(__name__)

_ALL = Seq(2**63 - 2)

_ORPHAN_AGE = 3600.0
"""Seconds after which an object that is not registered counts as an orphan; also the pause between two sweeps."""

_PAUSE = 60
"""Pause between two runs, in checkpoint intervals. A run takes a dozen reads, and nothing that it does is urgent."""

_STEPS = 500
"""The squash floor is exact to a `_STEPS`th of its age."""


class Compactor(Job):
    """Applies the retention policy."""

    def __init__(self, stores: Stores, settings: Settings, name: str, stop: asyncio.Event) -> None:
        super().__init__(COMPACTING, stores.leases, settings, name, stop)
        self._pause = _PAUSE * settings.checkpoint_interval
        self._stores = stores
        self._settings = settings
        self._trimmer = HotTierTrimmer(stores, self.yield_control)
        self._swept = -math.inf

    async def run_once(self) -> None:
        """Raise the horizon and the squash floor; remove old events, former logs, orphans, and dead restores."""
        current = await self._stores.logs.current()
        if current is None:
            return
        # With another archive configured, objects would be forgotten here but not removed there.
        await self._stores.archive.identity.claim(current.id)
        await self._raise_horizon(current.id)
        await self._remove_events(current.id)
        await self._raise_squash_floor(current.id)
        for former in await self._stores.logs.former(current):
            await self._remove_log(former)
        if time.monotonic() - self._swept > _ORPHAN_AGE:
            await self.sweep(current.id)
            self._swept = time.monotonic()
        await Restore(self._stores).unfinished()

    # --- events ---------------------------------------------------------------------------------------------------

    async def _raise_horizon(self, log_id: LogId) -> None:
        tiers = await self._stores.tiers.read(log_id)
        before = tiers.horizon
        segments = await self._segments(log_id, tiers.archived_up_to)
        sealed = [SealedRange(segment.span.last, segment.size) for segment in segments]
        target = await self._before_pins(log_id, await self._wanted_horizon(log_id, sealed))
        last = await self._trimmer.removable(log_id, target) if target > tiers.archived_up_to else target
        if last > tiers.archived_up_to:
            await self._give_up_unsealed(log_id, tiers.archived_up_to, last)
        elif (goal := horizon(target, tiers.archived_up_to, sealed)) > tiers.horizon:
            await self._stores.tiers.raise_horizon(log_id, goal)
            logger.info("log %s: events up to %d are no longer kept", log_id, goal)
        raised = (await self._stores.tiers.read(log_id)).horizon
        self.figures.done.update(expired_events=raised - before)
        if raised:
            await self._stores.tiers.record_horizon(log_id, raised, every=self._settings.squash_age / _STEPS)

    async def _wanted_horizon(self, log_id: LogId, sealed: Sequence[SealedRange]) -> Seq:
        tail = await self._stores.events.tail(log_id)
        if tail is None:
            return Seq(0)
        bounds = Bounds(self._settings.retention_events, self._settings.retention_bytes)
        aged = Seq(0)
        if self._settings.retention_age:
            old = datetime.now(UTC) - timedelta(seconds=self._settings.retention_age)
            aged = await self._stores.history.instants.newest(log_id, old, tail.seq)
        return wanted(tail.seq, aged, bounds, sealed)

    async def _give_up_unsealed(self, log_id: LogId, archived_up_to: Seq, up_to: Seq) -> None:
        """Raise the horizon over events that were never sealed."""
        await self._trimmer.record_touched(log_id, archived_up_to, up_to)
        await self._stores.tiers.give_up(log_id, up_to)
        logger.info("log %s: events up to %d are no longer kept", log_id, up_to)

    async def _remove_events(self, log_id: LogId) -> None:
        tiers = await self._stores.tiers.read(log_id)
        # Read after the horizon: a reader that pins later has seen it.
        up_to = await self._before_pins(log_id, tiers.horizon)
        for segment in await self._segments(log_id, up_to):
            if segment.span.last <= up_to:
                await self._remove_segment(segment)
        await self._trimmer.drop(log_id, tiers.archived_up_to)

    async def _remove_segment(self, segment: Segment) -> None:
        await self.yield_control()
        # The object first: a crash in between leaves a registration, which the next run finds, and no orphan.
        if self._stores.archive.objects is not None:
            await self._stores.archive.objects.remove(segment.path)
        await self._stores.archive.segments.forget(segment)
        self.figures.done.update(removed_segments=1)

    async def _before_pins(self, log_id: LogId, seq: Seq) -> Seq:
        """Return `seq`, or a lower number if a live pin needs the events after it."""
        pinned = (await self._stores.snapshots.pins.pinned(log_id)).seq
        return seq if pinned is None else Seq(min(seq, pinned))

    async def _segments(self, log_id: LogId, up_to: Seq) -> list[Segment]:
        async with aclosing(self._stores.archive.segments.covering(log_id, Seq(0), up_to)) as segments:
            return [segment async for segment in segments]

    # --- squash floor, former logs, orphans -----------------------------------------------------------------------

    async def _raise_squash_floor(self, log_id: LogId) -> None:
        if not self._settings.squash_age:
            return
        gone = await self._stores.tiers.gone_for(log_id, self._settings.squash_age)
        # Just before a block of the counters, which tell what was touched up to there.
        goal = Seq(gone // BLOCK * BLOCK - 1)
        if goal > (await self._stores.tiers.read(log_id)).squash_floor:
            await self._stores.tiers.raise_squash_floor(log_id, goal)
            await self._stores.archive.touched.remove_up_to(log_id, goal)

    async def _remove_log(self, former: LogId) -> None:
        """Remove a former log. No client can continue from its positions."""
        await self._trimmer.drop(former, _ALL)
        for segment in await self._segments(former, _ALL):
            await self._remove_segment(segment)
        await self._stores.archive.touched.remove_up_to(former, _ALL)
        await self._stores.stats.counters.forget(former)
        await self._stores.tiers.forget(former)
        await self._stores.logs.forget_checkpoint(former)
        if self._stores.archive.objects is not None:
            await forget_witness(self._stores.archive.objects, former)

    async def sweep(self, log_id: LogId) -> int:
        """Remove objects that are not registered as a segment and are too old to become one; return how many."""
        objects, segments = self._stores.archive.objects, self._stores.archive.segments
        if objects is None:
            return 0
        swept = 0
        old = datetime.now(UTC) - timedelta(seconds=_ORPHAN_AGE)
        async with aclosing(objects.list(log_id)) as listed:
            paths = [entry.path async for entry in listed if entry.modified < old]
        for path in paths:
            await self.yield_control()
            if not await segments.is_registered(path) and await segments.quarantine(path):
                await objects.remove(path)
                swept += 1
                self.figures.done.update(removed_objects=1)
        if swept:
            logger.info("log %s: %d objects without a registered segment are removed", log_id, swept)
        return swept
