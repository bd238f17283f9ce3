"""Memory: of an idle connection, of an event in the window, and whether it grows in an hour of load.

A real worker and server. In the hour clients, writes and documents stay the same, the log is cut as it grows, and some
clients come and go all the time: what grows then is a leak.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

import httpx
import orjson
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, measured, memory, say
from scripts.bench.peers.process import beside
from scripts.bench.report import Goal, Report, Table
from scripts.bench.stage import Stage, settled, staged

_WINDOW: Final = 256 * 1024 * 1024
"""Bytes of a window that nothing leaves."""

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

_EVENTS: Final = """\
Bytes that a server has more by event in its window, beside the bytes of the event's body; one client follows the
collection."""

_HOUR: Final = """\
MiB (USS) of each process at the end of the warm-up and of the run; *slope*: of the least-squares line through the
medians of the minutes after the warm-up, in KiB an hour, and *±* its 95 % interval. 0 within the interval: no slope was
found. *events*: that the clients have counted, none missing or doubled."""

GOALS: Final = (Goal("an idle WebSocket, KiB", "An idle connection", "websocket", "KiB", 25.0),)

Single = dict[str, dict[str, list[float]]]
Seen = dict[str, dict[float, float]]
"""Process → minute → KiB."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Add the options; return what runs the benchmark."""
    parser.add_argument("--connections", type=int, default=1000, help="idle connections (1000)")
    parser.add_argument("--events", type=int, default=40_000, help="events in the window (40000)")
    parser.add_argument("--sizes", default="300,1024", help="bytes of their documents (300,1024)")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long the hour takes; 0 leaves it out (60)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exit with 1 where a client was not exact."""
    cut = ", ".join(f"{name} {value}" for name, value in _SIZES.items())
    return Report(
        "Memory",
        "scripts/bench/run memory",
        {
            "processes": "mongod (6.0.5, one node), a worker, a server, the clients in one process; a fresh server for "
            "each figure",
            "settings": f"defaults, but a window of {_WINDOW >> 20} MiB; in the hour {cut}",
            "hour": f"{options.minutes:g} minutes, of which a third is warm-up: {_WEBSOCKETS} WebSocket and {_SSE} SSE "
            f"clients of {_DOCUMENTS:,} documents, {_RATE:g} updates/s; every {_EVERY:g} s {_VISITS} more come and go",
        },
        measured(lambda deployment: _measured(deployment, options)),
        GOALS,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    connections, events = Single(), Single()
    async with crowd() as clients:
        async with staged(deployment, clients, "memory", 0, window_bytes=_WINDOW) as stage:
            for transport in ("websocket", "sse"):
                async with stage.serving() as pid:
                    connections[transport] = await _connection(clients, pid, transport, options.connections)
            async with beside("bare", clients) as peer:
                connections["bare"] = await _connection(clients, peer.pid, "websocket", options.connections)
            for size in (int(text) for text in options.sizes.split(",")):
                events[f"{size:,} B"] = await _event(stage, options.events, size)
        tables = [
            Table("An idle connection", _CONNECTIONS, connections),
            Table("An event in the window", _EVENTS, events),
        ]
        if options.minutes:
            archive = str(deployment.directory / "archive")
            async with staged(deployment, clients, "hour", _DOCUMENTS, **_SIZES, archive_url=archive) as stage:
                tables.append(Table("An hour at a fixed size", _HOUR, await _hour(stage, options.minutes)))
    return tables


async def _connection(clients: CrowdProcess, pid: int, transport: str, count: int) -> dict[str, list[float]]:
    # What every first request costs once is no connection's.
    await clients.ask("open", transport=transport, count=20, seq=0)
    await settled(pid)
    empty = memory(pid)
    await clients.ask("open", transport=transport, count=count, seq=0)
    await settled(pid)
    each = (memory(pid) - empty) / count
    say(f"{transport}: {each:.1f} KiB")
    return {"KiB": [each]}


async def _event(stage: Stage, count: int, size: int) -> dict[str, list[float]]:
    async with stage.serving() as pid:
        first, warm = await stage.log.head() + 1, count // 10
        await stage.crowd.ask("open", transport="websocket", count=1, seq=first - 1)
        await stage.write(first, warm, size=size)
        await stage.crowd.ask("exact", seq=first + warm - 1, seconds=60.0)
        await settled(pid)
        before = memory(pid)
        await stage.write(first + warm, count, size=size)
        await stage.crowd.ask("exact", seq=first + warm + count - 1, seconds=120.0)
        await settled(pid)
        each = (memory(pid) - before) * 1024 / count
        row = await stage.stores.log["events"].find_one({}, {"b": 1}, sort=[("_id", -1)])
    body = float(len(row["b"])) if row else 0.0
    say(f"an event of {size} B: {each:.0f} B, body {body:.0f}")
    return {"bytes": [each], "of them body": [body], "beside it": [each - body]}


async def _hour(stage: Stage, minutes: float) -> Single:
    async with stage.serving() as pid:
        for transport, count in (("websocket", _WEBSOCKETS), ("sse", _SSE)):
            await stage.crowd.ask("open", transport=transport, count=count, seq=0)
        seen: Seen = defaultdict(dict)
        async with stage.writing(1, _RATE) as written:
            began = time.monotonic()
            for look in range(1, round(minutes * 60 / _EVERY) + 1):
                await _visits(stage.settings.port)
                await asyncio.sleep(began + look * _EVERY - time.monotonic())
                for name, process in {"server": pid, "worker": stage.worker}.items():
                    seen[name][look * _EVERY / 60] = memory(process)
        exact = await stage.crowd.ask("exact", seq=len(written), seconds=60.0)
    rows = {}
    for name, line in seen.items():
        counted = {minute: value for minute, value in line.items() if minute > minutes * _WARM}
        first, *_, last = counted.values()
        growth, interval = slope(counted)
        figures = {"MiB after the warm-up": first / 1024, "MiB at the end": last / 1024}
        figures |= {"slope, KiB an hour": growth, "±": interval, "events": float(exact["events"])}
        rows[name] = {column: [value] for column, value in figures.items()}
    return rows


async def _visits(port: int) -> None:
    """Have some clients take a snapshot, read a document, and go."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1/collections/{SHAPE}/documents") as client:
        for number in range(_VISITS):
            (await client.get(f"/int:{number}")).raise_for_status()
            async with connect(
                f"ws://127.0.0.1:{port}/v1/sync", subprotocols=[Subprotocol("eventsync.v1")], max_size=None
            ) as socket:
                await socket.send(orjson.dumps({"type": "hello", "shapes": [SHAPE]}).decode())
                while orjson.loads(await socket.recv())["type"] != "live":
                    pass


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
