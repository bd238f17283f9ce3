"""End to end: from the moment a write was meant to be made until each client has its event.

A real worker and server, over WebSocket, SSE and long poll, in an open loop. Beside, in the same seconds: when each
write was acknowledged, and when a bare change stream had it. A client that misses an event, or has one twice, fails the
run.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess, asked, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod
from scripts.bench.end_to_end_writers import SIZE, Write, open_loop, over_http, straight
from scripts.bench.exact import run_exact
from scripts.bench.peers import frames
from scripts.bench.peers.process import peer
from scripts.bench.percentiles import percentiles
from scripts.bench.report import Report, Table
from scripts.bench.sessions_stage import Stage, raise_open_files, say, staged

Rows = defaultdict[str, defaultdict[str, list[float]]]

_POLLERS: Final = 20
"""Clients that poll, at most: each answer is a request again."""

_NAIVE: Final = 20
"""Clients of the naive server, at most: of more MongoDB itself is busy."""

_ELSEWHERE: Final = "bench_elsewhere"
_WARM: Final = 0.5
_PATIENCE: Final = 30.0

_LATENCY = """\
Milliseconds from a write's intended time: until each client has its event (*p50*, *p95*, *p99* over all clients), until
the write was acknowledged (*ack*), and until a bare change stream, PyMongo's `watch` with one reader in a process of
its own, had it (*stream*). *HTTP*: `POST` to the server that serves the clients; *MongoDB*: `insert_one` by another
process. *twin* and *naive* are what one writes instead of eventsync (`scripts/bench/peers`): Starlette, with one change
stream for all, or one for each client; both forget what a client missed. CPU is a share of one core, of the server and
of the process with all clients."""

_RATIOS = """\
The same, over the write's own acknowledgement in the same round, and over the bare change stream. Goals: the median at
most 2.5 times the acknowledgement's, the 99th percentile at most 3 times."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """End to end: from a write's intended time to the clients, beside its acknowledgement and a change stream."""
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long a round of one cell takes (3)")
    loads = "20x100,100x100,200x100,100x300"
    parser.add_argument("--loads", default=loads, help=f"clients x writes/s ({loads})")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    return Report(
        "End to end",
        "scripts/bench/run end_to_end",
        {
            "processes": "mongod (6.0.5, one node), a worker, a server, the clients in one process, the writer and the "
            "change stream in two others share the CPUs; all over loopback",
            "writes": f"documents of {SIZE} bytes into one collection, write concern majority, journaled",
            "rounds": f"{options.rounds} of {options.seconds:g} s, alternating; a fresh server each time",
            "clients": f"at most {_POLLERS} poll; the naive server has at most {_NAIVE}",
        },
        tables,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    loads = [(int(load.partition("x")[0]), float(load.partition("x")[2])) for load in options.loads.split(",")]
    cells = [
        (transport, clients, rate)
        for clients, rate in loads
        for transport in ("websocket", "sse", "poll")
        if transport != "poll" or clients <= _POLLERS
    ]
    bench = _Bench(options.seconds)
    async with crowd() as clients_, staged(deployment, clients_, "end_to_end", 0) as stage:
        for number in range(options.rounds):
            for transport, clients, rate in cells if number % 2 == 0 else reversed(cells):
                await bench.cell(stage, transport, clients, rate)
                if transport == "websocket":
                    await bench.peers(stage, clients, rate)
    return bench.tables()


class _Bench:
    """The figures of all rounds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._latency = Rows(lambda: defaultdict(list))
        self._ratios = Rows(lambda: defaultdict(list))

    async def cell(self, stage: Stage, transport: str, clients: int, rate: float) -> None:
        """Both ways to write, with the same clients of one fresh server."""
        async with stage.serving() as pid, _watching(stage, stage.settings.database) as stream:
            await stage.ready()
            port, head = stage.settings.port, await stage.log.head()
            await stage.crowd.ask("begin", port=port, log=stage.log.name, documents=0, overtaking=True)
            await stage.crowd.ask("open", transport=transport, count=clients, seq=head, timed=True)
            run, docs = _Run(stage.crowd, pid, stream, head), stage.stores.data[SHAPE]
            async with over_http(port) as post:
                for name, write in (("HTTP", post), ("MongoDB", straight(docs))):
                    await self._measure(run, write, f"{name} → {transport}, {clients} at {rate:g}/s", rate)

    async def peers(self, stage: Stage, clients: int, rate: float) -> None:
        """The same with others between MongoDB and the clients; of a collection that eventsync does not track."""
        for name in ("twin", "naive") if clients <= _NAIVE else ("twin",):
            docs = stage.stores.data.client[_ELSEWHERE][SHAPE]
            await docs.drop()
            await docs.database.create_collection(SHAPE)
            words = (stage.deployment.uri, _ELSEWHERE)
            async with peer(name, *words) as (process, port), _watching(stage, _ELSEWHERE) as stream:
                await process.ask("listen")
                await stage.crowd.ask("begin", port=port, log=frames.LOG, documents=0, overtaking=True)
                await stage.crowd.ask("open", transport="websocket", count=clients, seq=0, timed=True)
                run = _Run(stage.crowd, process.pid, stream, 0)
                await self._measure(run, straight(docs), f"MongoDB → {name}, {clients} at {rate:g}/s", rate)

    async def _measure(self, run: _Run, write: Write, row: str, rate: float) -> None:
        await run.writes(write, round(_WARM * rate), rate)
        self._note(row, await run.writes(write, round(self._seconds * rate), rate))

    def _note(self, row: str, figures: dict[str, float]) -> None:
        say(f"{row}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
        for name, value in figures.items():
            self._latency[row][name].append(value)
        for name in ("p50", "p99"):
            for other in ("ack", "stream"):
                self._ratios[row][f"{name} of {other}"].append(figures[name] / figures[f"{other} {name}"])

    def tables(self) -> list[Table]:
        return [Table("Ratios", _RATIOS, self._ratios), Table("Latency", _LATENCY, self._latency)]


@dataclass
class _Run:
    """A server with its clients, and a change stream. `head`: how many events there were."""

    crowd: CrowdProcess
    pid: int
    stream: CrowdProcess
    head: int

    async def writes(self, write: Write, count: int, rate: float) -> dict[str, float]:
        """Measure how late `count` writes are everywhere. Raises `WrongError` if one is missing or came twice."""
        pids = (self.pid, self.crowd.pid)
        used = [cpu_seconds(pid) for pid in pids]
        acks = await open_loop(write, self.head + 1, count, rate)
        self.head += count
        await self.crowd.ask("exact", seq=self.head, seconds=_PATIENCE)
        server, clients = (cpu_seconds(pid) - so_far for pid, so_far in zip(pids, used, strict=True))
        late = await self.crowd.ask("delays")
        streamed = (await self.stream.ask("delays", count=count))["delays"]
        if len(streamed) != count or len(acks) != count:
            raise WrongError(f"{count} writes were {len(acks)} acknowledged, {len(streamed)} in the change stream")
        shares = {"server CPU %": 100 * server * rate / count, "clients' CPU %": 100 * clients * rate / count}
        found = {name: late[name] for name in ("p50", "p95", "p99")}
        return found | percentiles(acks, "ack ") | percentiles(streamed, "stream ") | shares


@asynccontextmanager
async def _watching(stage: Stage, database: str) -> AsyncIterator[CrowdProcess]:
    """A bare change stream while the block runs; its first answer says that it is open."""
    module = "scripts.bench.peers.watching"
    async with asked(sys.executable, "-m", module, stage.deployment.uri, database) as process:
        await process.ask("delays", count=0)
        yield process
