"""Removes stored snapshots by policy, concurrently with any number of readers and with the compactor.

A reader pins a snapshot and then checks that it still exists; the compactor does the same with the snapshots that a new
horizon depends on. Retirement does it in the opposite order: it hides a snapshot, and then decides by the current
horizon and pins if it can be removed. So one of the two always sees the other.

A worker that was paused, and has lost the lease without knowing it, removes nothing that another one needs: a snapshot
only if it is still hidden, and those of other logs only while its own log is the current one.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

from eventsync.domain.policies.snapshots import Retention, retained, retained_of_document
from eventsync.domain.positions import LogId, Seq
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.job import YieldControl
from eventsync_workers.jobs.snapshot_need import made

logger = logging.getLogger(__name__)


class Retirement:
    """Removes the snapshots that the policy no longer keeps."""

    def __init__(self, stores: Stores, retention: Retention, yield_control: YieldControl) -> None:
        self._stores = stores
        self._retention = retention
        self._yield_control = yield_control

    async def run_once(self, log_id: LogId, tracked: Sequence[TrackedCollection], now: datetime) -> int:
        """Remove snapshots of tracked collections and of their documents; return how many were removed."""
        stored = self._stores.snapshots.stored
        listed = {item.name: item for item in tracked}
        if of_others := await stored.of_other_logs(list(listed), log_id):
            current = await self._stores.logs.current()
            # Asked last: snapshots of a log that has begun meanwhile may be among them.
            if current is None or current.id != log_id:
                return 0
            for snapshot in of_others:
                await self._yield_control()
                await stored.remove(snapshot)
        visible, hidden = await stored.listing(log_id), await stored.hidden(log_id)
        expired = await self._expired(log_id, visible, listed, now)
        if not expired and not hidden:
            return 0
        await stored.hide(expired)
        # Again: a snapshot may have been pinned, or the horizon raised to it, before it was hidden.
        unneeded = await self._expired(log_id, [*visible, *hidden], listed, now)
        # Also those that were hidden by a run that was interrupted, and are needed again.
        await stored.show((expired | {item.id for item in hidden}) - unneeded)
        removed = 0
        for snapshot in unneeded:
            await self._yield_control()
            removed += await stored.remove_hidden(snapshot)
        if removed:
            logger.info("log %s: %d snapshots are removed", log_id, removed)
        return removed

    async def _expired(
        self, log_id: LogId, snapshots: Sequence[StoredSnapshot], tracked: dict[str, TrackedCollection], now: datetime
    ) -> set[str]:
        """Return the ids of the snapshots that are not needed."""
        horizon = (await self._stores.tiers.read(log_id)).horizon
        pinned = (await self._stores.snapshots.pins.pinned(log_id)).snapshots
        groups: dict[str, list[StoredSnapshot]] = defaultdict(list)
        for item in snapshots:
            if item.collection in tracked:
                groups[item.shape].append(item)
        expired: set[str] = set()
        for group in groups.values():
            kept = self._kept(group, tracked[group[0].collection], horizon, pinned, now)
            expired |= {item.id for item in group} - kept
        return expired

    def _kept(
        self,
        group: Sequence[StoredSnapshot],
        tracked: TrackedCollection,
        horizon: Seq,
        pinned: Collection[str],
        now: datetime,
    ) -> set[str]:
        # A snapshot from before the collection was tracked is no longer valid.
        valid = [made(item) for item in group if tracked.covers(item.seq, item.time)]
        keep = retained if group[0].shape == group[0].collection else retained_of_document
        kept = keep(valid, now, self._retention, horizon, pinned) if valid else set()
        return kept | {item.id for item in group if item.id in pinned}
