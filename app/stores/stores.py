"""The stores of one process, made together from one client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from app.settings import Settings
from app.stores.events import EventStore
from app.stores.leases import LeaseStore
from app.stores.logs import LogStore
from app.stores.mongodb import Client
from app.stores.snapshots import SnapshotReader
from app.stores.tracking import TrackingStore

SEQUENCING = "sequencing"
"""The job whose lease holder appends to the log."""


@dataclass(frozen=True, slots=True)
class Stores:
    """`data` is the user's database, `log` the event log's."""

    data: AsyncDatabase[Any]
    log: AsyncDatabase[Any]
    events: EventStore
    logs: LogStore
    leases: LeaseStore
    tracking: TrackingStore
    snapshots: SnapshotReader

    @classmethod
    def of(cls, client: Client, settings: Settings) -> Stores:
        """The stores that `settings` name, reached through `client`."""
        data, log = client[settings.database], client[settings.log_db]
        logs = LogStore(log)
        return cls(data, log, EventStore(log), logs, LeaseStore(log), TrackingStore(log), SnapshotReader(data, logs))

    async def ensure_indexes(self) -> None:
        """Make what is missing; a worker does this before it does anything else."""
        await self.logs.ensure_indexes()
        await self.events.ensure_indexes()
