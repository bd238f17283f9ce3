"""Storm: a thousand clients come back at once, a hundred events behind, while others are live and writes go on.

A real worker and server. Beside, in the same run: the same clients come to a bare server, which shakes hands and says
that they are live. A client that misses an event, or has one twice, fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.fan_out_sources import beside
from scripts.bench.report import Report, Table
from scripts.bench.sessions_stage import Stage, raise_open_files, say, staged

Rows = defaultdict[str, defaultdict[str, list[float]]]

_MISSED: Final = 100
_DOCUMENTS: Final = 2000
_STEADY: Final = 4.0
"""Seconds for which the others are watched before the storm."""

_AFTERWARDS: Final = 3.0
"""Seconds for which all are watched behind it."""

_PATIENCE: Final = 60.0

_TABLE: Final = """\
*exact s*: from the first attempt to connect until each of those who come back was live with all that it had missed;
*p50 s*: half of them. *others*: ms from a write's intended time until the clients that were live all the time had its
event, before and during the storm, and *afterwards*, when those who came back get the same events. *CPU ms each*: the
server's, by client that comes back, less what it takes steadily; *clients' CPU ms each*: that of the process they are
in, which shares the cores. *bare*: the same clients at a server that shakes hands and says that they are live, and
nothing else. Goals: exact within 2 s; the others' p99 at most five times the steady one."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Storm: a thousand clients come back at once, and how late events come to the others meanwhile."""
    parser.add_argument("--clients", type=int, default=1000, help="clients that come back (1000)")
    parser.add_argument("--others", type=int, default=100, help="clients that are live all the time (100)")
    parser.add_argument("--rates", default="20,100", help="writes a second (20,100)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    return Report(
        "Storm",
        "scripts/bench/run storm",
        {
            "processes": "mongod (6.0.5, one node), a worker, a server, those who come back in one process, the others "
            "in another and the writer in a third share the CPUs; all over loopback",
            "clients": f"{options.clients:,} that come back, {_MISSED} events missed; {options.others} others",
            "writes": f"updates of {_DOCUMENTS:,} documents of 300 bytes, majority, journaled",
            "rounds": f"{options.rounds}, alternating; a fresh server each time",
        },
        tables,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    rows = Rows(lambda: defaultdict(list))
    cells = [(transport, float(rate)) for rate in options.rates.split(",") for transport in ("websocket", "sse")]
    async with (
        crowd() as others,
        crowd() as back,
        staged(deployment, others, "storm", _DOCUMENTS) as stage,
    ):
        for number in range(options.rounds):
            await _bare(back, options.clients, rows["bare"])
            for transport, rate in cells if number % 2 == 0 else reversed(cells):
                storm = _Storm(stage, back, options.others, options.clients)
                figures = await storm.measured(transport, rate)
                say(f"{transport}, {rate:g}/s: {figures}")
                _note(rows[f"{transport}, {rate:g} writes/s"], figures)
    return [Table("Everybody comes back", _TABLE, rows)]


async def _bare(back: CrowdProcess, clients: int, row: defaultdict[str, list[float]]) -> None:
    async with beside("bare", back) as peer:
        used = cpu_seconds(peer.pid)
        found = await back.ask("open", transport="websocket", count=clients, seq=peer.head, at_once=clients)
        used = cpu_seconds(peer.pid) - used
    times = {"exact s": found["seconds"], "p50 s": found["p50"]}
    others = ("others p50", "others p99", "in the storm p50", "in the storm p99", "p99 of steady", "afterwards p99")
    nobody = dict.fromkeys(others, 0.0)
    cpu = {"CPU ms each": used / clients * 1000, "clients' CPU ms each": found["cpu"] / clients * 1000}
    _note(row, times | nobody | cpu)


def _note(row: defaultdict[str, list[float]], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        row[name].append(value)


class _Storm:
    """One server, those who are live on it, and those who come back."""

    def __init__(self, stage: Stage, back: CrowdProcess, others: int, clients: int) -> None:
        self._stage = stage
        self._back = back
        self._others = others
        self._clients = clients

    async def measured(self, transport: str, rate: float) -> dict[str, float]:
        """Raises `WrongError` where a client was not exact."""
        stage, live, back = self._stage, self._stage.crowd, self._back
        async with stage.serving() as pid:
            await stage.ready()
            first = await stage.log.head() + 1
            for process in (live, back):
                await process.ask("begin", port=stage.settings.port, log=stage.log.name, documents=_DOCUMENTS)
            await live.ask("open", transport="websocket", count=self._others, seq=first - 1, timed=True)
            # Written while somebody is live: they are in the window, as they are after a server's network was gone.
            await stage.write(first, _MISSED)
            await live.ask("exact", seq=first + _MISSED - 1, seconds=_PATIENCE)
            await live.ask("delays")
            async with stage.writing(first + _MISSED, rate) as written:
                used = cpu_seconds(pid)
                await asyncio.sleep(_STEADY)
                steady, idle = await live.ask("delays"), (cpu_seconds(pid) - used) / _STEADY
                used, lacks = cpu_seconds(pid), first + len(written) - 1
                found = await back.ask(
                    "open", transport=transport, count=self._clients, seq=lacks, at_once=self._clients
                )
                used = cpu_seconds(pid) - used - idle * found["seconds"]
                stormy = await live.ask("delays")
                await asyncio.sleep(_AFTERWARDS)
                crowded = await live.ask("delays")
            last = first + _MISSED + len(written) - 1
            for process in (live, back):
                await process.ask("exact", seq=last, seconds=_PATIENCE)
        return {
            "exact s": found["seconds"],
            "p50 s": found["p50"],
            "others p50": steady["p50"],
            "others p99": steady["p99"],
            "in the storm p50": stormy["p50"],
            "in the storm p99": stormy["p99"],
            "p99 of steady": stormy["p99"] / steady["p99"],
            "afterwards p99": crowded["p99"],
            "CPU ms each": used / self._clients * 1000,
            "clients' CPU ms each": found["cpu"] / self._clients * 1000,
        }
