"""Sequencing: the rate of a worker on a backlog, beside a bare change-stream reader.

A log in which an event is missing, doubled or out of place fails the run.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo import UpdateOne
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.positions import LogId
from eventsync.mongodb.change_stream import watch
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.clients.exactness import SHAPE, WrongError
from scripts.bench.deployment import Cpu, Deployment, running
from scripts.bench.report import Figures, Goal, Rows, Table, alternating
from scripts.bench.stage import head_of, insert, tracked, until

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
QUICK: Final = "--changes 2000 --rounds 1"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where the log was not exact."""
    rows, count = Rows(), options.changes
    for number, kind in alternating(options.rounds, [kind for kind in KINDS if options.only in kind.name]):
        documents = (document(one, kind.size) for one in range(count))
        name, before = f"backlog_{kind.size}_{kind.update}_{number}", documents if kind.update else ()
        async with tracked(deployment, name, before) as (settings, stores, log):
            docs = stores.data[SHAPE]
            async with watch(stores.data, []) as stream:
                token = stream.token
            if kind.update:
                for first in range(0, count, _BATCH):
                    changes = [UpdateOne({"_id": n}, change(n)) for n in range(first, min(count, first + _BATCH))]
                    await docs.bulk_write(changes, ordered=False)
            else:
                await insert(docs, documents)
            figures = await sequenced(deployment, settings, stores, log, count)
            reader = count / await _read_only(stores.data, token, count)
            rows.note(kind.name, figures | {"reader/s": reader, "of the reader": figures["events/s"] / reader})
    return [Table("From a backlog", _BACKLOG, rows)]


async def sequenced(deployment: Deployment, settings: Settings, stores: Stores, log: LogId, count: int) -> Figures:
    """Run a worker on a backlog of `count` changes. Raises `WrongError` unless its log has each once."""

    async def reached(seq: int) -> int:
        head = await head_of(stores, log)
        return head if head >= seq else 0

    with running("worker", settings, deployment.directory) as worker:
        first = await until("an event", lambda: reached(1), _PATIENCE)
        began, cpu = time.perf_counter(), Cpu(worker=worker, mongod=deployment.pid)
        await until("all events", lambda: reached(count), _PATIENCE)
        seconds, events = time.perf_counter() - began, count - first
        used = {f"{name} CPU": seconds / events * 1e6 for name, seconds in cpu.used().items()}
    await _check(stores, count)
    return {"events/s": events / seconds} | used


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
    async with watch(database, [{"$match": {"ns.coll": SHAPE}}], after=after, images=True) as stream:
        left = count - len((await stream.read(wait=1.0, limit=1)).changes)
        began = time.perf_counter()
        while left > 0:
            left -= len((await stream.read(wait=1.0, limit=_BATCH)).changes)
        return time.perf_counter() - began


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
