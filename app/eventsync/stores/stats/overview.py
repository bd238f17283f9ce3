"""An overview for operators: the log, its tiers, its snapshots and its jobs.

The metrics and `eventsync status` share this reading, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.capacity import CollectionUsage, stored
from eventsync.mongodb.clocks import wall_time
from eventsync.mongodb.errors import translated
from eventsync.mongodb.leases import Lease
from eventsync.stores.archive.segments import SegmentTotals
from eventsync.stores.log.logs import Log
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import ARCHIVING, COMPACTING, SEQUENCING, SNAPSHOTTING, Stores

JOBS = (SEQUENCING, SNAPSHOTTING, ARCHIVING, COMPACTING)
"""The jobs whose lease holders the overview includes."""

_RECORDS: Final = {
    "idempotency_keys": "operations",
    "clients": "state_vectors",
    "pins": "pins",
    "snapshot_requests": "snapshot_requests",
    "touched": "touched",
}
"""The collections with records of requests and readers, by the kind of record."""


@dataclass(frozen=True, slots=True)
class HotTierSize:
    """The events in MongoDB. `events` is exact; `bytes` (of BSON) is estimated from the counters."""

    events: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class LogOverview:
    """One log: its head and the data kept of it. `snapshots` are the complete ones, by seq."""

    log: Log
    head: Seq
    tiers: Tiers
    hot: HotTierSize
    cold: SegmentTotals
    snapshots: list[StoredSnapshot]
    journal_delay: float | None = None
    """See `eventsync.stores.log.logs.Checkpoint`."""
    unrouted: Mapping[str, int] = field(default_factory=dict)
    """Events whose document is in no route of some definition, by collection, as far as events are counted."""

    @property
    def newest(self) -> list[StoredSnapshot]:
        """The newest snapshot of each whole collection, by collection."""
        newest = {item.shape: item for item in self.snapshots if item.shape == item.collection}
        return [newest[name] for name in sorted(newest)]


@dataclass(frozen=True, slots=True)
class Overview:
    """The overview at `now` by MongoDB's clock. `log` is None before a worker has run. `leases` is by job."""

    now: datetime
    leases: dict[str, Lease | None]
    log: LogOverview | None
    records: dict[str, CollectionUsage] = field(default_factory=dict)
    """The records of requests and readers, by kind."""

    def holder(self, job: str) -> str | None:
        """Return the owner of a job's live lease, or None."""
        lease = self.leases[job]
        return lease.owner if lease and lease.live else None

    def age(self, snapshot: StoredSnapshot) -> float:
        """Return the seconds since a snapshot was finished."""
        return max(0.0, (self.now - snapshot.at).total_seconds())


async def read_overview(stores: Stores) -> Overview:
    """Read the overview. Raises `Unavailable`."""
    now = await wall_time(stores.log)
    leases = {job: await stores.leases.read(job) for job in JOBS}
    log = await stores.logs.current()
    records = {kind: await _records(stores, name) for kind, name in _RECORDS.items()}
    return Overview(now, leases, await _of_log(stores, log) if log else None, records)


async def _records(stores: Stores, name: str) -> CollectionUsage:
    with translated(f"the size of {name} can't be read"):
        return await stored(stores.log[name])


async def _of_log(stores: Stores, log: Log) -> LogOverview:
    # The tiers are read before the head. The head never decreases, so `archived_up_to` is never beyond it.
    tiers = await stores.tiers.read(log.id)
    head = await stores.events.head(log.id)
    return LogOverview(
        log,
        head,
        tiers,
        await _hot(stores, log.id, tiers.archived_up_to, head),
        await stores.archive.segments.totals(log.id),
        await stores.snapshots.stored.listing(log.id),
        await stores.logs.journal_delay(log.id),
        await stores.stats.counters.unrouted(log.id),
    )


async def _hot(stores: Stores, log: LogId, archived_up_to: Seq, head: Seq) -> HotTierSize:
    """Read the hot tier. Events that are not counted yet are assumed to be as large as the others."""
    count, events = await stores.stats.counters.after(log, archived_up_to), max(0, head - archived_up_to)
    return HotTierSize(events, round(count.bytes / count.events * events) if count.events else 0)
