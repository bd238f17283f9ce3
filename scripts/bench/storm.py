"""Storm: a thousand clients come back at once, and how late events reach the others meanwhile.

They are a hundred events behind, while others are live and writes continue: updates of 2,000 documents of 300 bytes. In
the same run the same clients come to a bare server, which shakes hands and says that they are live. A fresh server each
time. A client that misses an event, or has one twice, fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.peers.process import beside
from scripts.bench.report import Figures, Goal, Rows, Table, alternating
from scripts.bench.stage import Stage, staged
from scripts.bench.writers import PATIENCE

_MISSED: Final = 100
_DOCUMENTS: Final = 2000
_STEADY, _AFTERWARDS = 4.0, 3.0
"""Seconds for which the others are watched before, and all after it."""

_TABLE: Final = """\
*exact s*: from the first attempt to connect until each of those who come back was live with all that it had missed;
*p50 s*: half of them. *others*: ms from a write's intended time until the clients that were live all the time had its
event, before and during the storm, and *afterwards*, when those who came back get the same events. *CPU ms each*: the
server's, by client that comes back, less what it takes steadily; *clients' CPU ms each*: that of the process they are
in, which shares the cores. *bare*: a server that does nothing else."""

GOALS: Final = (
    Goal("storm of 1,000, s until all are exact", "Everybody comes back", "websocket", "exact s", 2.0),
    Goal("… the others' p99, of steady", "Everybody comes back", "websocket", "p99 of steady", 5.0),
)


OPTIONS: Final = {
    "clients": (1000, "clients that come back"),
    "others": (100, "clients that are live all the time"),
    "rates": ((20, 100), "writes a second"),
    "rounds": (3, "rounds"),
}
QUICK: Final = "--clients 100 --rounds 1 --rates 20"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    rows, bare = Rows(), ("bare", 0)
    cases = [bare, *((transport, rate) for rate in options.rates for transport in ("websocket", "sse"))]
    async with (
        load_generator() as others,
        load_generator() as back,
        staged(deployment, others, "storm", _DOCUMENTS) as stage,
    ):
        for _, (transport, rate) in alternating(options.rounds, cases):
            if (transport, rate) == bare:
                async with beside(back) as peer:
                    rows.note("bare", await _come_back(back, peer.pid, "websocket", peer.head, options.clients))
            else:
                rows.note(f"{transport}, {rate} writes/s", await _storm(stage, back, transport, rate, options))
    return [Table("Everybody comes back", _TABLE, rows)]


async def _come_back(back: Process, pid: int, transport: str, seq: int, clients: int, idle: float = 0.0) -> Figures:
    """Measure clients that come to a server. `idle`: the share of a core that it takes without them."""
    cpu = Cpu(server=pid)
    found = await back.ask("open", transport=transport, count=clients, seq=seq, at_once=clients)
    used = cpu.used()["server"] - idle * found["seconds"]
    costs = {"CPU ms each": used / clients * 1000, "clients' CPU ms each": found["cpu"] / clients * 1000}
    return {"exact s": found["seconds"], "p50 s": found["p50"]} | costs


async def _storm(stage: Stage, back: Process, transport: str, rate: float, options: argparse.Namespace) -> Figures:
    """Raises `WrongError` where a client was not exact."""
    live = stage.clients
    async with stage.serving() as pid:
        await stage.begin(back)
        first = await stage.head() + 1
        await live.ask("open", transport="websocket", count=options.others, seq=first - 1, timed=True)
        # Written while somebody is live: they are in the window, as they are after a server's network was gone.
        await stage.write(first, _MISSED)
        await live.ask("exact", seq=first + _MISSED - 1, seconds=PATIENCE)
        await live.ask("delays")
        async with stage.writing(first + _MISSED, rate) as written:
            cpu = Cpu(server=pid)
            await asyncio.sleep(_STEADY)
            steady, idle = await live.ask("delays"), cpu.used()["server"] / _STEADY
            figures = await _come_back(back, pid, transport, first + len(written) - 1, options.clients, idle)
            stormy = await live.ask("delays")
            await asyncio.sleep(_AFTERWARDS)
            afterwards = await live.ask("delays")
        for process in (live, back):
            await process.ask("exact", seq=first + _MISSED + len(written) - 1, seconds=PATIENCE)
    return figures | {
        "others p50": steady["p50"],
        "others p99": steady["p99"],
        "in the storm p50": stormy["p50"],
        "in the storm p99": stormy["p99"],
        "p99 of steady": stormy["p99"] / steady["p99"],
        "afterwards p99": afterwards["p99"],
    }
