"""Clients that never read, while many events pass: what they cost the server and the others."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from eventsync.concurrency.waiting import set_within
from scripts.bench.long_log import Rows, once
from scripts.bench.memory import Memory, forget_peak
from scripts.bench.report import Table
from scripts.bench.sessions_stage import Clock, Figures, Stage, say

_PERIOD: Final = 0.04
"""Seconds between two inserts, each of several documents."""

_HEALTHY: Final = 5
_PATIENCE: Final = 60.0
"""Seconds within which all silent ones are to be out."""

_LINGER: Final = 10.0
"""Seconds after which the server has cut who was put out, a little more than it lets pass."""

SILENT: Final = """\
Clients that say hello, are live and never read again, beside five WebSocket clients that read everything, while
documents are inserted. *out*: silent ones that the server has put out; *first out s*, *all out s*: seconds since the
first write. *told slow*: those that find close code 4503 (WebSocket) when they read on, the moment that all are out;
the others find the connection cut. *p50*, *p99*, *most*: ms from a write's intended time until a healthy client has the
event, with the decoding in the client. MiB are resident sets of the server: before the writes, the peak, at the end."""


@dataclass
class _Watch:
    """Fall of the number of connections, in seconds since `began`."""

    full: int
    began: float = field(default_factory=time.monotonic)
    first: float = 0.0
    last: float = 0.0
    now: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)


async def silent(stage: Stage, name: str, transport: str, count: int, options: Namespace, first: int) -> Figures:
    """One run, whose first event is `first`; `count` silent clients."""
    async with stage.serving(send_timeout=options.send_timeout) as pid:
        await stage.ready()
        await stage.crowd.ask("begin", port=stage.settings.port, log=stage.log.name, documents=0)
        await stage.crowd.ask("open", transport="websocket", count=_HEALTHY, seq=first - 1, timed=True)
        if count:
            await stage.crowd.ask("open_silent", transport=transport, count=count, seq=first - 1)
        await asyncio.sleep(1.0)
        before = Memory.of(pid).rss / 1024
        forget_peak(pid)
        clock = Clock(pid)
        async with _watched(stage, count) as watch:
            draining = asyncio.create_task(_drained(stage, watch), name="drain") if count else None
            events = await _pour(stage, options, first)
            drained = await draining if draining else {"ends": {}}
        exact = await stage.crowd.ask("exact", seq=first + events - 1, seconds=60.0)
        delays = await stage.crowd.ask("delays")
        if exact["events"] != _HEALTHY * events or delays["count"] != exact["events"]:
            raise ValueError(f"{exact['events']} events came to {_HEALTHY} clients, of {events} each")
        say(f"{name}: {watch}, {drained}, {delays}")
        return {
            "events": events,
            "MiB passed": events * options.size / 1024**2,
            "out": count - (watch.now - _HEALTHY) if count else 0,
            "first out s": watch.first,
            "all out s": watch.last,
            "told slow": drained["ends"].get("close 4503", 0),
            "p50": delays["p50"],
            "p99": delays["p99"],
            "most": delays["most"],
            "MiB before": before,
            "end MiB": Memory.of(pid).rss / 1024,
        } | clock.figures()


async def _drained(stage: Stage, watch: _Watch) -> dict[str, Any]:
    """Have the silent ones read on at once when all are out: what is on its way to them is soon cut."""
    await set_within(watch.gone, _PATIENCE)
    return await stage.crowd.ask("drain", seconds=_LINGER)


async def silents(stage: Stage, options: Namespace) -> Table:
    """Without silent clients, and with them over each transport."""
    rows: Rows = {}
    first = 1
    for name, transport, count in (
        ("nobody silent", "websocket", 0),
        (f"{options.silent} WebSocket", "websocket", options.silent),
        (f"{options.silent} SSE", "sse", options.silent),
    ):
        found = await silent(stage, name, transport, count, options, first)
        first += int(found["events"])
        rows[name] = once(found)
    return Table("Clients that never read", SILENT, rows)


async def _pour(stage: Stage, options: Namespace, first: int) -> int:
    """Insert `--megabytes` at an even rate; how many documents that were."""
    total, began = options.megabytes * 1024**2 // options.size, time.monotonic()
    each = max(1, round(total / options.pour_seconds * _PERIOD))
    for number, start in enumerate(range(first, first + total, each)):
        due = began + number * _PERIOD
        await asyncio.sleep(due - time.monotonic())
        await stage.write(start, min(each, first + total - start), size=options.size, at=due)
    return int(total)


@asynccontextmanager
async def _watched(stage: Stage, count: int) -> AsyncIterator[_Watch]:
    """See who goes, while the block runs."""
    watch, over = _Watch(count + _HEALTHY), asyncio.Event()

    async def run() -> None:
        while not await set_within(over, 0.1):
            now, at = await stage.connections(), time.monotonic() - watch.began
            if now < watch.full:
                watch.first = watch.first or at
                watch.last = at if now != watch.now else watch.last
            watch.now = now
            if now <= _HEALTHY:
                watch.gone.set()

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(run(), name="watch the connections")
        try:
            yield watch
        finally:
            over.set()
            if watch.gone.is_set() and watch.now > _HEALTHY:
                watching.cancel()
