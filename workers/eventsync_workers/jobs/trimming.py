"""Trims the hot tier, for the archiver and the compactor: how far events may leave MongoDB, and their removal."""

from __future__ import annotations

from contextlib import aclosing

from eventsync.domain.policies.retention import allowed
from eventsync.domain.positions import LogId, Seq
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.job import YieldControl


class HotTierTrimmer:
    """Removes events from MongoDB that are archived or no longer kept."""

    def __init__(self, stores: Stores, yield_control: YieldControl) -> None:
        self._stores = stores
        self._yield_control = yield_control

    async def removable(self, log_id: LogId, target: Seq) -> Seq:
        """Return the newest event up to `target` that may leave MongoDB and does not lie inside a transaction.

        All events up to there are counted. The result never decreases: a collection that is tracked later begins after
        the log's head.
        """
        tail = await self._stores.events.tail(log_id)
        if tail is None:
            return Seq(0)
        # The newest event stays: it says where the numbering and the change stream continue.
        target = Seq(min(target, tail.seq - 1))
        snapshots = await self._stores.snapshots.stored.positions(log_id)
        tracked = await self._stores.tracking.active(log_id)
        # Before its first snapshot, all that is known of a collection is its events.
        if any(snapshots.get(item.name, -1) < item.tracked_from for item in tracked):
            return Seq(0)
        counters = self._stores.stats.counters
        await counters.add(log_id, target, self._yield_control)
        quiet = [await counters.quiet_until(log_id, item.name, snapshots[item.name]) for item in tracked]
        limit = allowed(tail.seq, await counters.counted_up_to(log_id), [target, *quiet])
        return await self._stores.hot.whole_before(log_id, limit)

    async def record_touched(self, log_id: LogId, after: Seq, up_to: Seq) -> None:
        """Record which documents these events are of. It is known nowhere else once they are dropped."""
        async with aclosing(self._stores.hot.named(log_id, after, up_to)) as batches:
            async for documents in batches:
                await self._yield_control()
                await self._stores.archive.touched.touch(log_id, documents)

    async def drop(self, log_id: LogId, up_to: Seq) -> None:
        """Remove all events up to `up_to` from MongoDB."""
        async with aclosing(self._stores.hot.remove(log_id, up_to)) as removed:
            async for _ in removed:
                await self._yield_control()
