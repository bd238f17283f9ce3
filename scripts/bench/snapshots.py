"""What a stored snapshot costs: to make, to read back, and those who wait for the sequencer meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from eventsync.concurrency.waiting import set_within
from eventsync.domain.shapes import Shape
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod, peak, running
from scripts.bench.latency import COLLECTION as LIVE
from scripts.bench.latency import latency
from scripts.bench.load import Kind
from scripts.bench.report import Report, Table

Found = TypeVar("Found")
Figures = dict[str, float]

_PATIENCE = 1200.0
"""Seconds after which a measurement has failed."""

_LOOK = 0.05
_MIB = 1024 * 1024

_MAKING = """\
The base of a collection: from the worker's first write of it until it is complete; then read back, decoded, by another
process. *peak* is the process's largest resident set (VmHWM), *before* that of a worker without a snapshot."""
_LATENCY = """\
An open loop of inserts into another collection: from a write's intended time until its event is in a change stream on
the log, in ms, while the worker makes no snapshot, and while it makes one of the large collection after the other."""


class FailedError(Exception):
    """There is no figure."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Stored snapshots: time, memory, and what the sequencer loses."""
    parser.add_argument("--documents", type=int, default=1_000_000, help="documents of the collection (1000000)")
    parser.add_argument("--size", type=int, default=300, help="bytes of a document, about (300)")
    parser.add_argument("--rate", type=float, default=100.0, help="writes a second under live load (100)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a live load lasts (20)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of live load, each without and with (3)")
    return run


def run(options: argparse.Namespace) -> Report:
    """One collection, one worker, on a mongod of its own."""
    with fresh_mongod() as deployment:
        making, latency = asyncio.run(_measure(deployment, options))
    return Report(
        "Stored snapshots",
        "scripts/bench/run snapshots",
        {
            "collection": f"{options.documents:,} documents of about {options.size} bytes",
            "live load": f"{options.rate:g} writes/s for {options.seconds:g} s, {options.rounds} rounds",
            "write concern": "majority, journaled; one node",
        },
        [Table("Making and reading", _MAKING, making), Table("Sequencing beside it", _LATENCY, latency)],
    )


async def _measure(
    deployment: Deployment, options: argparse.Namespace
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, list[float]]]]:
    settings = Settings(mongodb_uri=deployment.uri, database="bench", collections=(LIVE,))
    lags: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        await Kind("docs", options.size).make(stores.data["docs"], options.documents)
        with running("worker", settings, deployment.directory) as worker:
            await _until(lambda: _base(stores, LIVE))
            before = peak(worker)
            made = await _made(stores, worker)
            making = {"made": made | {"peak MiB": peak(worker), "before MiB": before}}
            for number in range(options.rounds):
                _take(lags["no snapshot"], await _live(stores, options, 2 * number))
                async with _at_work(stores):
                    _take(lags["snapshots"], await _live(stores, options, 2 * number + 1))
    making["read back"] = await _read_back(deployment)
    return {name: {key: [value] for key, value in row.items()} for name, row in making.items()}, lags


async def _made(stores: Stores, worker: int) -> Figures:
    await stores.tracking.ask(["docs"])
    await _until(lambda: _begun(stores))
    began, used = time.perf_counter(), cpu_seconds(worker)
    made = await _until(lambda: _base(stores, "docs"))
    return _figures(made, time.perf_counter() - began, cpu_seconds(worker) - used)


async def _read_back(deployment: Deployment) -> Figures:
    """In a process of its own, for its memory."""
    code = "import asyncio, sys; from scripts.bench.snapshots import read_back; asyncio.run(read_back(sys.argv[1]))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, deployment.uri, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    values = [float(word) for word in out.split()]
    return dict(
        zip(("seconds", "documents/s", "CPU s", "MiB", "raw MiB", "peak MiB", "before MiB"), values, strict=True)
    )


async def read_back(uri: str) -> None:
    """Read the newest snapshot of the large collection, and print the figures."""
    settings = Settings(mongodb_uri=uri, database="bench")
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        made = await _until(lambda: _base(stores, "docs"))
        before, began, used, count = peak("self"), time.perf_counter(), time.process_time(), 0
        async with aclosing(stores.stored.rows(made)) as chunks:
            async for rows in chunks:
                count += len(rows)
        if count != made.documents:
            raise FailedError(f"{count} documents of {made.documents} were read back")
        figures = _figures(made, time.perf_counter() - began, time.process_time() - used)
        print(*figures.values(), peak("self"), before)


def _figures(made: StoredSnapshot, seconds: float, cpu: float) -> Figures:
    return {
        "seconds": seconds,
        "documents/s": made.documents / seconds,
        "CPU s": cpu,
        "MiB": made.bytes / _MIB,
        "raw MiB": made.raw_bytes / _MIB,
    }


@asynccontextmanager
async def _at_work(stores: Stores) -> Any:
    """Snapshots of the large collection, one after the other, from before the block begins until it ends."""
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            now = (await stores.data.command("ping"))["operationTime"]
            asked = await stores.requests.ask(Shape("docs"), now)
            while not over.is_set() and await _unanswered(stores, asked):
                await set_within(over, _LOOK)  # the answer comes from another process

    async with asyncio.TaskGroup() as group:
        group.create_task(ask(), name="ask for snapshots")
        await _until(lambda: _begun(stores))
        yield
        over.set()
    # The next round is to be without one.
    await _until(lambda: _idle(stores))


async def _live(stores: Stores, options: argparse.Namespace, number: int) -> Figures:
    return await latency(stores, rate=options.rate, seconds=options.seconds, size=options.size, first=number * 10**6)


async def _base(stores: Stores, name: str) -> StoredSnapshot | None:
    log = await stores.logs.current()
    return await stores.stored.newest(log.id, name) if log else None


async def _begun(stores: Stores) -> bool:
    return await stores.log["snapshots"].find_one({"c": "docs", "complete": False}) is not None


async def _idle(stores: Stores) -> bool:
    unfinished = await stores.log["snapshots"].find_one({"complete": False})
    return not unfinished and not await stores.requests.unanswered()


async def _unanswered(stores: Stores, name: str) -> bool:
    request = await stores.requests.read(name)
    return request is not None and request.snapshot is None


async def _until(look: Callable[[], Awaitable[Found | None]]) -> Found:
    deadline = time.monotonic() + _PATIENCE
    while not (found := await look()):
        if time.monotonic() >= deadline:
            raise FailedError(f"it has not happened after {_PATIENCE:g} s")
        await asyncio.sleep(_LOOK)  # the event is in another process
    return found


def _take(rows: dict[str, list[float]], figures: Figures) -> None:
    for column, value in figures.items():
        rows[column].append(value)
