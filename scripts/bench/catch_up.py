"""Ways to bring a client up to date: each of the three answers, over distances and hot spots, and the chosen one.

The log is written by hand, as a sequencer would write it. Answers go through the real planner and the real stores.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.events import Event, place
from eventsync.domain.ids import IdText, format_id
from eventsync.domain.plan import Answer
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import Document
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores
from eventsync.sync.service import SyncService
from eventsync.sync.sessions.subscription import Subscription
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod
from scripts.bench.load import change, document
from scripts.bench.report import Report, Table

SHAPE = Shape("docs")
BYTE = 0.08
"""µs on a line of 100 Mbit/s."""

_INSERTED = 5000
_CATCH_UP = """\
`touched` is the share of the collection that the events are about. The figures are the cost that the plan minimizes, in
ms: CPU of server and mongod, and the bytes on a line of 100 Mbit/s. *chosen* is 1 for events, 2 for squashed, 3 for a
snapshot; *regret* is how much dearer that is than the cheapest, in percent."""
_PARTS = "The same runs: KiB sent, and ms until the client is current (nothing is sent over a network here)."
_BOOTSTRAP = """\
New clients, one after the other. CPU is ms of the server and of mongod; *chunk reads* are chunks of the stored snapshot
that were asked of MongoDB. `live` reads the collection each time, which is how it would be without stored snapshots."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one client, in seconds and bytes."""

    server: float
    mongod: float
    wall: float
    bytes: int
    kinds: frozenset[str] = frozenset()

    @property
    def modelled(self) -> float:
        """As the plan counts, in ms."""
        return (self.server + self.mongod) * 1000 + self.bytes * BYTE / 1000


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Catching up by events, squashed or as a snapshot; bootstraps from a stored snapshot."""
    parser.add_argument("--documents", type=int, default=20_000, help="documents in the collection (20000)")
    parser.add_argument("--size", type=int, default=1024, help="bytes of a document (1024)")
    parser.add_argument("--distances", default="10,100,1000,10000,50000,200000", help="events behind")
    parser.add_argument("--touched", default="1,10,100", help="percent of the documents that the events are about")
    parser.add_argument("--bootstraps", type=int, default=50, help="new clients (50)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Raises `RuntimeError` where an answer is not the one that was asked for."""
    with fresh_mongod() as deployment:
        tables = asyncio.run(_measured(deployment, options))
    return Report(
        "Catching up",
        "scripts/bench/run catch_up",
        {"collection": f"{options.documents:,} documents of {options.size:,} bytes", "MongoDB": "6.0.5 (embedded)"},
        tables,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    distances = [int(text) for text in options.distances.split(",")]
    settings = Settings(mongodb_uri=deployment.uri, database="bench")
    costs: dict[str, dict[str, list[float]]] = {}
    parts: dict[str, dict[str, list[float]]] = {}
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        await stores.ensure_indexes()
        for first in range(0, options.documents, _INSERTED):
            ids = range(first, min(options.documents, first + _INSERTED))
            await stores.data["docs"].insert_many([document(n, options.size) for n in ids], ordered=False)
        bootstraps: dict[str, dict[str, list[float]]] = {}
        for percent in map(int, options.touched.split(",")):
            hot = max(1, options.documents * percent // 100)
            bench = await _Bench.of(stores, settings, deployment.pid, f"log{percent}", max(distances), hot)
            for distance in distances:
                name = f"{distance:,} events, {percent} % touched"
                costs[name], parts[name] = await bench.compared(distance)
            bootstraps = bootstraps or await bench.bootstraps(options.bootstraps)
    return [
        Table("Cost of the answers", _CATCH_UP, costs),
        Table("Bytes and time", _PARTS, parts),
        Table("Bootstraps", _BOOTSTRAP, bootstraps),
    ]


class _Bench:
    """One log, whose newest events are about `hot` documents, and a server whose window is empty."""

    def __init__(self, stores: Stores, settings: Settings, pid: int, log: LogId, head: Seq) -> None:
        self._stores = stores
        self._pid = pid
        self._log = log
        self._head = head
        self._service = SyncService(stores, settings)
        self._service.window.start(log, head)
        self._service.tracking.replace(log, [TrackedCollection("docs", log, Seq(0))])

    @classmethod
    async def of(cls, stores: Stores, settings: Settings, pid: int, name: str, events: int, hot: int) -> _Bench:
        _say(f"{name}: {events:,} events about {hot:,} documents")
        log, head = LogId(name), Seq(events)
        choose = random.Random(name)
        for first in range(1, events + 1, _INSERTED):
            rows = [_row(log, seq, choose.randrange(hot)) for seq in range(first, min(events + 1, first + _INSERTED))]
            await stores.log["events"].insert_many(rows, ordered=False)
        await stores.stats.counters.add(log, head)
        now = (await stores.data.command("ping"))["operationTime"]
        await stores.logs.checkpoint(log, head, "82", now)
        return cls(stores, settings, pid, log, head)

    async def compared(self, distance: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Every answer at this distance, and the chosen one."""
        repeats = max(1, min(20, 20_000 // distance))
        position = Position(self._log, Seq(self._head - distance))
        costs: dict[str, list[float]] = {}
        parts: dict[str, list[float]] = {}
        for answer in Answer:
            found = await self._repeated(repeats, position, frozenset(Answer) - {answer})
            if answer.value not in found.kinds:
                raise RuntimeError(f"{answer} was asked for, and {found.kinds} came")
            costs[answer.value] = [found.modelled]
            parts[f"{answer.value} KiB"], parts[f"{answer.value} ms"] = [found.bytes / 1024], [found.wall * 1000]
        found = await self._repeated(repeats, position, frozenset())
        chosen = next(answer.value for answer in Answer if answer.value in found.kinds)
        best = min(costs[answer.value][0] for answer in Answer)
        regret = [100 * (costs[chosen][0] / best - 1)]
        _say(f"  {distance:,}: {chosen}; " + ", ".join(f"{name} {value[0]:,.1f} ms" for name, value in costs.items()))
        return costs | {"chosen": [list(Answer).index(Answer(chosen)) + 1.0], "regret": regret}, parts

    async def _repeated(self, repeats: int, position: Position | None, avoid: frozenset[Answer]) -> Cost:
        server, mongod, wall = time.process_time(), cpu_seconds(self._pid), time.perf_counter()
        size, kinds = 0, set[str]()
        for _ in range(repeats):
            subscriber = self._service.window.subscribe(SHAPE, LightEvent())
            subscription = Subscription(self._service.source, subscriber, position, avoid)
            async for kind, data in _until_live(subscription):
                kinds.add(kind)
                size += len(data)
        return Cost(
            (time.process_time() - server) / repeats,
            (cpu_seconds(self._pid) - mongod) / repeats,
            (time.perf_counter() - wall) / repeats,
            size // repeats,
            frozenset(kinds),
        )

    async def bootstraps(self, count: int) -> dict[str, dict[str, list[float]]]:
        """New clients: by reading the collection, and then, with a snapshot at the head, one after the other."""
        rows = {"live": await self._bootstrap()}
        checkpoint = await self._stores.logs.read_checkpoint(self._log)
        if checkpoint is None:
            raise RuntimeError("the log has no checkpoint")
        documents = self._documents()
        await self._stores.snapshots.stored.write(self._log, "docs", self._head, checkpoint.time, documents)
        self._service.source.planner.outdated()
        for number in range(1, count + 1):
            figures = await self._bootstrap()
            if number in {1, 2, 10, 50, count}:
                rows[f"client {number}"] = figures
        return rows

    async def _documents(self) -> AsyncIterator[tuple[int, Document]]:
        async for row in self._stores.data["docs"].find(sort=[("_id", 1)]):
            yield 0, row

    async def _bootstrap(self) -> dict[str, list[float]]:
        before = await self._chunk_reads()
        cost = await self._repeated(1, None, frozenset())
        return {
            "server CPU": [cost.server * 1000],
            "mongod CPU": [cost.mongod * 1000],
            "ms": [cost.wall * 1000],
            "KiB": [cost.bytes / 1024],
            "chunk reads": [float(await self._chunk_reads() - before)],
        }

    async def _chunk_reads(self) -> int:
        cursor = await self._stores.log["snapshot_chunks"].aggregate([{"$indexStats": {}}])
        return sum(row["accesses"]["ops"] for row in await cursor.to_list() if row["name"] == "_id_")


async def _until_live(subscription: Subscription) -> AsyncIterator[tuple[str, bytes]]:
    async with aclosing(subscription.messages()) as messages:
        async for message in messages:
            if message is None or message.kind == "live":
                return
            yield message.kind, message.data


def _row(log: LogId, seq: int, number: int) -> dict[str, Any]:
    """An event as the sequencer stores it: a small update."""
    patch = [{"op": "replace", "path": f"/{name}", "value": value} for name, value in change(number)["$set"].items()]
    text: IdText = format_id(number)
    event = Event("docs", text, "update", 6, 7, datetime.now(UTC), patch=patch, op_id=f"op-{seq}", by="bench")
    body = place(event.encode(), Seq(seq), None).decode()
    token, at = "82" + "0" * 60, Timestamp(1_700_000_000, seq)
    key = {"l": log, "n": Int64(seq)}
    return {"_id": key, "t": token, "s": at, "c": "docs", "i": text, "v": Int64(7), "b": body}


def _say(text: str) -> None:
    print(text, flush=True)
