"""What is known of each collection's events since its newest snapshot, and so whether the next one is due."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from eventsync.domain.policies.snapshots import Cause, Conditions, Made, Since, cause
from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stats.counters import EventCount
from eventsync.stores.stores import Stores


class SnapshotNeed:
    """Asks for a collection's figures only once it has new events."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self._stores = stores
        self._conditions = conditions(settings)
        self._known: dict[tuple[LogId, str], tuple[str, EventCount, Seq]] = {}
        self._tallied = Seq(0)
        self._horizon = Seq(0)

    async def look(self, log: LogId, step: Callable[[], Awaitable[None]]) -> None:
        """Tally what is new in the log."""
        counters = self._stores.counters
        before = await counters.counted_up_to(log)
        tail = await self._stores.events.tail(log)
        changed = await counters.add(log, tail.seq, step) if tail else set()
        if before != self._tallied:  # another log, or another worker has tallied meanwhile
            self._known.clear()
        for collection in changed:
            self._known.pop((log, collection), None)
        self._tallied = await counters.counted_up_to(log) if changed else before
        self._horizon = (await self._stores.tiers.read(log)).horizon

    async def cause(self, log: LogId, collection: str, newest: StoredSnapshot | None, now: datetime) -> Cause | None:
        """Why the next snapshot is due, as of the last `look`. `newest` is the last one, if it still says anything."""
        if newest is None:
            return Cause.BASE
        tally, quiet = await self._figures(log, collection, newest)
        horizon = newest.seq < self._horizon
        since = Since(tally.events, tally.bytes, max(0, self._tallied - quiet), horizon)
        return cause(made(newest), since, now, self._conditions)

    async def _figures(self, log: LogId, collection: str, newest: StoredSnapshot) -> tuple[EventCount, Seq]:
        known = self._known.get((log, collection))
        if known is None or known[0] != newest.id:
            tally = await self._stores.counters.after(log, newest.seq, collection)
            quiet = await self._stores.counters.quiet_until(log, collection, newest.seq)
            self._known[log, collection] = known = newest.id, tally, quiet
        return known[1:]


def conditions(settings: Settings) -> Conditions:
    """The policy that is set. Snapshots come in time for events to leave MongoDB when they may."""
    return Conditions(
        timedelta(seconds=settings.snapshot_period),
        settings.snapshot_events,
        settings.snapshot_ratio,
        settings.snapshot_min_events,
        span=max(1, settings.hot_events // 2),
    )


def made(snapshot: StoredSnapshot) -> Made:
    """A stored snapshot as the policy sees it."""
    return Made(snapshot.id, snapshot.seq, snapshot.at, snapshot.raw_bytes)
