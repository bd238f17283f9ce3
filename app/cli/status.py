"""`eventsync status`: what the log, its leader and the tracked collections are up to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import typer

from app.cli.console import OUT, print_json, print_table
from app.cli.options import Database, Json, MongodbUri
from app.domain.values import CODEC
from app.driver import translated
from app.settings import Settings, load_settings
from app.stores.leases import Lease
from app.stores.logs import Checkpoint, Log
from app.stores.mongodb import connect
from app.stores.stores import SEQUENCING, Stores
from app.stores.tracking import TrackedCollection


@dataclass(frozen=True, slots=True)
class Status:
    """One look at everything, at `now` by MongoDB's clock. `head` is the newest event's seq."""

    now: datetime
    log: Log | None
    head: int
    checkpoint: Checkpoint | None
    lease: Lease | None
    collections: list[TrackedCollection]

    @property
    def leader(self) -> str | None:
        """Who holds the lease, if it has not run out."""
        return self.lease.owner if self.lease and self.lease.live else None

    @property
    def checkpoint_age(self) -> float | None:
        """Seconds since the log's newest checkpoint."""
        return max(0.0, (self.now - self.checkpoint.at).total_seconds()) if self.checkpoint else None

    def state(self, item: TrackedCollection) -> str:
        """Whether a collection is `tracked`, or only `asked` for."""
        return "tracked" if self.log and item.log == self.log.id else "asked"


def status(mongodb_uri: MongodbUri = None, database: Database = None, as_json: Json = False) -> None:
    """Show the log, its leader and the tracked collections. Exit code 1 when no worker leads."""
    found = asyncio.run(_read(load_settings(mongodb_uri=mongodb_uri, database=database)))
    if as_json:
        print_json(_tree(found))
    else:
        _show(found)
    if found.leader is None:
        raise typer.Exit(1)


async def _read(settings: Settings) -> Status:
    async with connect(settings, "status") as client:
        stores = Stores.of(client, settings)
        with translated("MongoDB's clock can't be read"):
            now = (await client.admin.command("hello", codec_options=CODEC))["localTime"]
        log = await stores.logs.current()
        tail = await stores.events.tail(log.id) if log else None
        checkpoint = await stores.logs.read_checkpoint(log.id) if log else None
        lease = await stores.leases.read(SEQUENCING)
        return Status(now, log, tail.seq if tail else 0, checkpoint, lease, await stores.tracking.read())


def _tree(found: Status) -> dict[str, Any]:
    log, age = found.log, found.checkpoint_age
    return {
        "log": {"id": log.id, "number": log.number, "reason": log.reason} if log else None,
        "head": f"{log.id}:{found.head}" if log else None,
        "leader": found.leader,
        "checkpoint": {"seq": found.checkpoint.seq, "age": round(age or 0.0, 3)} if found.checkpoint else None,
        "collections": [
            {"name": item.name, "state": found.state(item), "base": item.base if item.log else None}
            for item in found.collections
        ],
    }


def _show(found: Status) -> None:
    age = found.checkpoint_age
    rows = [
        ["log", f"{found.log.id} (number {found.log.number}: {found.log.reason})" if found.log else "none yet"],
        ["head", f"{found.log.id}:{found.head}" if found.log else "-"],
        ["leader", _leader(found)],
        ["checkpoint", f"at {found.checkpoint.seq}, {age:.1f} s old" if found.checkpoint else "-"],
    ]
    print_table(["", ""], rows)
    OUT.print()
    listed = [[item.name, found.state(item), str(item.base) if item.log else "-"] for item in found.collections]
    if listed:
        print_table(["collection", "state", "base"], listed)
    else:
        OUT.print("no collection is tracked: `eventsync track NAME` changes that")


def _leader(found: Status) -> str:
    if found.lease is None:
        return "none: start `eventsync worker`"
    ago = (found.now - found.lease.until).total_seconds()
    return found.lease.owner if found.lease.live else f"none (the lease of {found.lease.owner} ran out {_ago(ago)})"


def _ago(seconds: float) -> str:
    # A released lease's end is the epoch.
    return f"{seconds:.0f} s ago" if seconds < 86400 else "or was given back"
