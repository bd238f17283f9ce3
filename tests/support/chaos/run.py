"""One run: start everything, write, follow and break things for a while; then heal, settle, gather and judge."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from app.stores.mongodb import connect
from support.chaos.checker import check
from support.chaos.cluster import running_cluster
from support.chaos.evidence import Evidence
from support.chaos.fleet import Fleet
from support.chaos.followers import Follower, Visitor
from support.chaos.history import Recorder
from support.chaos.nemeses import FATAL, NEMESES
from support.chaos.observed import gather, read_rows
from support.chaos.report import Report
from support.chaos.rig import Rig
from support.chaos.violation import Violation
from support.chaos.workload import Workload
from support.systems import tracked

COLLECTIONS = ("orders", "stock")
_FOLLOWED = (
    ("orders", "websocket"),
    ("orders", "sse"),
    ("stock", "http"),
    ("orders/o1", "websocket"),
)
_SETTLE = 30.0
"""Seconds without progress, once the faults are over, that are too many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. Faults strike for `seconds`, and until each kind has; at most `pause` seconds lie between two."""

    seed: int
    seconds: float
    nodes: int
    workers: int
    servers: int
    nemeses: tuple[str, ...]
    pause: float = 1.0


async def run(plan: Plan, directory: Path) -> Report:
    """Run the plan. Logs stay in `directory`. Raises `TimeoutError` where the system does not even start."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(directory, plan.nodes))
        settings = settings_for(cluster.uri)
        fleet = Fleet(settings, directory, workers=plan.workers, servers=plan.servers)
        stack.push_async_callback(fleet.stop)
        fleet.start(*fleet.workers, *fleet.servers)
        for url in fleet.urls:
            await tracked(url, COLLECTIONS)
        client = await stack.enter_async_context(connect(settings, "load"))
        rig = Rig(settings, client, cluster, fleet, Recorder(), random.Random(plan.seed))
        return await _Run(plan, rig, directory).run()


def settings_for(uri: str) -> Settings:
    """Short waits everywhere, and small frames, so that clients are fed from the store as well as from the window."""
    return Settings(
        mongodb_uri=uri,
        database="chaos",
        collections=COLLECTIONS,
        mongodb_timeout=2.0,
        lease_period=1.0,
        stream_wait=0.2,
        # So few that the larger transactions span several reads.
        stream_batch=10,
        checkpoint_interval=0.1,
        heartbeat=0.3,
        write_deadline=2.0,
        window_bytes=64 * 1024,
        frame_bytes=8 * 1024,
    )


class _Run:
    """The phases between start and end."""

    def __init__(self, plan: Plan, rig: Rig, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._rig = rig
        self._client = rig.client
        urls = rig.fleet.urls
        self._workload = Workload(rig.recorder, rig.client, urls, rig.settings.database, COLLECTIONS, plan.seed)
        self._followers = [Follower(rig.recorder, urls, shape, transport, plan.seed) for shape, transport in _FOLLOWED]
        self._visitor = Visitor(rig.recorder, urls, [*COLLECTIONS, "orders/o1"], plan.seed)
        self._faults: Counter[str] = Counter()
        self._fallen: list[str] = []
        self._late: list[Violation] = []

    async def run(self) -> Report:
        began = time.monotonic()
        async with self._followed():
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._workload.run(stop), name="workload")
                await self._break_things()
                stop.set()
            await self._settle()
        evidence = await self._gather()
        report = Report(
            seed=self._plan.seed,
            seconds=time.monotonic() - began,
            evidence=evidence,
            faults=self._faults,
            statuses=self._workload.statuses,
            violations=[*self._late, *check(evidence, repaired=not FATAL.isdisjoint(self._plan.nemeses))],
            fallen=self._fallen,
        )
        report.write(self._directory / "evidence.jsonl")
        return report

    @asynccontextmanager
    async def _followed(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item.run(), name=item.name) for item in self._followers]
            tasks.append(group.create_task(self._visitor.run(), name="visitor"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _break_things(self) -> None:
        deadline = time.monotonic() + self._plan.seconds
        names = list(self._plan.nemeses)
        turn: list[str] = []
        while time.monotonic() < deadline or len(self._faults) < len(names):
            # Each in turn, in another order every time: so that a short run has all kinds, too.
            turn = turn or self._rig.choose.sample(names, len(names))
            name = turn.pop()
            await NEMESES[name](self._rig)
            self._faults[name] += 1
            await self._writes(self._rig.choose.randrange(5, 40))
            self._fallen += self._rig.fleet.supervise()
        await self._rig.cluster.healthy()

    async def _writes(self, more: int) -> None:
        """Until so many more writes are acknowledged, or for `pause` seconds: where nothing works, that is bounded."""
        goal = self._rig.recorder.acknowledged + more
        deadline = time.monotonic() + self._plan.pause
        while self._rig.recorder.acknowledged < goal and time.monotonic() < deadline:  # noqa: ASYNC110 - or it is over
            await asyncio.sleep(0.01)

    async def _settle(self) -> None:
        """The last writes, until they are in the log and with every client."""
        for name in COLLECTIONS:
            await self._workload.finish(name, f"end of {name}")
        log, seq = await self._sequenced()
        arrived = await asyncio.gather(*(item.arrive(seq, log, seconds=_SETTLE) for item in self._followers))
        for follower, there in zip(self._followers, arrived, strict=True):
            if not there:
                message = f"{follower.name} is at {follower.cursor.position} and did not come to {log}:{seq}"
                self._late.append(Violation("progress", message))
        self._fallen += self._rig.fleet.supervise()
        if workers := [text for text in self._fallen if text.startswith("worker")]:
            self._late.append(Violation("progress", "a worker never ends by itself", tuple(workers)))
        if count := self._workload.statuses[500]:
            self._late.append(Violation("answers", f"the API answered {count} times by an internal error"))

    async def _sequenced(self) -> tuple[str, int]:
        """The last position, as soon as the log has the last writes."""
        deadline = time.monotonic() + _SETTLE
        want = {f"end of {name}" for name in COLLECTIONS}
        known = 0
        while True:
            rows = await read_rows(self._client, self._rig.settings.log_db)
            if want <= {row.mark for row in rows}:
                return rows[-1].log, rows[-1].seq
            if len(rows) > known:
                # A backlog on a busy machine is no fault, as long as it becomes smaller.
                known, deadline = len(rows), time.monotonic() + _SETTLE
            if time.monotonic() > deadline:
                lines = [line for name in self._rig.fleet.workers for line in self._rig.fleet.last_lines(name)]
                self._late.append(Violation("progress", f"the log stands still at {known}", tuple(lines)))
                return (rows[-1].log, rows[-1].seq) if rows else ("", 0)
            await asyncio.sleep(0.1)

    async def _gather(self) -> Evidence:
        return await gather(
            self._client,
            self._rig.recorder.history(),
            database=self._rig.settings.database,
            log_database=self._rig.settings.log_db,
            collections=COLLECTIONS,
        )
