"""One measurement of the sequencer each: a backlog, or a live load. What is not exact has no figure."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.deployment import Deployment, cpu_seconds, running
from scripts.bench.floors import insert_only, read_only
from scripts.bench.load import Kind, open_loop

Figures = dict[str, float]
Found = TypeVar("Found")

_LOOK = 0.01
"""Seconds between two looks at how far the worker is."""

_PATIENCE = 400.0
"""Seconds after which a measurement has failed."""


class InexactError(Exception):
    """The log is not what was written."""


async def backlog(deployment: Deployment, kind: Kind, count: int) -> Figures:
    """A worker on a backlog of `count` changes, and the floors on the same changes. Raises `InexactError`."""
    async with _tracking(deployment, kind, count, f"backlog_{kind.size}_{kind.update}") as (settings, stores):
        async with watch(stores.data, []) as stream:
            token = stream.token
        await kind.make(stores.data["docs"], count)
        figures = await _worker(deployment, settings, stores, count)
        await _check(stores, count)
        with_images = count / await read_only(stores.data, token, count, images=True)
        without = count / await read_only(stores.data, token, count, images=False)
        inserts = count / await insert_only(stores.log["events"])
    return figures | {
        "reader/s": with_images,
        "no images/s": without,
        "inserts/s": inserts,
        "of the reader": figures["events/s"] / with_images,
        "of the inserts": figures["events/s"] / inserts,
    }


async def live(deployment: Deployment, kind: Kind, *, rate: float, seconds: float) -> Figures:
    """A worker under an open loop of writes. Raises `InexactError`."""
    count = int(rate * seconds)
    async with _tracking(deployment, kind, count, f"live_{kind.size}_{kind.update}") as (settings, stores):
        with running("worker", settings, deployment.directory) as worker:
            await _until(lambda: _leading(stores))
            async with watch(stores.log, [{"$match": {"ns.coll": "events"}}]) as stream:
                inserts, cpu, began = await _inserts(stores), cpu_seconds(worker), time.perf_counter()
                async with asyncio.TaskGroup() as group:
                    seeing = group.create_task(_see(stream, count), name="see events")
                    docs = stores.data["docs"]
                    done = await open_loop(count, rate, lambda number: kind.one(docs, number))
                seen, ended = seeing.result(), time.perf_counter()
            used = cpu_seconds(worker) - cpu
            batches = await _inserts(stores) - inserts - (0 if kind.update else count)
        await _check(stores, count)
    lags = sorted((seen[number] - at) * 1000 for number, at in done.items())
    return {
        "events/s": count / (ended - began),
        "lag p50": statistics.median(lags),
        "lag p99": lags[int(len(lags) * 0.99)],
        "batch": count / batches,
        "worker CPU": used / count * 1e6,
    }


@asynccontextmanager
async def _tracking(
    deployment: Deployment, kind: Kind, count: int, name: str
) -> AsyncIterator[tuple[Settings, Stores]]:
    """A database whose collection `docs` is tracked, its base stored and its worker gone; dropped afterwards."""
    settings = Settings(mongodb_uri=deployment.uri, database=name, collections=("docs",))
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        await kind.prepare(stores.data["docs"], count)
        with running("worker", settings, deployment.directory):
            await _until(lambda: _based(stores))
        yield settings, stores
        await client.drop_database(settings.database)
        await client.drop_database(settings.log_db)


async def _worker(deployment: Deployment, settings: Settings, stores: Stores, count: int) -> Figures:
    with running("worker", settings, deployment.directory) as worker:
        first = await _until(lambda: _reached(stores, 1))
        began, used, server = time.perf_counter(), cpu_seconds(worker), cpu_seconds(deployment.pid)
        await _until(lambda: _reached(stores, count))
        seconds = time.perf_counter() - began
        used, server = cpu_seconds(worker) - used, cpu_seconds(deployment.pid) - server
    measured = count - first
    return {
        "events/s": measured / seconds,
        "worker CPU": used / measured * 1e6,
        "mongod CPU": server / measured * 1e6,
    }


async def _based(stores: Stores) -> bool:
    """Return True if the collection is active and its base is stored."""
    found = await stores.log["collections"].find_one({"_id": "docs", "log": {"$ne": None}})
    return found is not None and await stores.log["snapshots"].find_one({"complete": True}) is not None


async def _leading(stores: Stores) -> bool:
    """Return True if a worker has recorded a checkpoint of its own, and so is sequencing."""
    row = await stores.log["heads"].find_one({"$expr": {"$lt": [{"$subtract": ["$$NOW", "$at"]}, 900]}})
    return row is not None


async def _reached(stores: Stores, seq: int) -> int:
    """The newest event's number, once it is `seq` or more; else 0."""
    row = await stores.log["events"].find_one({}, {"_id": 1}, sort=[("_id", -1)])
    newest = int(row["_id"]["n"]) if row else 0
    return newest if newest >= seq else 0


async def _until(look: Callable[[], Awaitable[Found]]) -> Found:
    async with asyncio.timeout(_PATIENCE):
        while not (found := await look()):  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)  # the event is in another process
    return found


async def _see(stream: Any, count: int) -> dict[int, float]:
    """Number of the write → when its event came."""
    seen: dict[int, float] = {}
    async with asyncio.timeout(_PATIENCE):
        while len(seen) < count:
            batch = await stream.read(wait=1.0, limit=1000)
            now = time.perf_counter()
            for change in batch.changes:
                number = int(change["fullDocument"]["i"].removeprefix("int:"))
                if number in seen:
                    raise InexactError(f"two events of write {number}")
                seen[number] = now
    return seen


async def _inserts(stores: Stores) -> int:
    """Return the number of insert commands that this MongoDB has had."""
    status = await stores.data.client["admin"].command("serverStatus")
    return int(status["metrics"]["commands"]["insert"]["total"])


async def _check(stores: Stores, count: int) -> None:
    """The log has one event for each write, numbered 1, 2, 3 …"""
    seen, last = set(), 0
    async for row in stores.log["events"].find({}, {"i": 1}).sort("_id"):
        last += 1
        if row["_id"]["n"] != last:
            raise InexactError(f"event {row['_id']['n']} stands at place {last}")
        seen.add(row["i"])
    if last != count:
        raise InexactError(f"{last} events of {count} changes")
    if len(seen) != count:
        raise InexactError("a document has two events, and another none")
