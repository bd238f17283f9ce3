"""Catch up: what each of the three answers costs a client's server, over distances and hot spots, and the chosen one.

The log is written by hand, as a sequencer would write it. Answers come from the real planner and the real stores.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.events import Event, place
from eventsync.domain.ids import format_id
from eventsync.domain.plan import Answer
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores
from eventsync.sync.service import SyncService
from eventsync.sync.sessions.subscription import Subscription
from scripts.bench.deployment import Deployment, cpu_seconds, say
from scripts.bench.report import Table
from scripts.bench.sequencing import change, document

SHAPE: Final = Shape("docs")
BYTE: Final = 0.08
"""µs on a line of 100 Mbit/s."""

_BULK: Final = 5000

_COSTS: Final = """\
*touched*: share of the collection that the events are about. The figures are the cost that the plan minimizes, in ms:
CPU of server and mongod, and the bytes on a line of 100 Mbit/s. *chosen* is 1 for events, 2 for squashed, 3 for a
snapshot; *regret*: how much dearer that is than the cheapest, in percent."""


OPTIONS: Final = {
    "documents": (20_000, "documents in the collection"),
    "size": (1024, "bytes of a document"),
    "distances": ("10,100,1000,10000,50000,200000", "events behind"),
    "touched": ("1,10,100", "percent of the documents that the events are about"),
}


def setup(options: argparse.Namespace) -> dict[str, str]:
    """Return what is the same for all figures."""
    return {"collection": f"{options.documents:,} documents of {options.size:,} bytes"}


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `RuntimeError` where an answer is not the one that was asked for."""
    distances = [int(text) for text in options.distances.split(",")]
    settings = Settings(mongodb_uri=deployment.uri, database="bench")
    rows = {}
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        await stores.ensure_indexes()
        for first in range(0, options.documents, _BULK):
            ids = range(first, min(options.documents, first + _BULK))
            await stores.data["docs"].insert_many([document(n, options.size) for n in ids], ordered=False)
        for percent in map(int, options.touched.split(",")):
            log, head = LogId(f"log{percent}"), Seq(max(distances))
            await _write_log(stores, log, head, max(1, options.documents * percent // 100))
            service = SyncService(stores, settings)
            service.window.start(log, head)
            service.tracking.replace(log, [TrackedCollection("docs", log, Seq(0))])
            for distance in distances:
                position, repeats = Position(log, Seq(head - distance)), max(1, min(20, 20_000 // distance))
                figures = await _compared(service, deployment.pid, position, repeats)
                say(f"{distance:,} events, {percent} % touched: {figures}")
                rows[f"{distance:,} events, {percent} % touched"] = {at: [value] for at, value in figures.items()}
    return [Table("Cost of the answers", _COSTS, rows)]


async def _write_log(stores: Stores, log: LogId, head: Seq, hot: int) -> None:
    """Store events up to `head`, each about one of `hot` documents."""
    choose = random.Random(log)
    for first in range(1, head + 1, _BULK):
        rows = [_row(log, seq, choose.randrange(hot)) for seq in range(first, min(head + 1, first + _BULK))]
        await stores.log["events"].insert_many(rows, ordered=False)
    await stores.stats.counters.add(log, head)
    now = (await stores.data.command("ping"))["operationTime"]
    await stores.logs.checkpoint(log, head, "82", now)


def _row(log: LogId, seq: int, number: int) -> dict[str, Any]:
    """Return an event as the sequencer stores it: a small update."""
    patch = [{"op": "replace", "path": f"/{name}", "value": value} for name, value in change(number)["$set"].items()]
    text = format_id(number)
    event = Event("docs", text, "update", 6, 7, datetime.now(UTC), patch=patch, op_id=f"op-{seq}", by="bench")
    body = place(event.encode(), Seq(seq), None).decode()
    token, at = "82" + "0" * 60, Timestamp(1_700_000_000, seq)
    key = {"l": log, "n": Int64(seq)}
    return {"_id": key, "t": token, "s": at, "c": "docs", "i": text, "v": Int64(7), "b": body}


async def _compared(service: SyncService, pid: int, position: Position, repeats: int) -> dict[str, float]:
    """Return the cost of every answer for a client at this position, and of the chosen one."""
    costs: dict[str, float] = {}
    for answer in Answer:
        costs[answer.value], kinds = await _cost(service, pid, position, repeats, frozenset(Answer) - {answer})
        if answer.value not in kinds:
            raise RuntimeError(f"{answer} was asked for, and {kinds} came")
    _, kinds = await _cost(service, pid, position, repeats, frozenset())
    chosen = next(answer for answer in Answer if answer.value in kinds)
    regret = 100 * (costs[chosen.value] / min(costs.values()) - 1)
    return costs | {"chosen": list(Answer).index(chosen) + 1.0, "regret": regret}


async def _cost(
    service: SyncService, pid: int, position: Position, repeats: int, avoid: frozenset[Answer]
) -> tuple[float, set[str]]:
    """Return the cost of a client as the plan counts, in ms, and the kinds of its messages."""
    server, mongod, size, kinds = time.process_time(), cpu_seconds(pid), 0, set[str]()
    for _ in range(repeats):
        subscriber = service.window.subscribe(SHAPE, LightEvent())
        async for kind, data in _until_live(Subscription(service.source, subscriber, position, avoid)):
            kinds.add(kind)
            size += len(data)
    seconds = time.process_time() - server + cpu_seconds(pid) - mongod
    return (seconds * 1000 + size * BYTE / 1000) / repeats, kinds


async def _until_live(subscription: Subscription) -> AsyncIterator[tuple[str, bytes]]:
    async with aclosing(subscription.messages()) as messages:
        async for message in messages:
            if message is None or message.kind == "live":
                return
            yield message.kind, message.data
