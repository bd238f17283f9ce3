"""Memory: of an idle connection, and whether it grows in an hour of load.

A real worker and server, a fresh one for each figure. In the hour clients, writes and documents stay the same, the log
is cut as it grows, and some clients come and go all the time: what grows then is a leak.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import httpx

from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Deployment, memory
from scripts.bench.peers.process import beside
from scripts.bench.report import Goal, Rows, Table
from scripts.bench.stage import Stage, settled, staged
from scripts.bench.writers import DOCUMENTS, PATIENCE

_SIZES: Final = {
    # Each is full, and each job has had its turn, long before the warm-up is over.
    "window_bytes": 2 * 1024 * 1024,
    "frame_cache_bytes": 1024 * 1024,
    "snapshot_cache_bytes": 8 * 1024 * 1024,
    "hot_events": 5000,
    "segment_events": 2500,
    "retention_events": 15_000,
    "snapshot_events": 5000,
    "snapshot_min_events": 1000,
}
_DOCUMENTS, _RATE, _WEBSOCKETS, _SSE, _VISITS, _EVERY = 2000, 20.0, 100, 50, 5, 10.0
"""Load of the hour: documents, writes a second, clients, those that come and go at each look, seconds between looks."""

_WARM: Final = 1 / 3
"""Share of the hour that does not count."""

_SURE: Final = 1.96
"""Standard errors on either side that 95 % lie within."""

_CONNECTIONS: Final = """\
KiB that a server has more by idle connection, in pages that no other process shares (USS). *bare*: a uvloop server that
has shaken hands and keeps a transport, and nothing else: the least that a connection takes in Python."""

_HOUR: Final = f"""\
{_WEBSOCKETS} WebSocket and {_SSE} SSE clients of {_DOCUMENTS:,} documents, {_RATE:g} updates/s; every {_EVERY:g} s
{_VISITS} more come and go. The first third is warm-up. Settings:
{", ".join(f"{name} {value}" for name, value in _SIZES.items())}.

MiB (USS) of each process at the end of the warm-up and of the run; *slope*: of the least-squares line through the
medians of the minutes after the warm-up, in KiB an hour, and *±* its 95 % interval. 0 within the interval: no slope was
found. *events*: that the clients have counted, none missing or doubled."""

GOALS: Final = (Goal("an idle WebSocket, KiB", "An idle connection", "websocket", "KiB", 25.0),)

OPTIONS: Final = {
    "connections": (1000, "idle connections"),
    "minutes": (60.0, "how long the hour takes; 0 leaves it out"),
}
QUICK: Final = "--connections 100 --minutes 0"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    connections, hour = Rows(), Rows()
    async with load_generator() as clients:
        async with staged(deployment, clients, "memory", 0) as stage:
            for transport in ("websocket", "sse"):
                async with stage.serving() as pid:
                    await _connection(connections, transport, clients, pid, options.connections)
            async with beside(clients) as peer:
                await _connection(connections, "bare", clients, peer.pid, options.connections)
        if options.minutes:
            archive = str(deployment.directory / "archive")
            async with staged(deployment, clients, "hour", _DOCUMENTS, **_SIZES, archive_url=archive) as stage:
                await _hour(hour, stage, options.minutes)
    tables = [Table("An idle connection", _CONNECTIONS, connections), Table("An hour at a fixed size", _HOUR, hour)]
    return [table for table in tables if table.rows]


async def _connection(rows: Rows, name: str, clients: Process, pid: int, count: int) -> None:
    transport, used = "sse" if name == "sse" else "websocket", list[float]()
    # What every first request costs once is no connection's.
    for number in (20, count):
        await clients.ask("open", transport=transport, count=number, seq=0)
        await settled(pid)
        used.append(memory(pid))
    rows.note(name, {"KiB": (used[1] - used[0]) / count})


async def _hour(rows: Rows, stage: Stage, minutes: float) -> None:
    seen: dict[str, dict[float, float]] = defaultdict(dict)  # process → minute → KiB
    async with stage.serving() as pid:
        for transport, count in (("websocket", _WEBSOCKETS), ("sse", _SSE)):
            await stage.clients.ask("open", transport=transport, count=count, seq=0)
        async with stage.writing(1, _RATE) as written:
            began = time.monotonic()
            for look in range(1, round(minutes * 60 / _EVERY) + 1):
                await _visits(stage)
                await asyncio.sleep(began + look * _EVERY - time.monotonic())
                for name, process in {"server": pid, "worker": stage.worker}.items():
                    seen[name][look * _EVERY / 60] = memory(process)
        exact = await stage.clients.ask("exact", seq=len(written), seconds=PATIENCE)
    for name, line in seen.items():
        counted = {minute: value for minute, value in line.items() if minute > minutes * _WARM}
        first, *_, last = counted.values()
        growth, interval = slope(counted)
        figures = {"MiB after the warm-up": first / 1024, "MiB at the end": last / 1024}
        rows.note(name, figures | {"slope, KiB an hour": growth, "±": interval, "events": float(exact["events"])})


async def _visits(stage: Stage) -> None:
    """Have some clients, one after the other, take a snapshot and go, and read documents."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stage.settings.port}") as client:
        for number in range(_VISITS):
            await stage.clients.ask("pull", count=1, seq=None, seconds=PATIENCE)
            await stage.clients.ask("pulled")
            (await client.get(f"{DOCUMENTS}/int:{number}")).raise_for_status()


def slope(seen: Mapping[float, float]) -> tuple[float, float]:
    """Return an hour's growth of minute → value, and how far on either side it may lie (95 %).

    By least squares over the medians of the minutes, because looks within one are not independent.
    Raises `ValueError` for fewer than three minutes.
    """
    minutes: dict[int, list[float]] = defaultdict(list)
    for minute, value in seen.items():
        minutes[int(minute)].append(value)
    xs, ys = list(minutes), [statistics.median(values) for values in minutes.values()]
    if len(xs) < 3:
        raise ValueError("a slope takes three minutes")
    line, middle = statistics.linear_regression(xs, ys), statistics.fmean(xs)
    errors = sum((y - line.intercept - line.slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    deviation = (errors / (len(xs) - 2) / sum((x - middle) ** 2 for x in xs)) ** 0.5
    return 60 * line.slope, 60 * _SURE * deviation
