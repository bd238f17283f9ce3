"""Sequencing: the rate of a worker on a backlog, beside a bare change-stream reader.

A log in which an event is missing, doubled or out of place fails the run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.crowd.messages import WrongError
from scripts.bench.deployment import Deployment, cpu_seconds, running, say
from scripts.bench.report import Goal, Table, empty_rows, note
from scripts.bench.stage import until

_BATCH: Final = 1000
_PATIENCE: Final = 400.0

_BACKLOG: Final = """\
Changes that were made while no worker ran, then a worker: from the first appended event that is seen to the last one.
*reader* is a bare change stream with the same images that only counts raw BSON. CPU is µs an event."""

GOALS: Final = (
    Goal("sequencing a backlog, of a bare reader", "From a backlog", "", "of the reader", 0.5, at_least=True),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of change: inserts of documents of `size` bytes, or small updates of such."""

    name: str
    size: int
    update: bool = False


KINDS: Final = (
    Kind("insert 0.3 KiB", 300),
    Kind("insert 1 KiB", 1024),
    Kind("insert 5 KiB", 5 * 1024),
    Kind("small update of 1 KiB", 1024, update=True),
)


OPTIONS: Final = {
    "changes": (200_000, "changes of a backlog"),
    "rounds": (3, "rounds"),
    "only": ("", "only kinds whose name has this in it"),
}


def setup(options: argparse.Namespace) -> dict[str, str]:
    """Return what is the same for all figures."""
    return {"backlog": f"{options.changes:,} changes", "rounds": f"{options.rounds}, alternating"}


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where the log was not exact."""
    rows, kinds = empty_rows(), [kind for kind in KINDS if options.only in kind.name]
    for number in range(options.rounds):
        # Every other round goes the other way round, so that no kind always has the warmer machine.
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            name = f"backlog_{kind.size}_{kind.update}_{number}"
            async with _tracking(deployment, kind, options.changes, name) as (settings, stores):
                figures = await _backlog(deployment, settings, stores, kind, options.changes)
            say(f"{kind.name}: " + ", ".join(f"{column} {value:,.2f}" for column, value in figures.items()))
            note(rows[kind.name], figures)
    return [Table("From a backlog", _BACKLOG, rows)]


@asynccontextmanager
async def _tracking(
    deployment: Deployment, kind: Kind, count: int, name: str
) -> AsyncIterator[tuple[Settings, Stores]]:
    """Give a database whose collection `docs` is tracked, its base stored and its worker gone; drop it afterwards."""
    settings = Settings(mongodb_uri=deployment.uri, database=name, collections=("docs",))
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        if kind.update:
            await _insert(stores.data["docs"], count, kind.size)
        with running("worker", settings, deployment.directory):
            await until("the base", lambda: _based(stores))
        yield settings, stores
        for database in (settings.database, settings.log_db):
            await client.drop_database(database)


async def _backlog(
    deployment: Deployment, settings: Settings, stores: Stores, kind: Kind, count: int
) -> dict[str, float]:
    """Run a worker on a backlog of `count` changes, and the floors on the same changes."""
    docs = stores.data["docs"]
    async with watch(stores.data, []) as stream:
        token = stream.token
    if kind.update:
        for first in range(0, count, _BATCH):
            changes = [UpdateOne({"_id": n}, change(n)) for n in range(first, min(count, first + _BATCH))]
            await docs.bulk_write(changes, ordered=False)
    else:
        await _insert(docs, count, kind.size)
    with running("worker", settings, deployment.directory) as worker:
        first = await until("an event", lambda: _reached(stores, 1), _PATIENCE)
        began, pids = time.perf_counter(), (worker, deployment.pid)
        used = [cpu_seconds(pid) for pid in pids]
        await until("all events", lambda: _reached(stores, count), _PATIENCE)
        seconds, events = time.perf_counter() - began, count - first
        worker_cpu, mongod_cpu = (cpu_seconds(pid) - before for pid, before in zip(pids, used, strict=True))
    await _check(stores, count)
    rate, reader = events / seconds, count / await _read_only(stores.data, token, count)
    return {
        "events/s": rate,
        "worker CPU": worker_cpu / events * 1e6,
        "mongod CPU": mongod_cpu / events * 1e6,
        "reader/s": reader,
        "of the reader": rate / reader,
    }


async def _based(stores: Stores) -> bool:
    """Return True if the collection is active and its base is stored."""
    found = await stores.log["collections"].find_one({"_id": "docs", "log": {"$ne": None}})
    return found is not None and await stores.log["snapshots"].find_one({"complete": True}) is not None


async def _reached(stores: Stores, seq: int) -> int:
    """Return the newest event's number once it is `seq` or more; else 0."""
    row = await stores.log["events"].find_one({}, {"_id": 1}, sort=[("_id", -1)])
    newest = int(row["_id"]["n"]) if row else 0
    return newest if newest >= seq else 0


async def _check(stores: Stores, count: int) -> None:
    """Raise `WrongError` unless the log has one event for each document, numbered 1, 2, 3 …"""
    seen, last = set(), 0
    async for row in stores.log["events"].find({}, {"i": 1}).sort("_id"):
        last += 1
        seen.add(row["i"])
        if row["_id"]["n"] != last:
            raise WrongError(f"event {row['_id']['n']} stands at place {last}")
    if last != count or len(seen) != count:
        raise WrongError(f"{last} events about {len(seen)} documents, of {count} changes")


async def _read_only(database: AsyncDatabase[Any], after: str, count: int) -> float:
    """Return the seconds in which a bare change stream brings `count` changes that are only counted."""
    async with watch(database, [{"$match": {"ns.coll": "docs"}}], after=after, images=True) as stream:
        left = count - len((await stream.read(wait=1.0, limit=1)).changes)
        began = time.perf_counter()
        while left > 0:
            left -= len((await stream.read(wait=1.0, limit=_BATCH)).changes)
        return time.perf_counter() - began


async def _insert(collection: AsyncCollection[dict[str, Any]], count: int, size: int) -> None:
    for first in range(0, count, _BATCH):
        documents = [document(number, size) for number in range(first, min(count, first + _BATCH))]
        await collection.insert_many(documents, ordered=False)


def document(number: int, size: int) -> dict[str, Any]:
    """Return an order of about `size` bytes of BSON: flat fields of the usual types, an object, and a list of lines."""
    return {
        "_id": number,
        "status": "open",
        "total": Decimal128("129.90"),
        "at": datetime(2026, 1, 1, 12, tzinfo=UTC),
        "customer": ObjectId(),
        "count": Int64(2**40 + number),
        "score": 0.5,
        "address": {"street": "12 Long Street", "city": "Longtown", "open": True},
        "lines": [
            {"sku": f"bravo-{number + line}", "qty": line, "price": 12.5} for line in range(max(0, size - 220) // 54)
        ],
    }


def change(number: int) -> dict[str, Any]:
    """Return a small update: two fields of the many."""
    return {"$set": {"status": "paid", "address.city": f"Town {number}"}}
