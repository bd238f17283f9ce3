"""Logs with events of their own making, a local archive, and the jobs that move events between the tiers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart, timestamp
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.format import SealedEvent
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import Document
from eventsync.settings import Settings
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.archiver import Archiver
from eventsync_workers.jobs.compactor import Compactor
from support.waiting import patience

BEGAN = datetime(2020, 1, 1, tzinfo=UTC)


def event(
    seq: int,
    collection: str = "docs",
    id_text: str | None = None,
    *,
    transaction: TransactionPart | None = None,
    pad: str = "x" * 20,
) -> NewEvent:
    """Event `seq` replaces a document. It was committed `seq` seconds after `BEGAN`."""
    text, at = IdText(id_text or f"int:{seq % 10}"), BEGAN + timedelta(seconds=seq)
    body = {"seq": seq, "collection": collection, "id": text, "op": "replace", "base": 0, "version": seq}
    body |= {"doc": {"_id": text, "n": seq, "pad": pad}, "at": timestamp(at)}
    stored = StoredEvent(Seq(seq), collection, text, orjson.dumps(body), transaction)
    type_hints = ("/n",) if seq % 7 == 0 else ()
    return NewEvent(stored, seq, f"82{seq:08}", Timestamp(int(at.timestamp()), seq), type_hints)


def sealed(new: NewEvent) -> SealedEvent:
    """Return an event as it has to be read back."""
    stored = new.event
    return SealedEvent(
        stored.seq,
        stored.collection,
        stored.id,
        new.version,
        new.time,
        stored.body,
        tuple(new.type_hints),
        stored.transaction,
    )


async def begun(stores: Stores, events: Sequence[NewEvent], collections: Iterable[str] = ("docs",)) -> LogId:
    """A log with these events, its collections active in it and with a stored snapshot at the newest event."""
    await stores.ensure_indexes()
    now = (await stores.data.command("ping"))["operationTime"]
    current = await stores.logs.current()
    begun = await stores.logs.begin(current, cluster="c", reason="r", token="82AA", time=now)
    await stores.tracking.ask(collections)
    await stores.tracking.activate(collections, begun.id, Seq(0))
    await stores.events.append(begun.id, events)
    for name in collections:
        await stored(stores, begun.id, name, events[-1].event.seq)
    return begun.id


async def stored(stores: Stores, log: LogId, name: str, seq: int) -> None:
    """An (empty) stored snapshot at `seq`: what it says is not looked at here."""

    async def documents() -> AsyncGenerator[tuple[int, Document]]:
        none: list[tuple[int, Document]] = []
        for row in none:
            yield row

    await stores.snapshots.stored.write(log, name, Seq(seq), Timestamp(1, 1), documents())


def archiver(stores: Stores, settings: Settings) -> Archiver:
    return Archiver(stores, settings, "me", asyncio.Event())


def compactor(stores: Stores, settings: Settings) -> Compactor:
    return Compactor(stores, settings, "me", asyncio.Event())


def crashed_archiver(settings: Settings, step: str, when: str) -> int:
    """Run an archiver as a process of its own that kills itself `before` or `after` a step; returns its exit code."""
    given = settings.model_dump(exclude_defaults=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
    environment |= {f"EVENTSYNC_{name.upper()}": str(value) for name, value in given.items()}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, Path(__file__).parents[1:3]))  # the tests, the project
    command = [sys.executable, "-m", "support.crashing_archiver", step, when]
    return subprocess.run(command, env=environment, timeout=patience(60), check=False).returncode


async def everything(
    stores: Stores, log: LogId, after: int, up_to: int, shape: Shape | None = None
) -> list[SealedEvent]:
    async with aclosing(stores.archive.tiered.read(log, Seq(after), Seq(up_to), shape)) as events:
        return [event async for event in events]


async def hot_seqs(stores: Stores, log: LogId) -> list[int]:
    rows = stores.log["events"].find({"_id.l": log}, {"_id": 1}, sort=[("_id", 1)])
    return [row["_id"]["n"] async for row in rows]
