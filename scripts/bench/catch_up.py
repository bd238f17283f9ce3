"""Catch up: what each of the three answers costs a client's server, over distances and hot spots, and the chosen one.

The log is written by hand, as a sequencer would write it. Answers come from the real planner and the real stores.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.access.access import UNRESTRICTED
from eventsync.domain.events import Event, place
from eventsync.domain.ids import format_id
from eventsync.domain.plan import Answer
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores
from eventsync.sync.live.window import Subscribers
from eventsync.sync.service import SyncService
from eventsync.sync.sessions.subscription import Subscription
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.report import Figures, Rows, Table
from scripts.bench.sequencing import change, document
from scripts.bench.stage import insert

SHAPE: Final = Shape("docs")
BYTE: Final = 0.08
"""µs on a line of 100 Mbit/s."""

_COSTS: Final = """\
*touched*: share of the collection that the events are about. The figures are the cost that the plan minimizes, in ms:
CPU of server and mongod, and the bytes on a line of 100 Mbit/s. *chosen* is 1 for events, 2 for squashed, 3 for a
snapshot; *regret*: how much dearer that is than the cheapest, in percent."""


OPTIONS: Final = {
    "documents": (20_000, "documents in the collection"),
    "size": (1024, "bytes of a document"),
    "distances": ((10, 100, 1000, 10_000, 50_000, 200_000), "events behind"),
    "touched": ((1, 10, 100), "percent of the documents that the events are about"),
}
QUICK: Final = "--documents 2000 --distances 10,100"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `RuntimeError` where an answer is not the one that was asked for."""
    settings = Settings(mongodb_uri=deployment.uri, database="bench")
    rows = Rows()
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        await stores.ensure_indexes()
        await insert(stores.data["docs"], (document(number, options.size) for number in range(options.documents)))
        for percent in options.touched:
            log, head = LogId(f"log{percent}"), Seq(max(options.distances))
            await _write_log(stores, log, head, max(1, options.documents * percent // 100))
            service = SyncService(stores, settings)
            service.window.start(log, head)
            service.tracking.replace(log, [TrackedCollection("docs", log, Seq(0))])
            for distance in options.distances:
                position, repeats = Position(log, Seq(head - distance)), max(1, min(20, 20_000 // distance))
                figures = await _compared(service, deployment.pid, position, repeats)
                rows.note(f"{distance:,} events, {percent} % touched", figures)
    return [Table("Cost of the answers", _COSTS, rows)]


async def _write_log(stores: Stores, log: LogId, head: Seq, hot: int) -> None:
    """Store events up to `head`, each about one of `hot` documents."""
    choose = random.Random(log)
    await insert(stores.log["events"], (_row(log, seq, choose.randrange(hot)) for seq in range(1, head + 1)))
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


async def _compared(service: SyncService, pid: int, position: Position, repeats: int) -> Figures:
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
    cpu, size, kinds = Cpu(server=os.getpid(), mongod=pid), 0, set[str]()
    for _ in range(repeats):
        subscription = Subscription(
            service.source, Subscribers(service.window), SHAPE, position, lambda: UNRESTRICTED, avoid
        )
        async for kind, data in until_live(subscription):
            kinds.add(kind)
            size += len(data)
    seconds = sum(cpu.used().values())
    return (seconds * 1000 + size * BYTE / 1000) / repeats, kinds


async def until_live(subscription: Subscription) -> AsyncIterator[tuple[str, bytes]]:
    async with aclosing(subscription.messages()) as messages:
        async for message in messages:
            if message is None or message.kind == "live":
                return
            yield message.kind, message.data
