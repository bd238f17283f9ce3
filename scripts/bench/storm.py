"""Storm: a thousand clients come back at once, and how late events reach the others meanwhile.

They are a hundred events behind, while others are live and writes continue. In the same run the same clients come to a
bare server, which shakes hands and says that they are live. A client that misses an event, or has one twice,
fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, say
from scripts.bench.peers.process import beside
from scripts.bench.report import Goal, Table, empty_rows, note
from scripts.bench.stage import Stage, staged

_MISSED: Final = 100
_DOCUMENTS: Final = 2000
_STEADY, _AFTERWARDS = 4.0, 3.0
"""Seconds for which the others are watched before, and all after it."""

_PATIENCE: Final = 60.0

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
    "rates": ("20,100", "writes a second"),
    "rounds": (3, "rounds"),
}


def setup(options: argparse.Namespace) -> dict[str, str]:
    """Return what is the same for all figures."""
    return {
        "clients": f"{options.clients:,} come back at once, {_MISSED} events behind; {options.others} others",
        "writes": f"updates of {_DOCUMENTS:,} documents of 300 bytes, {options.rates} a second",
        "rounds": f"{options.rounds}, alternating; a fresh server each time",
    }


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    rows = empty_rows()
    cases = [(transport, float(rate)) for rate in options.rates.split(",") for transport in ("websocket", "sse")]
    async with crowd() as others, crowd() as back, staged(deployment, others, "storm", _DOCUMENTS) as stage:
        for number in range(options.rounds):
            note(rows["bare"], await _bare(back, options.clients))
            for transport, rate in cases if number % 2 == 0 else reversed(cases):
                figures = await _storm(stage, back, transport, rate, options)
                say(f"{transport}, {rate:g}/s: {figures}")
                note(rows[f"{transport}, {rate:g} writes/s"], figures)
    return [Table("Everybody comes back", _TABLE, rows)]


async def _bare(back: CrowdProcess, clients: int) -> dict[str, float]:
    async with beside(back) as peer:
        used = cpu_seconds(peer.pid)
        found = await back.ask("open", transport="websocket", count=clients, seq=peer.head, at_once=clients)
        return _cost(found, cpu_seconds(peer.pid) - used, clients)


def _cost(found: dict[str, float], used: float, clients: int) -> dict[str, float]:
    times = {"exact s": found["seconds"], "p50 s": found["p50"]}
    return times | {"CPU ms each": used / clients * 1000, "clients' CPU ms each": found["cpu"] / clients * 1000}


async def _storm(
    stage: Stage, back: CrowdProcess, transport: str, rate: float, options: argparse.Namespace
) -> dict[str, float]:
    """Raises `WrongError` where a client was not exact."""
    live, clients = stage.crowd, options.clients
    async with stage.serving() as pid:
        await stage.begin(back)
        first = await stage.log.head() + 1
        await live.ask("open", transport="websocket", count=options.others, seq=first - 1, timed=True)
        # Written while somebody is live: they are in the window, as they are after a server's network was gone.
        await stage.write(first, _MISSED)
        await live.ask("exact", seq=first + _MISSED - 1, seconds=_PATIENCE)
        await live.ask("delays")
        async with stage.writing(first + _MISSED, rate) as written:
            used = cpu_seconds(pid)
            await asyncio.sleep(_STEADY)
            steady, idle = await live.ask("delays"), (cpu_seconds(pid) - used) / _STEADY
            used, behind = cpu_seconds(pid), first + len(written) - 1
            found = await back.ask("open", transport=transport, count=clients, seq=behind, at_once=clients)
            used = cpu_seconds(pid) - used - idle * found["seconds"]
            stormy = await live.ask("delays")
            await asyncio.sleep(_AFTERWARDS)
            crowded = await live.ask("delays")
        last = first + _MISSED + len(written) - 1
        for process in (live, back):
            await process.ask("exact", seq=last, seconds=_PATIENCE)
    return _cost(found, used, clients) | {
        "others p50": steady["p50"],
        "others p99": steady["p99"],
        "in the storm p50": stormy["p50"],
        "in the storm p99": stormy["p99"],
        "p99 of steady": stormy["p99"] / steady["p99"],
        "afterwards p99": crowded["p99"],
    }
