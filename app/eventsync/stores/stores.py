"""The stores of one process, made together from one client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from eventsync.concurrency.offload import Offload, inline
from eventsync.mongodb.client import Client
from eventsync.mongodb.leases import LeaseStore
from eventsync.settings import Settings
from eventsync.stores.archive.archive import Archive
from eventsync.stores.archive.tiered_log import TieredEvents
from eventsync.stores.clients.state_vectors import VectorStore
from eventsync.stores.history.comparison import Comparison
from eventsync.stores.history.history import History
from eventsync.stores.history.instants import Instants
from eventsync.stores.history.log_state import LogState
from eventsync.stores.log.events import EventStore
from eventsync.stores.log.gap_check import GapCheck
from eventsync.stores.log.hot_tier import HotRows
from eventsync.stores.log.logs import LogStore
from eventsync.stores.log.tiers import TierStore
from eventsync.stores.log.tracking import TrackingStore
from eventsync.stores.snapshots.live_snapshots import SnapshotReader
from eventsync.stores.snapshots.pins import Pins
from eventsync.stores.snapshots.requests import SnapshotRequests
from eventsync.stores.snapshots.squashed import Squashed
from eventsync.stores.snapshots.store import SnapshotStore
from eventsync.stores.stats.counters import Counters
from eventsync.stores.stats.estimates import Estimates

SEQUENCING = "sequencing"
"""The job whose lease holder appends to the log."""

ARCHIVING = "archiving"
"""The job whose lease holder moves events to the cold tier."""

COMPACTING = "compacting"
"""The job whose lease holder removes expired data."""

SNAPSHOTTING = "snapshotting"
"""The job whose lease holder stores snapshots."""


@dataclass(frozen=True, slots=True)
class Stores:
    """`data` is the user's database, `log` the event log's.

    `snapshots` reads the collections themselves, `stored` is what was kept of them, `state` what the log makes of it.
    """

    data: AsyncDatabase[Any]
    log: AsyncDatabase[Any]
    events: EventStore
    logs: LogStore
    leases: LeaseStore
    tracking: TrackingStore
    snapshots: SnapshotReader
    stored: SnapshotStore
    history: History
    state: LogState
    comparison: Comparison
    instants: Instants
    tiers: TierStore
    squashed: Squashed
    estimates: Estimates
    pins: Pins
    counters: Counters
    requests: SnapshotRequests
    hot: HotRows
    tiered: TieredEvents
    archive: Archive
    vectors: VectorStore
    offload: Offload
    gap_check: GapCheck

    @classmethod
    def of(cls, client: Client, settings: Settings, offload: Offload | None = None) -> Stores:
        """Make the stores that `settings` name, on `client`.

        `offload` does long computations; without it, they run on the event loop.
        """
        offload = offload or inline()
        data, log = client[settings.database], client[settings.log_db]
        logs, tracking, tiers = LogStore(log), TrackingStore(log), TierStore(log)
        hot, archive = HotRows(log, tiers), Archive.of(log, tiers, settings)
        counters = Counters(log)
        tiered = TieredEvents(hot, archive.reader, tiers)
        events = EventStore(log, tiered)
        history = History(hot, archive, tiered, tiers, counters)
        snapshots = SnapshotReader(data, logs, offload)
        stored = SnapshotStore(log, chunk_bytes=settings.snapshot_chunk_bytes)
        squashed = Squashed(log, snapshots, hot.gap_check)
        pins = Pins(log, settings.pin_ttl)
        state = LogState(history, stored, tracking, squashed, pins, offload)
        return cls(
            data,
            log,
            events,
            logs,
            LeaseStore(log),
            tracking,
            snapshots,
            stored,
            history,
            state,
            Comparison(snapshots, state),
            Instants(log, events, tiers, archive.reader),
            tiers,
            squashed,
            Estimates(data, log),
            pins,
            counters,
            SnapshotRequests(log),
            hot,
            tiered,
            archive,
            VectorStore(
                log,
                max_shapes=settings.client_shapes,
                max_clients=settings.max_clients,
                max_bytes=settings.client_bytes,
            ),
            offload,
            hot.gap_check,
        )

    async def ensure_indexes(self) -> None:
        """Create missing indexes. A worker does this first."""
        await self.logs.ensure_indexes()
        await self.events.ensure_indexes()
        await self.stored.ensure_indexes()
        await self.requests.ensure_indexes()
        await self.pins.ensure_indexes()
        await self.archive.touched.ensure_indexes()
