"""Replay: a client that is behind by so many events is brought to now, by every one of them.

A real worker and server, with the log in MongoDB (hot) and in the archive (cold). Beside, in the same run, with the
same events, clients and client process: a log that is read row by row, and one of which stored JSON is joined and sent.
The clients only take bytes while it counts; afterwards each event is held against what was written.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.long_log import until
from scripts.bench.peers import frames
from scripts.bench.peers.process import peer
from scripts.bench.report import Report, Table
from scripts.bench.sessions_stage import Stage, raise_open_files, say, staged

Rows = defaultdict[str, defaultdict[str, list[float]]]

_TOGETHER: Final = 100
_SIZE: Final = 300
_PATIENCE: Final = 220.0
_BULK: Final = 1000
_SEGMENT: Final = 10_000
_LONG: Final = 300_000
"""So many are replayed once."""
_ELSEWHERE: Final = "bench_plain_log"
_NAMES: Final = {"rows": "row by row", "bodies": "joined bodies"}

_RATES: Final = """\
*events/s* and *s*: from connecting until each client was told that it is live; with 100 clients the rate is of all of
them. *µs an event*: CPU of the server process, by event and client; a fresh server each time, so nothing is in its
memory. *row by row*: a find of documents, each decoded, encoded as JSON and sent by itself (Starlette); *joined
bodies*: a find of stored JSON that is only joined, 500 at a time. clients' CPU: of the process with all clients."""

_RATIOS: Final = """\
The rate of one client over that of the others, in the same round. Goals: at least 5 times row by row, at least 0.83 of
joined bodies (250,000 events/s where those are 300,000)."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Replay: events a second for clients that are behind, hot and cold, beside a log that is read row by row."""
    parser.add_argument("--behind", default="10,10000,1000000", help="events that one client lacks (10, 10k, 1M)")
    parser.add_argument("--cold", default="10,10000,200000", help="the same of archived ones (10, 10k, 200k)")
    parser.add_argument("--together", type=int, default=10_000, help="events that 100 clients at once lack (10000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; from 300k on one (3)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    return Report(
        "Replay",
        "scripts/bench/run replay",
        {
            "processes": "mongod (6.0.5, one node), a worker that rests, a server, the clients in one process",
            "events": f"creations of documents of {_SIZE} bytes, of one collection",
            "rounds": f"{options.rounds}, alternating; a fresh server each time",
            "transport": "WebSocket",
        },
        tables,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    rates, ratios = Rows(lambda: defaultdict(list)), Rows(lambda: defaultdict(list))
    for tier, listed in (("hot", options.behind), ("cold", options.cold)):
        numbers = [int(text) for text in listed.split(",") if text]
        if not numbers:
            continue
        async with crowd() as clients, _log_of(deployment, clients, tier, max(numbers)) as stage:
            cell = _Cell(stage, clients, tier, rates, ratios)
            for number in range(options.rounds):
                for behind in numbers:
                    if number == 0 or behind < _LONG:
                        await cell.round(behind, number)
                if options.together:
                    await cell.together(options.together, number)
    return [table for table in (Table("Ratios", _RATIOS, ratios), Table("Rates", _RATES, rates)) if table.rows]


@asynccontextmanager
async def _log_of(deployment: Deployment, clients: CrowdProcess, tier: str, behind: int) -> AsyncIterator[Stage]:
    """A log of more events than the client that is furthest behind lacks; of the cold one nearly all are archived."""
    settings: dict[str, Any] = {"hot_events": 10**9}
    if tier == "cold":
        archive = str(deployment.directory / "archive")
        settings = {"hot_events": 1, "segment_events": _SEGMENT, "archive_url": archive}
    async with staged(deployment, clients, f"replay_{tier}", 0, **settings) as stage:
        count = -(-behind // _SEGMENT) * _SEGMENT + 1
        began = time.monotonic()
        await stage.write(1, count, size=_SIZE)
        await stage.log.reached(count)
        if tier == "cold":
            await until("the archive", lambda: _archived(stage, count - 1))
        await _plain(stage, count)
        say(f"{tier}: {count:,} events are there after {time.monotonic() - began:.0f} s")
        yield stage


async def _archived(stage: Stage, seq: int) -> bool:
    return (await stage.stores.tiers.read(stage.log.name)).archived_up_to >= seq


async def _plain(stage: Stage, count: int) -> None:
    """The same events as another would keep them: each as a document, and as JSON."""
    log = stage.stores.data.client[_ELSEWHERE]["log"]
    await log.drop()
    for first in range(1, count + 1, _BULK):
        documents = await stage.stores.data[SHAPE].find({"_id": {"$gte": first, "$lt": first + _BULK}}).to_list()
        rows = [{"_id": one["_id"], "doc": one, "body": frames.body(one["_id"], one).decode()} for one in documents]
        await log.insert_many(rows, ordered=False)


class _Cell:
    """One log, with who reads it. `behind` is counted from the newest event of the tier."""

    def __init__(self, stage: Stage, clients: CrowdProcess, tier: str, rates: Rows, ratios: Rows) -> None:
        self._stage = stage
        self._clients = clients
        self._tier = tier
        self._rates = rates
        self._ratios = ratios

    async def round(self, behind: int, number: int) -> None:
        """One client; the others are only there for the hot tier, which they are the same as."""
        after = await self._after(behind)
        found: dict[str, float] = {}
        ways = ["eventsync", *(_NAMES if self._tier == "hot" else ())]
        for way in ways if number % 2 == 0 else reversed(ways):
            figures = await (self._ours(after, 1) if way == "eventsync" else self._others(way, after, 1))
            name = f"{_NAMES.get(way, f'eventsync, {self._tier}')}, {behind:,} behind"
            self._note(name, figures)
            found[way] = figures["events/s"]
        if len(found) > 1:
            row = self._ratios[f"{self._tier}, {behind:,} behind"]
            for way, name in _NAMES.items():
                row[f"of {name}"].append(found["eventsync"] / found[way])

    async def together(self, behind: int, number: int) -> None:
        """A hundred clients at once."""
        after = await self._after(behind)
        ways = ["eventsync", *(("rows",) if self._tier == "hot" else ())]
        for way in ways if number % 2 == 0 else reversed(ways):
            mine = self._ours(after, _TOGETHER) if way == "eventsync" else self._others(way, after, _TOGETHER)
            name = f"{_NAMES.get(way, f'eventsync, {self._tier}')}, {behind:,} behind, {_TOGETHER} together"
            self._note(name, await mine)

    async def _after(self, behind: int) -> int:
        if self._tier == "hot":
            return await self._stage.log.head() - behind
        return (await self._stage.stores.tiers.read(self._stage.log.name)).archived_up_to - behind

    async def _ours(self, after: int, clients: int) -> dict[str, float]:
        stage = self._stage
        async with stage.serving() as pid:
            await stage.ready()
            await self._clients.ask("begin", port=stage.settings.port, log=stage.log.name, documents=0)
            # It would be cheaper than so many events.
            async with stage.without_snapshots():
                return await self._pulled(pid, after, clients)

    async def _others(self, way: str, after: int, clients: int) -> dict[str, float]:
        async with peer("rows", self._stage.deployment.uri, _ELSEWHERE, way) as (process, port):
            await process.ask("listen")
            await self._clients.ask("begin", port=port, log=frames.LOG, documents=0)
            return await self._pulled(process.pid, after, clients)

    async def _pulled(self, pid: int, after: int, clients: int) -> dict[str, float]:
        used = cpu_seconds(pid)
        found = await self._clients.ask("pull", count=clients, seq=after, seconds=_PATIENCE)
        used = cpu_seconds(pid) - used
        told = await self._clients.ask("pulled")
        events = await self._stage.log.head() - after
        if told["ways"] != ["events"] or told["events"] != events:
            raise WrongError(f"{events} events came as {told}")
        return {
            "events/s": events * clients / found["seconds"],
            "s": found["seconds"],
            "first ms": found["first"] * 1000,
            "µs an event": used / events / clients * 1e6,
            "clients' CPU µs": found["cpu"] / events / clients * 1e6,
        }

    def _note(self, name: str, figures: dict[str, float]) -> None:
        say(f"{name}: " + ", ".join(f"{column} {value:,.2f}" for column, value in figures.items()))
        for column, value in figures.items():
            self._rates[name][column].append(value)
