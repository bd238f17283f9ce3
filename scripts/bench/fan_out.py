"""Fan-out: server CPU of a delivery, beside a bare socket write and Starlette.

A real worker and server; in the same run, with the same bytes, clients and client process: a bare write of the same
frame to each connection (the floor), and Starlette on uvicorn. A fresh server for each number of clients, which all
follow the one collection. A client that misses an event, or has one twice, fails the run.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from scripts.bench.clients.exactness import WrongError
from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.peers.process import Source, beside
from scripts.bench.report import Figures, Goal, Rows, Table, alternating
from scripts.bench.stage import Stage, staged
from scripts.bench.writers import PATIENCE, paced

OURS, OURS_SSE, BARE, PLAIN = "eventsync", "eventsync SSE", "bare write", "Starlette"
_TRANSPORTS: Final = {OURS: "websocket", OURS_SSE: "sse"}
_PEERS: Final = {BARE: ("bare",), PLAIN: ("starlette", "timer")}

_TIMED: Final = 20
"""Clients that note how late events are: all of them would be busy with that."""

_WARM_SECONDS: Final = 0.3
_LONGEST: Final = 8.0

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
    "clients": ((100, 200, 1000, 2000), "numbers of clients"),
    "sizes": ((300, 1024), "bytes of the events' documents"),
    "rounds": (3, "rounds"),
    "seconds": (1.2, "how long these go, with many clients"),
    "deliveries": (40_000.0, "deliveries a second of these"),
    "most": (100.0, "events a second of these, at most"),
    "sse": (1000, "number of clients that also use SSE"),
}
QUICK: Final = "--rounds 1 --clients 100,200 --sizes 300"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    least, most = min(options.clients), max(options.clients)
    rows, costs = Rows(), defaultdict[Key, list[float]](list)
    async with load_generator() as clients, staged(deployment, clients, "fan_out", 0) as stage:
        for _, count in alternating(options.rounds, options.clients):
            # The least number of clients serves for the growth alone.
            left_out = {OURS_SSE if count != options.sse else "", PLAIN if count == least else ""}
            for system in (*_TRANSPORTS, *_PEERS):
                if system in left_out:
                    continue
                async with _source(stage, system) as source:
                    for size, figures in (await _Case(clients, source, system, count, options).measured()).items():
                        rows.note(f"{system}, {count:,} of {size:,} B", figures)
                        costs[Key(system, count, size)].append(figures["µs a frame"])
    return [
        Table("Ratios", _RATIOS, ratios(costs)),
        Table("Growth", _GROWTH, growth(costs, least, most)),
        Table("Costs", _COSTS, rows),
    ]


@asynccontextmanager
async def _source(stage: Stage, system: str) -> AsyncIterator[Source]:
    """Run a fresh server of a system."""
    if system in _PEERS:
        async with beside(stage.clients, *_PEERS[system]) as source:
            yield source
    else:
        async with stage.serving() as pid:
            yield _Ours(stage, pid, await stage.head())


class _Ours(Source):
    """The stage's writer, MongoDB, the worker, and a server."""

    def __init__(self, stage: Stage, pid: int, head: int) -> None:
        self._stage = stage
        self.pid = pid
        self.head = head

    async def steady(self, count: int, rate: float, size: int) -> None:
        async for _, due in paced(count, rate):
            self.head += 1
            await self._stage.write(self.head, 1, size=size, at=due)


class _Case:
    """One server and a number of clients."""

    def __init__(self, clients: Process, source: Source, system: str, count: int, options: argparse.Namespace) -> None:
        self._clients = clients
        self._source = source
        self._transport = _TRANSPORTS.get(system)
        self._count = count
        self._options = options
        self._rate = min(options.most, options.deliveries / count)
        """Events a second. Fewer of them would cost more by themselves than their deliveries."""

    async def measured(self) -> dict[int, Figures]:
        """Return the figures of each size."""
        sizes, alone, others = self._options.sizes, dict[int, Figures](), self._count
        if self._transport:
            await self._open(1)
            alone = {size: await self._run(size, 1) for size in sizes}
            others -= 1
        timed = min(_TIMED, others)
        await self._open(timed, timed=True)
        await self._open(others - timed)
        await self._clients.ask("delays")
        return {size: await self._figures(size, alone.get(size)) for size in sizes}

    async def _open(self, count: int, *, timed: bool = False) -> None:
        source, transport = self._source, self._transport or "websocket"
        if count:
            await self._clients.ask("open", transport=transport, count=count, seq=source.head, timed=timed)
            await source.steady(max(1, round(_WARM_SECONDS * self._rate)), self._rate, 300)
            await self._clients.ask("exact", seq=source.head, seconds=PATIENCE)

    async def _figures(self, size: int, alone: Figures | None) -> Figures:
        found = await self._run(size, self._count)
        late = await self._clients.ask("delays")
        net = {name: value - alone[name] if alone else value for name, value in found.items()}
        return {
            "µs a frame": net["server"] / net["frames"] * 1e6,
            "µs a delivery": net["server"] / net["events"] * 1e6,
            "p50 ms": late["p50"],
            "p99 ms": late["p99"],
            "deliveries/s": found["events"] / found["seconds"],
            "server CPU %": 100 * found["server"] / found["seconds"],
            "clients' CPU %": 100 * found["clients"] / found["seconds"],
            "events a frame": found["events"] / found["frames"],
        }

    async def _run(self, size: int, clients: int) -> Figures:
        """Send the events of this number of clients to `clients`. Raises `WrongError` unless each has each once."""
        source, options = self._source, self._options
        count = max(1, round(min(options.seconds * options.deliveries / self._count, _LONGEST * self._rate)))
        before = await self._clients.ask("exact", seq=source.head, seconds=PATIENCE)
        began, cpu = time.monotonic(), Cpu(server=source.pid, clients=self._clients.pid)
        await source.steady(count, self._rate, size)
        after = await self._clients.ask("exact", seq=source.head, seconds=PATIENCE)
        events, frames = (after[name] - before[name] for name in ("events", "frames"))
        if events != count * clients:
            raise WrongError(f"{count} events to {clients} clients were {events} deliveries")
        return cpu.used() | {"events": events, "frames": frames, "seconds": after["at"] - began}


Costs = Mapping[Key, Sequence[float]]
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
