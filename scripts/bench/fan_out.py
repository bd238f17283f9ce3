"""Fan-out: server CPU of a delivery, beside a bare socket write and Starlette.

A real worker and server; in the same run, with the same bytes, clients and client process: a bare write of the same
frame to each connection (the floor), and Starlette on uvicorn. A client that misses an event, or has one twice, fails
the run.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final, NamedTuple

from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, say
from scripts.bench.peers.process import Source, beside
from scripts.bench.report import Goal, Table, empty_rows, note
from scripts.bench.stage import Stage, staged

OURS, OURS_SSE, BARE, PLAIN = "eventsync", "eventsync SSE", "bare write", "Starlette"
_PEERS: Final = {BARE: ("bare",), PLAIN: ("starlette", "timer")}

_TIMED: Final = 20
"""Clients that note how late events are: all of them would be busy with that."""

_WARM_SECONDS: Final = 0.3
_LONGEST: Final = 8.0
_PATIENCE: Final = 60.0

_COSTS: Final = """\
Each event is written, or sent, at its intended time, whatever became of those before it. *µs a delivery*: CPU of the
server process, by event and client; of eventsync less what the same events cost with one client. Where a busy machine
lets events wait for each other, several come in a *frame*; *µs a frame* is what is compared. *p50*, *p99*: ms from the
intended time until 20 of the clients have the event; eventsync's come from a write to MongoDB (majority, journaled),
through the worker and the log, the others' from a timer in the server itself."""

_RATIOS: Final = "eventsync's µs a frame, over those of the other in the same round."

_GROWTH: Final = """\
µs a frame with the most clients over those with the least, in the same round; *over bare write*: over the growth of the
bare write, which is the kernel's."""

GOALS: Final = (
    Goal("server CPU of a delivery, of a bare `transport.write`", "Ratios", OURS, f"of {BARE}", 1.3),
    Goal("… of Starlette's `send_text`", "Ratios", OURS, f"of {PLAIN}", 0.6),
    Goal("CPU of a delivery, the most clients over the least", "Growth", OURS, "growth", 1.15),
)


class Key(NamedTuple):
    """The case that a cost belongs to."""

    system: str
    clients: int
    size: int


OPTIONS: Final = {
    "clients": ("100,200,1000,2000", "numbers of clients"),
    "sizes": ("300,1024", "bytes of the events' documents"),
    "rounds": (3, "rounds"),
    "seconds": (1.2, "how long these go, with many clients"),
    "deliveries": (40_000.0, "deliveries a second of these"),
    "most": (100.0, "events a second of these, at most"),
    "sse": (1000, "number of clients that also use SSE"),
}


def setup(options: argparse.Namespace) -> dict[str, str]:
    """Return what is the same for all figures."""
    return {
        "writes": "inserts into the one collection that all clients follow",
        "rate": f"{options.deliveries:,.0f} deliveries/s, but at most {options.most:g} events/s, "
        f"{options.seconds * options.deliveries:,.0f} in all",
        "rounds": f"{options.rounds}, alternating; a fresh server for each number of clients",
        "peers": ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "starlette", "websockets", "uvloop")),
    }


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    numbers = [int(text) for text in options.clients.split(",")]
    async with crowd() as clients, staged(deployment, clients, "fan_out", 0) as stage:
        bench = _Bench(stage, clients, options)
        for number in range(options.rounds):
            for count in numbers if number % 2 == 0 else reversed(numbers):
                # The least number of clients serves for the growth alone.
                peers = [BARE] if count == min(numbers) else [BARE, PLAIN]
                await bench.round(count, peers)
    costs = bench.costs
    return [
        Table("Ratios", _RATIOS, ratios(costs)),
        Table("Growth", _GROWTH, growth(costs, min(numbers), max(numbers))),
        Table("Costs", _COSTS, bench.rows),
    ]


class _Bench:
    """The figures of all rounds."""

    def __init__(self, stage: Stage, clients: CrowdProcess, options: argparse.Namespace) -> None:
        self._stage = stage
        self._clients = clients
        self._options = options
        self._sizes = [int(text) for text in options.sizes.split(",")]
        self.rows = empty_rows()
        self.costs: defaultdict[Key, list[float]] = defaultdict(list)

    async def round(self, count: int, peers: list[str]) -> None:
        """Measure each system once."""
        for system in (OURS, OURS_SSE) if count == self._options.sse else (OURS,):
            async with _ours(self._stage) as source:
                transport = "sse" if system == OURS_SSE else "websocket"
                await self._open(source, transport, 1, timed=False)
                alone = {size: await self._run(source, size, 1, like=count) for size in self._sizes}
                timed = min(_TIMED, count - 1)
                await self._open(source, transport, timed, timed=True)
                await self._open(source, transport, count - 1 - timed, timed=False)
                await self._note(source, system, count, alone)
        for system in peers:
            async with beside(self._clients, *_PEERS[system]) as source:
                timed = min(_TIMED, count)
                await self._open(source, "websocket", timed, timed=True)
                await self._open(source, "websocket", count - timed, timed=False)
                await self._note(source, system, count, {})

    async def _open(self, source: Source, transport: str, count: int, *, timed: bool) -> None:
        if count:
            await self._clients.ask("open", transport=transport, count=count, seq=source.head, timed=timed)
            await source.steady(max(1, round(_WARM_SECONDS * self._rate(count))), self._rate(count), 300)
            await self._clients.ask("exact", seq=source.head, seconds=_PATIENCE)

    def _rate(self, clients: int) -> float:
        """Return the events a second: fewer of them would cost more by themselves than their deliveries."""
        return float(min(self._options.most, self._options.deliveries / clients))

    async def _note(self, source: Source, system: str, count: int, alone: dict[int, dict[str, float]]) -> None:
        await self._clients.ask("delays")
        for size in self._sizes:
            found = await self._run(source, size, count, like=count)
            late = await self._clients.ask("delays")
            net = {name: value - alone[size][name] if alone else value for name, value in found.items()}
            figures = {
                "µs a frame": net["cpu"] / net["frames"] * 1e6,
                "µs a delivery": net["cpu"] / net["events"] * 1e6,
                "p50 ms": late["p50"],
                "p99 ms": late["p99"],
                "deliveries/s": found["events"] / found["seconds"],
                "server CPU %": 100 * found["cpu"] / found["seconds"],
                "clients' CPU %": 100 * found["clients"] / found["seconds"],
                "events a frame": found["events"] / found["frames"],
            }
            note(self.rows[f"{system}, {count:,} of {size:,} B"], figures)
            self.costs[Key(system, count, size)].append(figures["µs a frame"])
            say(f"{system}, {count:,} of {size} B: {figures['µs a frame']:.2f} µs a frame")

    async def _run(self, source: Source, size: int, clients: int, *, like: int) -> dict[str, float]:
        """Send the events that `like` clients are to be sent. Raises `WrongError` where one has not each event once."""
        rate, options = self._rate(like), self._options
        count = max(1, round(min(options.seconds * options.deliveries / like, _LONGEST * rate)))
        before, pids = (
            await self._clients.ask("exact", seq=source.head, seconds=_PATIENCE),
            (source.pid, self._clients.pid),
        )
        began, used = time.monotonic(), [cpu_seconds(pid) for pid in pids]
        await source.steady(count, rate, size)
        after = await self._clients.ask("exact", seq=source.head, seconds=_PATIENCE)
        events = after["events"] - before["events"]
        if events != count * clients:
            raise WrongError(f"{count} events to {clients} clients were {events} deliveries")
        cpu, others = (cpu_seconds(pid) - so_far for pid, so_far in zip(pids, used, strict=True))
        frames = after["frames"] - before["frames"]
        return {"events": events, "frames": frames, "cpu": cpu, "clients": others, "seconds": after["at"] - began}


class _Ours(Source):
    """The stage's writer, MongoDB, the worker, and a server."""

    def __init__(self, stage: Stage, pid: int, head: int) -> None:
        self._stage = stage
        self.pid = pid
        self.head = head

    async def steady(self, count: int, rate: float, size: int) -> None:
        began = time.monotonic()
        for number in range(count):
            due = began + number / rate
            await asyncio.sleep(due - time.monotonic())
            self.head += 1
            await self._stage.write(self.head, 1, size=size, at=due)


@asynccontextmanager
async def _ours(stage: Stage) -> AsyncIterator[_Ours]:
    async with stage.serving() as pid:
        yield _Ours(stage, pid, await stage.log.head())


Costs = dict[Key, list[float]]
"""µs a frame, one a round."""


def ratios(costs: Costs) -> dict[str, dict[str, list[float]]]:
    rows = {}
    for key, mine in costs.items():
        beside_ = {name: costs.get(key._replace(system=name)) for name in (BARE, PLAIN)}
        if key.system in {OURS, OURS_SSE}:
            found = {f"of {name}": _over(mine, theirs) for name, theirs in beside_.items() if theirs}
            rows[f"{key.system}, {key.clients:,} of {key.size:,} B"] = found
    return rows


def growth(costs: Costs, least: int, most: int) -> dict[str, dict[str, list[float]]]:
    rows: dict[str, dict[str, list[float]]] = {}
    for key in costs:
        if key.clients == most != least and key.system in {OURS, BARE}:
            bare = _grown(costs, key._replace(system=BARE), least)
            grown = _grown(costs, key, least)
            rows[f"{key.system}, {key.size:,} B"] = {"growth": grown, f"over {BARE}": _over(grown, bare)}
    return rows


def _grown(costs: Costs, key: Key, least: int) -> list[float]:
    return _over(costs[key], costs[key._replace(clients=least)])


def _over(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """Divide round by round."""
    return [one / other for one, other in zip(these, those, strict=True)]
