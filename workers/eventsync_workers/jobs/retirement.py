"""Retiring stored snapshots by policy, beside any number of readers and beside the compactor.

Whoever wants a snapshot pins it and then looks whether it is still there; the compactor does so with those that a new
horizon rests on. Here it is the other way round: a snapshot is hidden, and only then it is decided, by the horizon and
the pins as they are now, whether it is removed. So one of the two always sees the other.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime

from eventsync.domain.policies.snapshots import Retention, spared, spared_of_document
from eventsync.domain.positions import LogId, Seq
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.snapshot_need import made

logger = logging.getLogger(__name__)


class Retirement:
    """Removes what the policy no longer keeps."""

    def __init__(self, stores: Stores, retention: Retention, step: Callable[[], Awaitable[None]]) -> None:
        self._stores = stores
        self._retention = retention
        self._step = step

    async def look(self, name: LogId, tracked: Sequence[TrackedCollection], now: datetime) -> int:
        """Retire snapshots of tracked collections and of their documents; returns how many were removed."""
        stored = self._stores.stored
        await stored.retire([item.name for item in tracked], name)
        listed = {item.name: item for item in tracked}
        visible, hidden = await stored.listing(name), await stored.hidden(name)
        doomed = await self._doomed(name, visible, listed, now)
        if not doomed and not hidden:
            return 0
        await stored.hide(doomed)
        # Asked again: what was pinned, or became the horizon's, before it was hidden.
        gone = await self._doomed(name, [*visible, *hidden], listed, now)
        await stored.show((doomed | {item.id for item in hidden}) - gone)
        for snapshot in gone:
            await self._step()
            await stored.remove(snapshot)
        if gone:
            logger.info("log %s: %d snapshots are retired", name, len(gone))
        return len(gone)

    async def _doomed(
        self, name: LogId, snapshots: Sequence[StoredSnapshot], tracked: dict[str, TrackedCollection], now: datetime
    ) -> set[str]:
        """The ids of those that nobody needs."""
        horizon = (await self._stores.tiers.read(name)).horizon
        pinned = (await self._stores.pins.pinned(name)).snapshots
        groups: dict[str, list[StoredSnapshot]] = defaultdict(list)
        for item in snapshots:
            if item.collection in tracked:
                groups[item.shape].append(item)
        doomed: set[str] = set()
        for group in groups.values():
            kept = self._kept(group, tracked[group[0].collection], horizon, pinned, now)
            doomed |= {item.id for item in group} - kept
        return doomed

    def _kept(
        self,
        group: Sequence[StoredSnapshot],
        tracked: TrackedCollection,
        horizon: Seq,
        pinned: Collection[str],
        now: datetime,
    ) -> set[str]:
        # What was stored before the collection was tracked says nothing any more.
        valid = [made(item) for item in group if tracked.tells(item.seq, item.time)]
        keep = spared if group[0].shape == group[0].collection else spared_of_document
        kept = keep(valid, now, self._retention, horizon, pinned) if valid else set()
        return kept | {item.id for item in group if item.id in pinned}
