"""The stores of one process, made together from one client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from app.settings import Settings
from app.stores.comparison import Comparison
from app.stores.events import EventStore
from app.stores.history import History
from app.stores.leases import LeaseStore
from app.stores.log_state import LogState
from app.stores.logs import LogStore
from app.stores.mongodb import Client
from app.stores.snapshot_store import SnapshotStore
from app.stores.snapshots import SnapshotReader
from app.stores.tracking import TrackingStore

SEQUENCING = "sequencing"
"""The job whose lease holder appends to the log."""

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

    @classmethod
    def of(cls, client: Client, settings: Settings) -> Stores:
        """The stores that `settings` name, reached through `client`."""
        data, log = client[settings.database], client[settings.log_db]
        logs, tracking, history = LogStore(log), TrackingStore(log), History(log)
        snapshots = SnapshotReader(data, logs)
        stored = SnapshotStore(log, chunk_bytes=settings.snapshot_chunk_bytes)
        state = LogState(history, stored, tracking)
        return cls(
            data,
            log,
            EventStore(log),
            logs,
            LeaseStore(log),
            tracking,
            snapshots,
            stored,
            history,
            state,
            Comparison(snapshots, state),
        )

    async def ensure_indexes(self) -> None:
        """Make what is missing; a worker does this before it does anything else."""
        await self.logs.ensure_indexes()
        await self.events.ensure_indexes()
        await self.stored.ensure_indexes()
