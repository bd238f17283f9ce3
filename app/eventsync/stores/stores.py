"""The stores of one process, made together from one client."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from eventsync.concurrency.offload import Offload, inline
from eventsync.domain.events import timestamp
from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client
from eventsync.mongodb.errors import translated
from eventsync.mongodb.leases import LeaseStore
from eventsync.settings import Settings
from eventsync.stores.access.keys import KeyStore
from eventsync.stores.access.revocations import RevocationStore
from eventsync.stores.access.tickets import TicketStore
from eventsync.stores.archive.archive import Archive
from eventsync.stores.clients.state_vectors import VectorStore
from eventsync.stores.formats import FormatStore
from eventsync.stores.history.change_reader import ChangeReader
from eventsync.stores.history.comparison import Comparison
from eventsync.stores.history.instants import Instants
from eventsync.stores.history.log_state import LogState
from eventsync.stores.log.events import EventStore
from eventsync.stores.log.hot_tier import HotRows
from eventsync.stores.log.logs import LogStore
from eventsync.stores.log.registry import DefinitionStore
from eventsync.stores.log.repairs import RepairStore
from eventsync.stores.log.tiers import TierStore
from eventsync.stores.log.tracking import TrackingStore
from eventsync.stores.snapshots.live_snapshots import SnapshotReader
from eventsync.stores.snapshots.pins import Pins
from eventsync.stores.snapshots.requests import SnapshotRequests
from eventsync.stores.snapshots.squashed import Squashed
from eventsync.stores.snapshots.store import SnapshotStore
from eventsync.stores.stats.counters import Counters
from eventsync.stores.stats.estimates import Estimates
from eventsync.stores.stats.processes import ProcessStore

SEQUENCING = "sequencing"
"""The job whose lease holder appends to the log."""

ARCHIVING = "archiving"
"""The job whose lease holder moves events to the cold tier."""

COMPACTING = "compacting"
"""The job whose lease holder removes expired data."""

SNAPSHOTTING = "snapshotting"
"""The job whose lease holder stores snapshots."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The stores of snapshots. `live` reads the collections themselves, `stored` what was kept of them."""

    live: SnapshotReader
    stored: SnapshotStore
    squashed: Squashed
    pins: Pins
    requests: SnapshotRequests


@dataclass(frozen=True, slots=True)
class History:
    """The readers of past states. `state` is a collection according to the log."""

    reader: ChangeReader
    state: LogState
    comparison: Comparison
    instants: Instants


@dataclass(frozen=True, slots=True)
class Stats:
    """The numbers about the log and the collections. `counters` are exact, `estimates` are not.

    `processes` are the servers and workers that run.
    """

    counters: Counters
    estimates: Estimates
    processes: ProcessStore


@dataclass(frozen=True, slots=True)
class Credentials:
    """The stores of identity."""

    keys: KeyStore
    tickets: TicketStore
    revocations: RevocationStore

    @classmethod
    def of(cls, log: AsyncDatabase[Any], settings: Settings) -> Credentials:
        """Make the stores in the log's database."""
        return cls(
            KeyStore(log, max_keys=settings.service_keys),
            TicketStore(log, max_tickets=settings.max_tickets, per_principal=settings.principal_tickets),
            RevocationStore(log, max_revocations=settings.max_revocations),
        )

    async def newest_revocation(self) -> datetime | None:
        """Return the time of the newest revocation, of a key or of others. Raises `Unavailable`."""
        times = [await self.revocations.newest(), *(key.revoked for key in await self.keys.read())]
        return max((at for at in times if at is not None), default=None)

    async def ensure_indexes(self) -> None:
        """Create missing indexes. Raises `Unavailable`."""
        await self.keys.ensure_indexes()
        await self.tickets.ensure_indexes()
        await self.revocations.ensure_indexes()


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores by room. `data` is the user's database, `log` the event log's.

    The stores of the log itself (`events` to `hot`) stand here, because every part of eventsync works with them.
    """

    data: AsyncDatabase[Any]
    log: AsyncDatabase[Any]
    offload: Offload
    formats: FormatStore
    leases: LeaseStore
    events: EventStore
    logs: LogStore
    repairs: RepairStore
    tracking: TrackingStore
    definitions: DefinitionStore
    tiers: TierStore
    hot: HotRows
    archive: Archive
    snapshots: Snapshots
    history: History
    stats: Stats
    vectors: VectorStore
    credentials: Credentials

    @classmethod
    def of(cls, client: Client, settings: Settings, offload: Offload | None = None) -> Stores:
        """Make the stores that `settings` name, on `client`.

        `offload` does long computations; without it, they run on the event loop.
        """
        offload = offload or inline()
        data, log = client[settings.database], client[settings.log_db]
        logs, tracking, tiers = LogStore(log), TrackingStore(log), TierStore(log)
        hot = HotRows(log, tiers)
        archive = Archive.of(log, hot, tiers, settings)
        events = EventStore(log, archive.tiered)
        live = SnapshotReader(data, logs, offload)
        snapshots = Snapshots(
            live,
            SnapshotStore(log, chunk_bytes=settings.snapshot_chunk_bytes),
            Squashed(log, live, hot.gap_check),
            Pins(log, settings.pin_ttl),
            SnapshotRequests(log),
        )
        stats = Stats(Counters(log), Estimates(data, log), ProcessStore(log, settings.report_interval))
        reader = ChangeReader(hot, archive, stats.counters)
        state = LogState(reader, snapshots.stored, tracking, snapshots.squashed, snapshots.pins, offload)
        instants = Instants(log, events, tiers, archive.reader)
        return cls(
            data=data,
            log=log,
            offload=offload,
            formats=FormatStore(log),
            leases=LeaseStore(log),
            events=events,
            logs=logs,
            repairs=RepairStore(log),
            tracking=tracking,
            definitions=DefinitionStore(log),
            tiers=tiers,
            hot=hot,
            archive=archive,
            snapshots=snapshots,
            history=History(reader, state, Comparison(live, state), instants),
            stats=stats,
            vectors=VectorStore(
                log,
                max_shapes=settings.client_shapes,
                max_clients=settings.max_clients,
                max_bytes=settings.client_bytes,
                max_own=settings.principal_clients,
            ),
            credentials=Credentials.of(log, settings),
        )

    def written_by(self, client: Client, term: str) -> Stores:
        """Return these stores for the leader of a term, with those that it writes on `client`."""
        log = client[self.log.name]
        return replace(
            self,
            log=log,
            events=EventStore(log, self.archive.tiered),
            logs=LogStore(log, term),
            tracking=TrackingStore(log),
            definitions=DefinitionStore(log),
        )

    async def has_collection(self, name: str) -> bool:
        """Return True if the user's database has a collection of this name. Raises `Unavailable`."""
        with translated("the collections can't be listed"):
            return bool(await self.data.list_collection_names(filter={"name": name}))

    async def access_in_force(self) -> str:
        """Describe the rules and revocations for an operator: a restored backup has those of its time."""
        try:
            rules, newest = (await self.definitions.read()).rules, await self.credentials.newest_revocation()
        except Unavailable as error:
            found = f"the rules and revocations in force are not known: {error.message}"
        else:
            found = "no rules are in force" if rules is None else f"rules {rules.number} are in force"
            found += ", and nothing is revoked" if newest is None else f", newest revocation {timestamp(newest)}"
        return f"{found}; if a backup was restored, apply and revoke again (docs/guides/backup.md)"

    async def ensure_indexes(self) -> None:
        """Record the versions of the stored formats, and create missing indexes. A worker does this first.

        Raises `IncompatibleFormat` before anything is written, and `Unavailable`.
        """
        await self.formats.ensure()
        await self.logs.ensure_indexes()
        await self.events.ensure_indexes()
        await self.snapshots.stored.ensure_indexes()
        await self.snapshots.requests.ensure_indexes()
        await self.snapshots.pins.ensure_indexes()
        await self.archive.touched.ensure_indexes()
        await self.archive.segments.ensure_indexes()
        await self.credentials.ensure_indexes()
        await self.stats.processes.ensure_indexes()
