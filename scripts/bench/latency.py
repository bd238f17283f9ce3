"""Sequencing latency: an open loop of inserts into the tracked collection `live`, until each is an event of the log."""

from __future__ import annotations

import statistics
import time
from asyncio import TaskGroup

from eventsync.mongodb.change_stream import ChangeStream, watch
from eventsync.stores.stores import Stores
from scripts.bench.load import Kind, open_loop

COLLECTION = "live"
_PATIENCE = 120.0
"""Seconds after which events that have not come are missing."""


class MissingError(Exception):
    """A write has no event."""


async def latency(stores: Stores, *, rate: float, seconds: float, size: int, first: int) -> dict[str, float]:
    """From each write's intended time until its event is seen, in ms. The ids are `first` and those after it."""
    count, kind, live = int(rate * seconds), Kind(COLLECTION, size), stores.data[COLLECTION]
    pipeline = [{"$match": {"ns.coll": "events", "fullDocument.c": COLLECTION}}]
    async with watch(stores.log, pipeline) as stream, TaskGroup() as group:
        seeing = group.create_task(_see(stream, count), name="see events")
        began = time.perf_counter()
        await open_loop(count, rate, lambda number: kind.one(live, first + number))
    lags = sorted((at - began - (number - first) / rate) * 1000 for number, at in seeing.result().items())
    return {"p50": statistics.median(lags), "p99": lags[int(count * 0.99)], "most": lags[-1]}


async def _see(stream: ChangeStream, count: int) -> dict[int, float]:
    """Id of the document → when its event came."""
    seen: dict[int, float] = {}
    deadline = time.monotonic() + _PATIENCE
    while len(seen) < count and time.monotonic() < deadline:
        batch = await stream.read(wait=1.0, limit=1000)
        now = time.perf_counter()
        seen |= {int(change["fullDocument"]["i"].removeprefix("int:")): now for change in batch.changes}
    if len(seen) != count:
        raise MissingError(f"{len(seen)} events of {count} writes were seen")
    return seen
