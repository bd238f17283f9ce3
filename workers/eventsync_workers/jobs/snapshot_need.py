"""Decides when the next snapshot of a collection is due, by its events since the newest one."""

from __future__ import annotations

from datetime import datetime, timedelta

from eventsync.domain.policies.snapshots import Cause, Conditions, Made, Since, cause
from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stats.counters import EventCount
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.job import YieldControl


class SnapshotNeed:
    """Reads a collection's counts only when it has new events."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self._stores = stores
        self._conditions = conditions(settings)
        self._known: dict[tuple[LogId, str], tuple[str, EventCount, Seq]] = {}
        self._counted = Seq(0)
        self._horizon = Seq(0)

    async def update(self, log_id: LogId, yield_control: YieldControl) -> None:
        """Count what is new in the log."""
        counters = self._stores.stats.counters
        before = await counters.counted_up_to(log_id)
        tail = await self._stores.events.tail(log_id)
        changed = await counters.add(log_id, tail.seq, yield_control) if tail else set()
        if before != self._counted:  # Another log, or another worker has counted meanwhile.
            self._known.clear()
        for collection in changed:
            self._known.pop((log_id, collection), None)
        self._counted = await counters.counted_up_to(log_id) if changed else before
        self._horizon = (await self._stores.tiers.read(log_id)).horizon

    async def cause(self, log_id: LogId, collection: str, newest: StoredSnapshot | None, now: datetime) -> Cause | None:
        """Return why the next snapshot is due as of the last `update`, or None. `newest` is the last valid one."""
        if newest is None:
            return Cause.BASE
        count, quiet = await self._counts(log_id, collection, newest)
        horizon = newest.seq < self._horizon
        since = Since(count.events, count.bytes, max(0, self._counted - quiet), horizon)
        return cause(made(newest), since, now, self._conditions)

    async def _counts(self, log_id: LogId, collection: str, newest: StoredSnapshot) -> tuple[EventCount, Seq]:
        known = self._known.get((log_id, collection))
        if known is None or known[0] != newest.id:
            count = await self._stores.stats.counters.after(log_id, newest.seq, collection)
            quiet = await self._stores.stats.counters.quiet_until(log_id, collection, newest.seq)
            self._known[log_id, collection] = known = newest.id, count, quiet
        return known[1:]


def conditions(settings: Settings) -> Conditions:
    """Return the policy of the settings. It makes snapshots early enough for events to leave MongoDB in time."""
    return Conditions(
        timedelta(seconds=settings.snapshot_period),
        settings.snapshot_events,
        settings.snapshot_ratio,
        settings.snapshot_min_events,
        span=max(1, settings.hot_events // 2),
    )


def made(snapshot: StoredSnapshot) -> Made:
    """Return what the policy needs of a stored snapshot."""
    return Made(snapshot.id, snapshot.seq, snapshot.at, snapshot.raw_bytes)
