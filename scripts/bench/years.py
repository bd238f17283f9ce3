"""A log that lives for years: what its tiers take, what its jobs cost, and what clients of any age get.

Real writes, a real worker with its jobs, a real server, and clients over WebSocket and HTTP. A state that is not the
collection's, or an event that is missing, fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from eventsync.concurrency.waiting import set_within
from eventsync.dev import mongod
from eventsync.domain.shapes import Shape
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod, peak, running
from scripts.bench.latency import COLLECTION as LIVE
from scripts.bench.latency import latency
from scripts.bench.report import Report, Table
from scripts.bench.years_audience import Audience
from scripts.bench.years_client import SHAPE, WrongError
from scripts.bench.years_history import BATCH, History
from scripts.bench.years_system import MIB, LongLog, Rows, once, policy_snapshots, until

_AHEAD = 20_000
"""Most writes ahead of the log: what is not sequenced yet has to stay in the oplog."""

_SHARES = (0.0, 0.05, 0.1, 0.3, 0.5, 0.6, 0.75, 0.9, 0.99, 0.999)
"""The positions of the clients, as shares of the history."""

_LOADING = """\
Writes in batches straight to MongoDB, as fast as the log follows, while the jobs snapshot and archive. CPU is µs an
event. *settled* is how many seconds later the jobs have nothing left to do; *snapshots* are those made by policy, with
their median duration in seconds."""
_SNAPSHOT = """\
One snapshot of the collection by a worker that has made none before, from asking until it is stored. MiB are those of
the snapshot; *peak* is the worker's largest resident set (VmHWM), *before* that before the snapshot."""
_LATENCY = """\
An open loop of inserts into another collection: from a write's intended time until its event is in a change stream on
the log, in ms. *at work*: one snapshot of the large collection after the other, while segments are sealed (*segments*:
how many were finished). Two rounds each, the first and the last one idle."""
_SIZES = """\
The archive holds events (*number*); its MiB are before compression, those on disk after it. MongoDB gives disk space
that is free again to the next documents, not back to the system."""
_CAUGHT_UP = """\
One client each, by WebSocket, that has the state of its position; the answer it got stands beside that. *seconds* are
until it is live, with decoding and applying in the client; each then had the collection's state."""
_READING = "One client that reads by HTTP, page by page, each event that is kept; none was missing."
_MEMORY = "Largest resident sets, in MiB."


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """A long log: sizes per tier, snapshots, catching up before and after compaction, jobs beside sequencing."""
    parser.add_argument("--events", type=int, default=1_000_000, help="events, in thousands (1000000)")
    parser.add_argument(
        "--documents", type=int, default=100_000, help="documents, in thousands, 2000 at least (100000)"
    )
    parser.add_argument("--load-seconds", type=float, default=300.0, help="longest time for making the events (300)")
    parser.add_argument("--limit", type=float, default=900.0, help="longest time for all, in seconds (900)")
    parser.add_argument("--rate", type=float, default=100.0, help="writes a second under live load (100)")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long a live load lasts (15)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Raises `WrongError`, `LateError` or `MissingError` where there is no figure."""
    with fresh_mongod() as deployment:
        bench = _Years(deployment, options)
        asyncio.run(bench.measured())
    return bench.report()


class _Years:
    """The phases of one run, each with settings of its own; what they find is collected in `tables`."""

    def __init__(self, deployment: Deployment, options: argparse.Namespace) -> None:
        self._deployment = deployment
        self._options = options
        self._history = History(options.documents)
        self._archive = deployment.directory / "archive"
        self._settings = Settings(
            mongodb_uri=deployment.uri,
            database="bench",
            collections=(SHAPE, LIVE),
            archive_url=str(self._archive),
            port=mongod.free_port(),
            hot_events=options.events // 5,
            segment_events=options.events // 20,
            snapshot_events=options.events // 10,
        )
        less = {"hot_events": options.events // 10, "segment_events": options.events // 100}
        self._less_hot = self._settings.model_copy(update=less)
        # The shorter interval is only for the compactor to look more often.
        kept = {"retention_events": options.events * 3 // 10, "checkpoint_interval": 0.2}
        self._retaining = self._less_hot.model_copy(update=kept)
        self._url = f"http://127.0.0.1:{self._settings.port}"
        self._memory, self._lags, self._reading = Rows(), Rows(), Rows()
        self.tables: list[Table] = []

    async def measured(self) -> None:
        """All phases, one after the other."""
        async with asyncio.timeout(self._options.limit), connect(self._settings, "bench") as client:
            stores = Stores.of(client, self._settings)
            with running("worker", self._settings, self._deployment.directory) as worker:
                log = await self._load(stores, worker)
                await self._latency(log, "jobs idle", 1)
            with running("worker", self._less_hot, self._deployment.directory):
                async with _snapshots(log):
                    await self._latency(log, "jobs at work", 2)
                    await self._latency(log, "jobs at work", 3)
                await until("settling", lambda: log.settled(self._less_hot))
                await self._latency(log, "jobs idle", 4)
            self.tables.append(Table("Sequencing beside the jobs", _LATENCY, self._lags))
            await self._clients(log, "before compaction", 0)
            with running("worker", self._retaining, self._deployment.directory) as worker:
                horizon = await self._compact(log)
                await self._clients(log, "after compaction", horizon)
                await self._snapshot(log, worker)
            self.tables.append(Table("Reading everything", _READING, self._reading))
            self.tables.append(Table("Memory", _MEMORY, self._memory))

    # --- the worker -----------------------------------------------------------------------------------------------

    async def _load(self, stores: Stores, worker: int) -> LongLog:
        log = await until("tracking", lambda: _tracked(stores))
        began = time.monotonic()
        used = cpu_seconds(worker), cpu_seconds(self._deployment.pid)
        deadline = began + self._options.load_seconds
        await self._history.write(
            stores.data[SHAPE], self._options.events, deadline, lambda head: log.reached(head - _AHEAD)
        )
        head = self._history.head
        await log.reached(head)
        seconds = time.monotonic() - began
        used = cpu_seconds(worker) - used[0], cpu_seconds(self._deployment.pid) - used[1]
        _say(f"{head:,} events in {seconds:.0f} s")
        await until("settling", lambda: log.settled(self._settings))
        settled = time.monotonic() - began - seconds
        made = policy_snapshots(self._deployment.directory / "worker.log", self._history.documents)
        figures = {"events": head, "seconds": seconds, "events/s": head / seconds}
        figures |= {"worker CPU": used[0] / head * 1e6, "mongod CPU": used[1] / head * 1e6, "settled": settled}
        figures |= {"snapshots": len(made), "seconds each": statistics.median(made) if made else 0.0}
        _say(f"settled: {figures}")
        self._memory["worker, all its jobs"] = {"peak": [peak(worker)]}
        self.tables.append(Table("Making the events", _LOADING, {"load": once(figures)}))
        return log

    async def _latency(self, log: LongLog, name: str, number: int) -> None:
        options, totals = self._options, log.stores.archive.segments.totals
        before = await totals(log.name)
        first = number * 10**6
        found = await latency(log.stores, rate=options.rate, seconds=options.seconds, size=400, first=first)
        found["segments"] = (await totals(log.name)).segments - before.segments
        _say(f"{name}: {found}")
        for column, value in found.items():
            self._lags.setdefault(name, {}).setdefault(column, []).append(value)

    async def _compact(self, log: LongLog) -> int:
        goal = await log.horizon_for(self._retaining)
        await until("compaction", lambda: log.compacted(goal))
        _say(f"compacted: the horizon is {goal:,}")
        await until("settling", lambda: log.settled(self._retaining))
        return goal

    async def _snapshot(self, log: LongLog, worker: int) -> None:
        before, began = peak(worker), time.monotonic()
        asked = await log.stores.requests.ask(Shape(SHAPE), (await log.stores.data.command("ping"))["operationTime"])
        name = await until("a snapshot", lambda: _answer(log.stores, asked))
        seconds = time.monotonic() - began
        made = await log.stores.stored.find(name)
        if made is None or made.documents != self._history.documents:
            raise WrongError(f"a snapshot of {self._history.documents} documents: {made}")
        figures = {"documents": made.documents, "seconds": seconds, "MiB": made.bytes / MIB}
        figures |= {"raw MiB": made.raw_bytes / MIB, "before": before, "peak": peak(worker)}
        _say(f"a snapshot: {figures}")
        self.tables.append(Table("A snapshot", _SNAPSHOT, {"made": once(figures)}))

    # --- clients --------------------------------------------------------------------------------------------------

    async def _clients(self, log: LongLog, when: str, horizon: int) -> None:
        _say(f"clients, {when}")
        self.tables.append(Table(f"Sizes, {when}", _SIZES, await log.sizes(self._archive)))
        audience = Audience(self._url, log, self._history)
        positions = [int(share * self._history.head) // BATCH * BATCH for share in _SHARES]
        with running("serve", self._settings, self._deployment.directory) as server:
            await until("serving", audience.served)
            rows = await audience.caught_up(positions, _say)
            self._reading[when] = await audience.read(horizon)
            self._memory[f"server, {when}"] = {"peak": [peak(server)]}
        self.tables.append(Table(f"Catching up, {when}", _CAUGHT_UP, rows))

    def report(self) -> Report:
        first, last = self._settings, self._retaining
        return Report(
            "A long log",
            "scripts/bench/run years",
            {
                "history": f"{self._history.head:,} events about {self._history.documents:,} documents of 400 bytes; "
                "half of the updates are about 1 % of them",
                "settings": f"hot_events {first.hot_events:,}, later {last.hot_events:,}; "
                f"segment_events {first.segment_events:,}, later {last.segment_events:,}; "
                f"snapshot_events {first.snapshot_events:,}; "
                f"retention_events at last {last.retention_events:,}",
                "live load": f"{self._options.rate:g} writes/s for {self._options.seconds:g} s",
                "processes": "mongod (6.0.5, one node), a worker, a server, and the clients share the CPUs",
            },
            self.tables,
        )


@asynccontextmanager
async def _snapshots(log: LongLog) -> AsyncIterator[None]:
    """Snapshots of the large collection, one after the other, from before the block begins until it ends."""
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            now = (await log.stores.data.command("ping"))["operationTime"]
            asked = await log.stores.requests.ask(Shape(SHAPE), now)
            while not over.is_set() and not await _answer(log.stores, asked):
                await set_within(over, 0.05)  # the answer comes from another process

    async with asyncio.TaskGroup() as group:
        group.create_task(ask(), name="ask for snapshots")
        await until("a snapshot's beginning", lambda: log.stores.log["snapshots"].find_one({"complete": False}))
        yield
        over.set()


async def _answer(stores: Stores, name: str) -> str | None:
    request = await stores.requests.read(name)
    return request.snapshot if request else None


async def _tracked(stores: Stores) -> LongLog | None:
    """The log, once all collections have their bases."""
    current = await stores.logs.current()
    based = current is not None and {SHAPE, LIVE} <= (await stores.stored.positions(current.id)).keys()
    return LongLog(stores, current.id) if current and based else None


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
