"""`eventsync status`: shows the log, its leader, its tiers, the tracked collections and the known clients.

Clients are known by what they have acknowledged. The positions of others are known only to the servers that they are
connected to (`/metrics`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import typer

from eventsync.cli import status_remote, status_tiers
from eventsync.cli.console import OUT, print_json, print_table, printable
from eventsync.cli.options import Database, Json, MongodbUri, Token, Url, check_url
from eventsync.mongodb.leases import Lease
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.clients.state_vectors import KnownClients
from eventsync.stores.log.logs import Checkpoint, Log
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.readiness import connected
from eventsync.stores.stats.lag import Lag, LagReader
from eventsync.stores.stats.overview import Overview, read_overview
from eventsync.stores.stores import SEQUENCING, Stores


@dataclass(frozen=True, slots=True)
class Status:
    """The state of everything at one time. `lag` is how far the log is behind the collections."""

    settings: Settings
    overview: Overview
    checkpoint: Checkpoint | None
    collections: list[TrackedCollection]
    lag: Lag | None
    clients: KnownClients | None

    @property
    def now(self) -> datetime:
        """The time by MongoDB's clock."""
        return self.overview.now

    @property
    def log(self) -> Log | None:
        """The log in force."""
        return self.overview.log.log if self.overview.log else None

    @property
    def head(self) -> int:
        """The newest event's seq."""
        return self.overview.log.head if self.overview.log else 0

    @property
    def lease(self) -> Lease | None:
        """The sequencer's lease."""
        return self.overview.leases[SEQUENCING]

    @property
    def leader(self) -> str | None:
        """The holder of the lease, unless it has expired."""
        return self.lease.owner if self.lease and self.lease.live else None

    @property
    def checkpoint_age(self) -> float | None:
        """Seconds since the log's newest checkpoint."""
        return max(0.0, (self.now - self.checkpoint.at).total_seconds()) if self.checkpoint else None

    def state(self, item: TrackedCollection) -> str:
        """Return the state of a collection: `tracked`, `asked` (requested) or `refused`."""
        if self.log and item.log == self.log.id:
            return "tracked"
        return "refused" if item.refused else "asked"


def status(
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Show the log, its leader and lag, and the tracked collections. Exit code 1 when no worker leads.

    With --url, show what a server knows of all servers and workers: problems first, rates, and connections.
    """
    if url is not None:
        check_url(url, mongodb_uri, database)
        if not status_remote.show(url, token, as_json=as_json):
            raise typer.Exit(1)
        return
    found = event_loop.run(_read(load_settings(mongodb_uri=mongodb_uri, database=database)))
    if as_json:
        print_json(_tree(found))
    else:
        _show(found)
    if found.leader is None:
        raise typer.Exit(1)


async def _read(settings: Settings) -> Status:
    async with connected(settings, "status") as client:
        stores = Stores.of(client, settings)
        overview = await read_overview(stores)
        log = overview.log.log if overview.log else None
        checkpoint = await stores.logs.read_checkpoint(log.id) if log else None
        tracked = await stores.tracking.read()
        reader = LagReader(stores.data, stores.events, stores.logs, stores.tracking)
        lag = await reader.read(log.id) if log else None
        clients = await stores.vectors.known(log.id) if log else None
        return Status(settings, overview, checkpoint, tracked, lag, clients)


def _tree(found: Status) -> dict[str, Any]:
    log, age = found.log, found.checkpoint_age
    return {
        "log": {"id": log.id, "number": log.number, "reason": log.reason} if log else None,
        "head": f"{log.id}:{found.head}" if log else None,
        "leader": found.leader,
        "lag": _lag_tree(found.lag),
        "clients": asdict(found.clients) if found.clients else None,
        "journal_delay": _journal_delay(found),
        "checkpoint": {"seq": found.checkpoint.seq, "age": round(age or 0.0, 3)} if found.checkpoint else None,
        "collections": [
            {"name": item.name, "state": found.state(item), "base": item.tracked_from if item.log else None}
            | ({"reason": item.refused} if item.refused else {})
            for item in found.collections
        ],
        **status_tiers.tree(found.overview, found.settings),
    }


def _lag_tree(lag: Lag | None) -> dict[str, Any] | None:
    if lag is None:
        return None
    known = lag.unknown is None
    return {
        "events": lag.changes if known else None,
        "more": lag.more,
        "seconds": round(lag.seconds, 3) if known else None,
        "unknown": lag.unknown,
    }


def _show(found: Status) -> None:
    age = found.checkpoint_age
    rows = [
        ["log", f"{found.log.id} (number {found.log.number}: {found.log.reason})" if found.log else "none yet"],
        ["head", f"{found.log.id}:{found.head}" if found.log else "-"],
        ["leader", _leader(found)],
        ["lag", _lag(found.lag)],
        ["clients", _clients(found.clients, found.head)],
        ["checkpoint", f"at {found.checkpoint.seq}, {age:.1f} s old" if found.checkpoint else "-"],
        *([["journal", _journal(delay)]] if (delay := _journal_delay(found)) is not None else []),
        *status_tiers.rows(found.overview, found.settings),
    ]
    print_table(["", ""], rows)
    OUT.print()
    listed = [
        [item.name, found.state(item), str(item.tracked_from) if item.log else "-", item.refused or ""]
        for item in found.collections
    ]
    if listed:
        refused = any(item.refused for item in found.collections)
        headers = ["collection", "state", "base", "reason"]
        print_table(headers if refused else headers[:3], [row if refused else row[:3] for row in listed])
    else:
        OUT.print("no collection is tracked: run `eventsync track NAME`")
    if stored := status_tiers.snapshot_rows(found.overview):
        OUT.print()
        print_table(["newest snapshot", "seq", "age", "documents", "bytes"], stored)


def _journal_delay(found: Status) -> float | None:
    return found.overview.log.journal_delay if found.overview.log else None


def _journal(delay: float) -> str:
    return (
        f"flushed by the worker: changes of writers with w: 1 wait {delay * 1000:.0f} ms for it otherwise "
        "(mongod --journalCommitInterval)"
    )


def _lag(lag: Lag | None) -> str:
    if lag is None:
        return "-"
    if lag.unknown is not None:
        return f"not known: {lag.unknown}"
    if not lag.changes:
        return "0 events: not all changes could be read" if lag.more else "0 events, 0.0 s"
    return f"{'>= ' if lag.more else ''}{lag.changes} events, {lag.seconds:.1f} s"


def _clients(known: KnownClients | None, head: int) -> str:
    if known is None or known.seq is None:
        return f"{known.count if known else 0} known"
    behind = max(0, head - known.seq)
    return f"{known.count} known; furthest behind, by {behind}: {printable(known.oldest or '')} at {known.seq}"


def _leader(found: Status) -> str:
    if found.lease is None:
        return "none: start `eventsync worker`"
    ago = (found.now - found.lease.until).total_seconds()
    return found.lease.owner if found.lease.live else f"none (the lease of {found.lease.owner} {_ended(ago)})"


def _ended(seconds: float) -> str:
    # A released lease ends at the epoch.
    return f"expired {seconds:.0f} s ago" if seconds < 86400 else "expired or was released"
