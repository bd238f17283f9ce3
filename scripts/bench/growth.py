"""Growth: what an event and a delivery cost as everything else grows. Flat is what they are to be.

Real workers and servers, each curve beside a floor of the same run where there is one. What shapes cost is measured in
the server's window itself, without a network.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

import httpx

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window
from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.fan_out_cells import STEADY, Cell, Load
from scripts.bench.fan_out_sources import beside, ours
from scripts.bench.load import Kind
from scripts.bench.long_log import until
from scripts.bench.report import Plot, Report, Table
from scripts.bench.sequencing_cells import backlog
from scripts.bench.sessions_stage import Stage, raise_open_files, say, staged

Lines = dict[str, dict[float, list[float]]]

_LOAD: Final = Load(seconds=2.0, deliveries=20_000, most=50.0, burst=0)
_SIZE: Final = 300
_WRITES: Final = 600
_RATE: Final = 200.0
_MISSED: Final = 100
_PATIENCE: Final = 60.0

_TABLE: Final = """\
Each row is a curve of the plots above, its columns the values that grow. µs are of CPU: a *delivery* is one event to
one client, less what the event costs with a single one; an *event* that of the worker, or of the server, by event; a
*catch-up* that of a fresh server for one client that is a hundred events behind. A *shape* of the window is one
document that one client follows; events are spread over all of them."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Growth: cost of an event and of a delivery against clients, documents, backlog, log and shapes, with plots."""
    parser.add_argument("--clients", default="10,100,1000,2000", help="numbers of clients (10,100,1000,2000)")
    parser.add_argument("--documents", default="1000,10000,100000,1000000", help="of documents (1k to 1M)")
    parser.add_argument("--backlog", default="10000,50000,200000", help="changes of a backlog (10k, 50k, 200k)")
    parser.add_argument("--log", default="10000,100000,500000", help="events in the log (10k, 100k, 500k)")
    parser.add_argument("--shapes", default="1,100,10000", help="shapes that are followed (1, 100, 10k)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of what is quick (3)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        growth = run_exact(_measured(deployment, options))
    return Report(
        "Growth",
        "scripts/bench/run growth",
        {
            "processes": "mongod (6.0.5, one node), a worker, a server, the clients in one process and the writer in "
            "another share the CPUs; all over loopback",
            "events": f"documents of {_SIZE} bytes, majority, journaled",
            "rounds": f"{options.rounds}; of documents, backlogs and logs one",
        },
        growth.tables(),
        growth.plots,
    )


class _Growth:
    """Plots of the figures so far."""

    def __init__(self) -> None:
        self.plots: list[Plot] = []

    def plot(self, name: str, title: str, x: str, lines: Lines) -> None:
        self.plots.append(Plot(f"growth-{name}", title, x, "µs of CPU", lines, log=True))
        say(f"{title}: {lines}")

    def tables(self) -> list[Table]:
        """A table for each plot."""
        return [
            Table(plot.title, _TABLE if number == 0 else "As above.", {
                name: {f"{x:,.0f} {plot.x}": values for x, values in line.items()} for name, line in plot.lines.items()
            })
            for number, plot in enumerate(self.plots)
        ]  # fmt: skip


async def _measured(deployment: Deployment, options: argparse.Namespace) -> _Growth:
    growth = _Growth()
    growth.plot("shapes", "An event in the window", "shapes", _shapes(_numbers(options.shapes), options.rounds))
    async with crowd() as clients:
        async with staged(deployment, clients, "growth_clients", 0) as stage:
            lines = await _clients(stage, clients, _numbers(options.clients), options.rounds)
            growth.plot("clients", "A delivery", "clients", lines)
        growth.plot("documents", "An event", "documents", await _documents(deployment, clients, options.documents))
        async with staged(deployment, clients, "growth_log", 2000, hot_events=10**9) as stage:
            growth.plot("log", "An event, and a catch-up of a hundred", "events in the log", await _log(stage, options))
    lines = {"worker, an event": {}, "a bare reader's wall time": {}}
    for count in _numbers(options.backlog):
        found = await backlog(deployment, Kind("insert", _SIZE), count)
        lines["worker, an event"][count] = [found["worker CPU"]]
        lines["a bare reader's wall time"][count] = [1e6 / found["reader/s"]]
    growth.plot("backlog", "An event of a backlog", "changes", lines)
    return growth


def _numbers(listed: str) -> list[int]:
    return [int(text) for text in listed.split(",")]


async def _clients(stage: Stage, clients: CrowdProcess, numbers: Iterable[int], rounds: int) -> Lines:
    lines: Lines = {"eventsync": defaultdict(list), "bare write": defaultdict(list)}
    for _ in range(rounds):
        for count in numbers:
            async with ours(stage) as source:
                cell = Cell(source, clients, _LOAD, "websocket")
                await cell.open(1)
                alone = await cell.run(_SIZE, STEADY, like=count)
                await cell.open(count)
                found = (await cell.run(_SIZE, STEADY, like=count)).figures(alone)
                lines["eventsync"][count].append(found["µs a frame"])
            async with beside("bare", clients) as peer:
                cell = Cell(peer, clients, _LOAD, "websocket")
                await cell.open(count)
                bare = (await cell.run(_SIZE, STEADY, like=count)).figures(None)
                lines["bare write"][count].append(bare["µs a frame"])
    return lines


async def _documents(deployment: Deployment, clients: CrowdProcess, listed: str) -> Lines:
    lines: Lines = {"worker": {}, "server": {}}
    for count in _numbers(listed):
        async with staged(deployment, clients, f"growth_{count}", count) as stage, stage.serving() as server:
            await stage.ready()
            for name, value in (await _events(stage, server, 1)).items():
                lines[name][count] = [value]
    return lines


async def _log(stage: Stage, options: argparse.Namespace) -> Lines:
    lines: Lines = {"worker, an event": {}, "server, an event": {}, "server, a catch-up": {}}
    written = 0
    for length in _numbers(options.log):
        await stage.write(written + 1, length - written)
        await stage.log.reached(length)
        async with stage.serving() as server:
            await stage.ready()
            for name, value in (await _events(stage, server, length + 1)).items():
                lines[f"{name}, an event"][length] = [value]
        written = length + _WRITES
        async with stage.serving() as server:
            await stage.ready()
            port, log = stage.settings.port, stage.log.name
            await stage.crowd.ask("begin", port=port, log=log, documents=stage.history.documents)
            used = cpu_seconds(server)
            await stage.crowd.ask("pull", count=1, seq=written - _MISSED, seconds=_PATIENCE)
            lines["server, a catch-up"][length] = [(cpu_seconds(server) - used) * 1e6]
            await stage.crowd.ask("pulled")
    return lines


async def _events(stage: Stage, server: int, first: int) -> dict[str, float]:
    """µs of CPU an event, in an open loop."""
    pids = {"worker": stage.worker, "server": server}
    used = {name: cpu_seconds(pid) for name, pid in pids.items()}
    began = time.monotonic()
    for number in range(_WRITES):
        await asyncio.sleep(began + number / _RATE - time.monotonic())
        await stage.write(first + number, 1)
    await stage.log.reached(first + _WRITES - 1)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stage.settings.port}") as client:
        await until("the server", lambda: _reached(client, first + _WRITES - 1))
    return {name: (cpu_seconds(pid) - used[name]) / _WRITES * 1e6 for name, pid in pids.items()}


async def _reached(client: httpx.AsyncClient, seq: int) -> bool:
    position = (await client.get("/readyz")).json()["position"] or ""
    return int(position.rpartition(":")[2] or 0) >= seq


def _shapes(numbers: Iterable[int], rounds: int) -> Lines:
    """One attached subscriber of each shape."""
    line: dict[float, list[float]] = defaultdict(list)
    for count in numbers:
        for _ in range(rounds):
            window = Window(64 * 1024 * 1024, PageLimit(1000, 256 * 1024))
            log, sent = LogId("bench000"), list[bytes]()
            window.start(log, Seq(0))
            writer = DirectWriter(lambda news: news.data, lambda data, sent=sent: sent.append(data) is None)  # type: ignore[misc]
            for number in range(count):
                subscriber = window.subscribe(Shape("docs", IdText(f"int:{number}")), LightEvent())
                subscriber.attach(Position(log, Seq(0)), writer)
            events = [
                StoredEvent(Seq(seq), "docs", IdText(f"int:{seq % count}"), b"x" * _SIZE) for seq in range(1, 20_001)
            ]
            used = time.process_time()
            for event in events:
                window.extend([event])
            used = time.process_time() - used
            if len(sent) != len(events):
                raise RuntimeError(f"{len(events)} events were {len(sent)} writes")
            line[count].append(used / len(events) * 1e6)
    return {"the window, an event": line}
