"""An hour at a fixed size: clients, writes and documents stay the same, and the log is cut as it grows.

What grows then is a leak. A real worker and server; besides the clients that stay, some come and go all the time. A
client that misses an event, or has one twice, fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import httpx
import orjson
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.process import crowd
from scripts.bench.deployment import Deployment, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.long_log import once
from scripts.bench.memory import Memory
from scripts.bench.report import Plot, Report, Table
from scripts.bench.sessions_stage import Stage, raise_open_files, say, staged
from scripts.bench.slope import slope

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
    "archive_url": "",
}
_VISITS: Final = 5
"""Clients that come and go between two looks."""

_HOUR: Final = """\
USS (pages that no other process shares) of each process, at the end of the warm-up and of the run; *slope*: of the
least-squares line through what was seen behind the warm-up, in KiB an hour, and *±* its 95 % interval, for which
minutes count, not looks: what is seen in the same minute says the same. 0 within the interval: no slope was found."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """An hour of load at a fixed size: whether memory grows."""
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--warm-up", type=float, default=1 / 3, help="the share of it that does not count (0.33)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two looks (10)")
    parser.add_argument("--websockets", type=int, default=100, help="clients over WebSocket (100)")
    parser.add_argument("--sse", type=int, default=50, help="clients over SSE (50)")
    parser.add_argument("--documents", type=int, default=2000, help="documents (2000)")
    parser.add_argument("--rate", type=float, default=20.0, help="writes a second (20)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        seen, count = run_exact(_measured(deployment, options))
    warm = options.minutes * options.warm_up
    return Report(
        "An hour at a fixed size",
        f"scripts/bench/run hour --minutes {options.minutes:g}",
        {
            "load": f"{options.websockets} WebSocket and {options.sse} SSE clients of one collection of "
            f"{options.documents:,} documents, {options.rate:g} updates/s (majority, journaled); every "
            f"{options.every:g} s {_VISITS} more come and go, and documents are read by HTTP",
            "log": "cut as it grows: " + ", ".join(f"{name} {value}" for name, value in _SIZES.items() if value),
            "time": f"{options.minutes:g} minutes, of which {warm:g} are warm-up",
            "exactness": f"{count:,} events counted by the clients, none missing or doubled",
        },
        [_table(seen, warm)],
        [_plot(seen)],
    )


Seen = dict[str, dict[float, float]]
"""Process → minute → KiB."""


async def _measured(deployment: Deployment, options: argparse.Namespace) -> tuple[Seen, int]:
    sizes: dict[str, Any] = _SIZES | {"archive_url": str(deployment.directory / "archive")}
    async with (
        crowd() as clients,
        staged(deployment, clients, "hour", options.documents, **sizes) as stage,
        stage.serving() as pid,
    ):
        await stage.ready()
        for transport, count in (("websocket", options.websockets), ("sse", options.sse)):
            await clients.ask("open", transport=transport, count=count, seq=0)
        async with stage.writing(1, options.rate) as written:
            seen = await _watched(stage, {"server": pid, "worker": stage.worker}, options)
        exact = await clients.ask("exact", seq=len(written), seconds=60.0)
        return seen, int(exact["events"])


async def _watched(stage: Stage, pids: dict[str, int], options: argparse.Namespace) -> Seen:
    seen: Seen = defaultdict(dict)
    began, looks = time.monotonic(), round(options.minutes * 60 / options.every)
    for look in range(1, looks + 1):
        await _visited(stage, options.documents)
        await asyncio.sleep(began + look * options.every - time.monotonic())
        for name, pid in pids.items():
            seen[name][look * options.every / 60] = Memory.of(pid).uss
        if look % 30 == 0:
            say(", ".join(f"{name} {line[look * options.every / 60]:,.0f} KiB" for name, line in seen.items()))
    return seen


async def _visited(stage: Stage, documents: int) -> None:
    """Some that take a snapshot, read documents, and go."""
    port = stage.settings.port
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1/collections/{SHAPE}/documents") as client:
        for number in range(_VISITS):
            (await client.get(f"/int:{number % documents}")).raise_for_status()
            async with connect(
                f"ws://127.0.0.1:{port}/v1/sync", subprotocols=[Subprotocol("eventsync.v1")], max_size=None
            ) as socket:
                await socket.send(orjson.dumps({"type": "hello", "shapes": [SHAPE]}).decode())
                while orjson.loads(await socket.recv())["type"] != "live":
                    pass


def _table(seen: Seen, warm: float) -> Table:
    rows = {}
    for name, line in seen.items():
        counted = {minute: value for minute, value in line.items() if minute > warm}
        found = slope(counted)
        first, last = next(iter(counted.values())), next(reversed(counted.values()))
        figures = {"MiB behind the warm-up": first / 1024, "MiB at the end": last / 1024}
        rows[name] = once(figures | {"slope, KiB an hour": found.an_hour, "±": found.interval})
    return Table("Memory", _HOUR, rows)


def _plot(seen: Seen) -> Plot:
    lines = {name: {minute: [value / 1024] for minute, value in line.items()} for name, line in seen.items()}
    return Plot("hour", "Memory at a fixed size", "minutes", "MiB (USS)", lines)
