"""Fan-out: what one event costs a server for each of its clients, beside the floor and beside other servers.

A real worker and server, and in the same run, with the same bytes, clients and client process: a bare write of the
same frame to each connection (the floor), Starlette on uvicorn, Node's `ws`. A client that misses an event, or has one
twice, fails the run.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version

from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.fan_out_cells import BURST, STEADY, Cell, Load, Run
from scripts.bench.fan_out_ratios import Costs, Key, growth, ratios
from scripts.bench.fan_out_sources import beside, ours
from scripts.bench.peers.process import has_node
from scripts.bench.report import Report, Table
from scripts.bench.sessions_stage import Stage, raise_open_files, say, staged

OURS, OURS_SSE, BARE, PLAIN, NODE = "eventsync", "eventsync SSE", "bare write", "Starlette", "Node ws"
_COST = {STEADY: "µs a frame", BURST: "µs a delivery"}
"""What is compared. Events one by one come in a frame each; having had to wait for each other is no merit."""

_MODULES = {BARE: "bare", PLAIN: "plain", NODE: "node"}

_LESS = 5
"""How much smaller a burst is for those that send each event by itself."""

Rows = defaultdict[str, defaultdict[str, list[float]]]

_SINGLE = """\
Events one by one, in an open loop: each is written, or sent, at its intended time, whatever became of those before it.
*µs a delivery*: CPU of the server process, by event and client; of eventsync less what the same events cost with one
client. *p50*, *p99*: from the intended time until a client has the event, of 20 of the clients; eventsync's come from a
write to MongoDB (majority, journaled), through the worker and the log, the others' from a timer in the server itself.
*bytes a delivery* are all that the clients have read. Where a busy machine has let events wait for each other, several
come in a *frame*; *µs a frame* is what is compared."""

_BURSTS = """\
Events as fast as they go, after a rest: eventsync's are inserted into MongoDB in bulk, sequenced, and sent together as
they come out of the log; the bare write sends as many in a piece as eventsync has just done. Starlette and Node `ws`
send each by itself. The rate is from the first write to the last client, and is the whole chain's, not the server's."""

_RATIOS = """\
eventsync's µs a frame (in bursts: a delivery), over those of the other in the same round. Goals for events one by one:
at most 1.3 of the bare write, 0.6 of Starlette, and less than 1 of Node `ws`."""

_GROWTH = """\
µs a frame (in bursts: a delivery) with the most clients over those with the least, in the same round; goal, for events
one by one: within 15 %. *over bare write*: over the growth of
the bare write, which is the kernel's."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Fan-out: server CPU a delivery, beside a bare write, Starlette and Node ws."""
    parser.add_argument("--clients", default="100,200,1000,2000", help="numbers of clients (100,200,1000,2000)")
    parser.add_argument("--sizes", default="300,1024", help="bytes of the events' documents (300,1024)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--seconds", type=float, default=1.2, help="how long these go, with many clients (1.2)")
    parser.add_argument("--deliveries", type=float, default=40_000, help="deliveries a second of these (40000)")
    parser.add_argument("--most", type=float, default=100.0, help="events a second of these, at most (100)")
    parser.add_argument("--burst", type=int, default=200_000, help="deliveries of a burst (200000)")
    parser.add_argument(
        "--sse", type=int, default=1000, help="the number of clients that are tried over SSE, too (1000)"
    )
    parser.add_argument("--only", default="", help="systems, separated by commas, instead of all")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    return Report(
        "Fan-out",
        "scripts/bench/run fan_out",
        {
            "processes": "mongod (6.0.5, one node), a worker, a server, the clients in one process and the writer in "
            "another share the CPUs; all over loopback",
            "writes": "inserts into the one collection that all clients follow, write concern majority, journaled",
            "one by one": f"{options.deliveries:,.0f} deliveries/s, but at most {options.most:g} events/s, "
            f"{options.seconds * options.deliveries:,.0f} in all",
            "bursts": f"{options.burst:,} deliveries, of Starlette and Node ws {options.burst // _LESS:,}",
            "rounds": f"{options.rounds}, alternating; a fresh server for each number of clients",
            "peers": f"uvicorn {version('uvicorn')}, Starlette {version('starlette')}, websockets "
            f"{version('websockets')}, uvloop {version('uvloop')}, {_node()}",
        },
        tables,
    )


def _node() -> str:
    if not has_node():
        return "no Node with ws here (`scripts/peers` installs ws): its rows are missing"
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return f"Node {found.stdout.strip()} with ws as tests/support/peers locks it"


def _systems(options: argparse.Namespace, clients: int, least: int) -> list[str]:
    """Return the systems to measure with so many clients. The least number of clients serves for the growth alone."""
    systems = [OURS, OURS_SSE, BARE] if clients == options.sse else [OURS, BARE]
    if clients != least:
        systems += [PLAIN, NODE] if has_node() else [PLAIN]
    return [name for name in systems if not options.only or name in options.only.split(",")]


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    sizes = [int(text) for text in options.sizes.split(",")]
    bench = _Bench(sizes, Load(options.seconds, options.deliveries, options.most, options.burst))
    numbers = [int(text) for text in options.clients.split(",")]
    async with crowd() as clients, staged(deployment, clients, "fan_out", 0) as stage:
        for number in range(options.rounds):
            for count in numbers if number % 2 == 0 else reversed(numbers):
                await bench.round(stage, clients, _systems(options, count, min(numbers)), count)
    return bench.tables(numbers)


class _Bench:
    """All rounds: the figures of each row, and what the ratios need."""

    def __init__(self, sizes: Sequence[int], load: Load) -> None:
        self._sizes = sizes
        self._load = load
        self._rows = {STEADY: Rows(lambda: defaultdict(list)), BURST: Rows(lambda: defaultdict(list))}
        self._costs: Costs = defaultdict(list)
        self._alone: dict[tuple[int, str], Run] = {}
        self._together: dict[int, int] = {}

    async def round(self, stage: Stage, clients: CrowdProcess, systems: Sequence[str], count: int) -> None:
        """Each system once; eventsync first, because it says how many events go together in a burst, and what they cost
        without clients."""
        for system in systems:
            if system in {OURS, OURS_SSE}:
                async with ours(stage) as source:
                    cell = Cell(source, clients, self._load, "sse" if system == OURS_SSE else "websocket")
                    if system == OURS:
                        await self._alone_with(cell, count)
                    await self._cell(cell, system, count)
            else:
                load = self._load if system == BARE else replace(self._load, burst=self._load.burst // _LESS)
                async with beside(_MODULES[system], clients) as peer:
                    await self._cell(Cell(peer, clients, load, "websocket"), system, count)

    async def _alone_with(self, cell: Cell, count: int) -> None:
        await cell.open(1)
        for size in self._sizes:
            for kind in self._rows:
                self._alone[size, kind] = await cell.run(size, kind, like=count)

    async def _cell(self, cell: Cell, system: str, count: int) -> None:
        await cell.open(count)
        for size in self._sizes:
            for kind, rows in self._rows.items():
                together = self._together.get(size, 1) if system == BARE else 1
                found = await cell.run(size, kind, like=count, together=together)
                alone = self._alone[size, kind] if system in {OURS, OURS_SSE} else None
                figures, late = found.figures(alone), await cell.delays()
                if kind == STEADY:
                    figures |= late
                elif system == OURS:
                    self._together[size] = max(1, round(figures["events a frame"]))
                row = rows[f"{system}, {count:,} of {size:,} B"]
                for name, value in figures.items():
                    row[name].append(value)
                self._costs[Key(system, count, size, kind)].append(figures[_COST[kind]])
        say(
            f"{system}, {count:,}: "
            + ", ".join(
                f"{kind} {size} B {self._costs[Key(system, count, size, kind)][-1]:.2f} µs"
                for size in self._sizes
                for kind in self._rows
            )
        )

    def tables(self, numbers: Sequence[int]) -> list[Table]:
        others = (BARE, PLAIN, NODE)
        found = [
            Table("Ratios, one by one", _RATIOS, ratios(self._costs, STEADY, (OURS, OURS_SSE), others)),
            Table("Ratios, bursts", _RATIOS, ratios(self._costs, BURST, (OURS, OURS_SSE), others)),
            Table("Growth", _GROWTH, growth(self._costs, min(numbers), max(numbers), BARE)),
            Table("One by one", _SINGLE, self._rows[STEADY]),
            Table("Bursts", _BURSTS, self._rows[BURST]),
        ]
        return [table for table in found if table.rows]
