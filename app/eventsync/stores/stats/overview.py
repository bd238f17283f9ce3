"""What there is to operate: one look at the log, its tiers, its snapshots and its jobs.

One reading for whoever shows them, so that two of them can't disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.capacity import CollectionUsage, stored
from eventsync.mongodb.clocks import wall_time
from eventsync.mongodb.errors import translated
from eventsync.mongodb.leases import Lease
from eventsync.stores.archive.segments import Totals
from eventsync.stores.log.logs import Log
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import ARCHIVING, COMPACTING, SEQUENCING, SNAPSHOTTING, Stores

JOBS = (SEQUENCING, SNAPSHOTTING, ARCHIVING, COMPACTING)
"""Whose lease holders are shown."""

_RECORDS: Final = {
    "idempotency_keys": "operations",
    "clients": "state_vectors",
    "pins": "pins",
    "snapshot_requests": "snapshot_requests",
    "touched": "touched",
}
"""The collections of what requests and readers leave behind, by what a record is."""


@dataclass(frozen=True, slots=True)
class HotTier:
    """Events in MongoDB. `events` is exact, `bytes` (of BSON) is estimated from the tallies."""

    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class LogOverview:
    """One log: its newest event's seq and what is kept of it. `snapshots` are the complete ones, by seq."""

    log: Log
    head: Seq
    tiers: Tiers
    hot: HotTier
    cold: Totals
    snapshots: list[StoredSnapshot]

    @property
    def newest(self) -> list[StoredSnapshot]:
        """The newest snapshot of each whole collection, by collection."""
        found = {item.shape: item for item in self.snapshots if item.shape == item.collection}
        return [found[name] for name in sorted(found)]


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything, at `now` by MongoDB's clock. `log` is None before a worker has run, `leases` by job."""

    now: datetime
    leases: dict[str, Lease | None]
    log: LogOverview | None
    records: dict[str, CollectionUsage] = field(default_factory=dict)
    """What requests leave behind, by kind."""

    def holder(self, job: str) -> str | None:
        """Who does a job; None where its lease has run out, was given back, or never was."""
        lease = self.leases[job]
        return lease.owner if lease and lease.live else None

    def age(self, snapshot: StoredSnapshot) -> float:
        """Seconds since a snapshot was finished."""
        return max(0.0, (self.now - snapshot.at).total_seconds())


async def read_overview(stores: Stores) -> Overview:
    """Read them. Raises `Unavailable`."""
    now = await wall_time(stores.log)
    leases = {job: await stores.leases.read(job) for job in JOBS}
    log = await stores.logs.current()
    records = {kind: await _records(stores, name) for kind, name in _RECORDS.items()}
    return Overview(now, leases, await _of_log(stores, log) if log else None, records)


async def _records(stores: Stores, name: str) -> CollectionUsage:
    with translated(f"the size of {name} can't be read"):
        return await stored(stores.log[name])


async def _of_log(stores: Stores, log: Log) -> LogOverview:
    # The marks before the tail: the tail never goes back, so the floor is never beyond it.
    tiers = await stores.tiers.read(log.id)
    head = await stores.events.head(log.id)
    return LogOverview(
        log,
        head,
        tiers,
        await _hot(stores, log.id, tiers.archived_up_to, head),
        await stores.archive.segments.totals(log.id),
        await stores.stored.listing(log.id),
    )


async def _hot(stores: Stores, log: LogId, archived_up_to: Seq, head: Seq) -> HotTier:
    """The newest events are not tallied yet: taken to be as large as the others."""
    tally, events = await stores.counters.after(log, archived_up_to), max(0, head - archived_up_to)
    return HotTier(events, round(tally.bytes / tally.events * events) if tally.events else 0)
