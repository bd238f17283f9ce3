"""One run: start everything, write, follow and break things for a while; then heal, settle, gather and judge."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client, connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.chaos.checker import check
from support.chaos.cluster import Machine, running_cluster
from support.chaos.evidence import Evidence, Promise, Violation
from support.chaos.followers import Recording, Visitor
from support.chaos.history import Recorder
from support.chaos.nemeses import CLOCKS, DISKS, FATAL, NEMESES, RENEWING, unavailable
from support.chaos.observed import LogTail, based, gather, verified
from support.chaos.oplog import Oplog, OplogTail
from support.chaos.report import Report, Stage
from support.chaos.rig import Fleet, Rig
from support.chaos.rules import Rules
from support.chaos.settling import Settling
from support.chaos.shapes import FATAL_SHAPES, SOMETIMES, ShapeWriter, expired, large_document, prepare, tracked_for
from support.chaos.workload import Workload
from support.systems import tracked
from support.waiting import scaled, time_limits, within

COLLECTIONS = ("orders", "stock")
_FOLLOWED = (
    ("orders", "websocket"),
    ("orders", "sse"),
    ("stock", "http"),
    ("orders/o1", "websocket"),
    ("on_board?board=a", "websocket"),
    ("on_board?board=null:", "sse"),
    ("readable?reader=u1", "http"),
    ("both?board=a&state=open", "sse"),
    ("any_of?readers=u1&readers=u3", "websocket"),
    ("changing?value=a", "websocket"),
    ("changing?value=a", "http"),
)
_SHAPES_FOLLOWED = (("bulk", "websocket"), ("bulk", "http"), ("plain?n=int:1", "websocket"), ("plain?n=null:", "sse"))
_VISITED = (
    "orders",
    "stock",
    "orders/o1",
    "on_board?board=int:7",
    "readable?reader=u1",
    "any_of?readers=u1&readers=u3",
)
_PATIENT = {"mongodb_timeout": 15.0}
"""Settings of a client that writes documents of 15 MiB."""
_ARCHIVED = {
    "hot_events": 300,
    "segment_events": 100,
    "segment_block_bytes": 8 * 1024,
    "snapshot_events": 200,
    "snapshot_min_events": 200,
}
"""Settings with which events are archived soon, in many blocks."""

LEAST_WRITES = 20
"""Acknowledged writes without which a run proves nothing."""

_STRIKE = 120.0
"""Seconds that a fault gets; each of its waits takes less."""

_GATHER = 120.0
"""Seconds that reading the evidence gets."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of a run. Faults strike for `seconds`, and until each kind has; at most `pause` seconds lie between two.

    `shapes`: see `support.chaos.shapes`.
    """

    seed: int
    seconds: float
    nodes: int
    workers: int
    servers: int
    nemeses: tuple[str, ...]
    pause: float = 1.0
    shapes: tuple[str, ...] = ()

    @property
    def repaired(self) -> bool:
        """True if history is lost on purpose.

        A change that is too large for its images is read at its own time. A member that was down no longer
        has that time.
        """
        unread = large_document.__name__ in self.shapes and bool(self.nemeses)
        return unread or not (FATAL.isdisjoint(self.nemeses) and FATAL_SHAPES.isdisjoint(self.shapes))

    @property
    def renewed(self) -> bool:
        """True if the log is destroyed or turned back on purpose."""
        return not RENEWING.isdisjoint(self.nemeses)

    @property
    def archived(self) -> bool:
        """True if old events are archived. Not where the log is turned back: the judge would miss what was archived."""
        return not self.renewed

    @property
    def collections(self) -> tuple[str, ...]:
        """The collections that are tracked from the beginning to the end."""
        return (*COLLECTIONS, *tracked_for(self.shapes))

    @property
    def command(self) -> str:
        """Command that repeats the run."""
        return (
            f"scripts/chaos --seed {self.seed} --seconds {self.seconds:g} --nodes {self.nodes} "
            f"--workers {self.workers} --servers {self.servers} "
            f"--nemesis {','.join(self.nemeses) or 'none'} --shapes {','.join(self.shapes) or 'none'}"
        )


async def run(plan: Plan, directory: Path, stage: Stage | None = None) -> Report:
    """Run the plan, as far as it can be had on this machine; the report says what could not.

    Logs stay in `directory`. Raises `TimeoutError` where the system does not even start. `stage` is what it is at.
    """
    stage = stage or Stage(plan.command, directory)
    stage.enter("a replica set")
    absent = unavailable(plan.nemeses)
    plan = replace(plan, nemeses=tuple(name for name in plan.nemeses if name not in absent))
    clocks, disks = not CLOCKS.isdisjoint(plan.nemeses), not DISKS.isdisjoint(plan.nemeses)
    async with AsyncExitStack() as stack:
        machine = Machine(clocks=clocks, disks=disks)
        cluster = await stack.enter_async_context(running_cluster(directory, plan.nodes, machine))
        settings = settings_for(cluster.uri, plan.collections)
        if plan.archived:
            settings = settings.model_copy(update=_ARCHIVED | {"archive_url": str(directory / "archive")})
        client = await stack.enter_async_context(connect(settings, "load"))
        if plan.shapes:
            await prepare(client, settings.database)
        fleet = Fleet(settings, directory, workers=plan.workers, servers=plan.servers, clocks=clocks)
        stack.callback(fleet.stop)
        stage.enter("workers and servers")
        fleet.start(*fleet.workers, *fleet.servers)
        for url in fleet.urls:
            await tracked(url, plan.collections, seconds=60.0)
        if plan.repaired:
            await based(client, settings.log_db, plan.collections)
        stage.enter("declared shapes")
        rules = Rules(Stores.of(client, settings), plan.collections)
        await rules.activated()
        rig = Rig(settings, client, cluster, fleet, Recorder(), random.Random(plan.seed), rules)
        patient = await stack.enter_async_context(connect(settings.model_copy(update=_PATIENT), "load"))
        return await _Run(plan, rig, patient, directory, stage, absent).run()


def settings_for(uri: str, names: tuple[str, ...] = COLLECTIONS) -> Settings:
    """Short waits everywhere, and small frames, so that clients are fed from the store as well as from the window."""
    limits: Any = time_limits(mongodb_timeout=2.0, lease_period=1.0, write_deadline=2.0, pong_timeout=1.0)
    return Settings(
        mongodb_uri=uri,
        database="chaos",
        collections=names,
        stream_wait=0.2,
        # So few that the larger transactions span several reads.
        stream_batch=10,
        checkpoint_interval=0.1,
        heartbeat=0.3,
        **limits,
        window_bytes=64 * 1024,
        frame_bytes=8 * 1024,
    )


class _Run:
    """The phases between start and end."""

    def __init__(
        self, plan: Plan, rig: Rig, patient: Client, directory: Path, stage: Stage, absent: Mapping[str, str]
    ) -> None:
        self._plan = plan
        self._stage = stage
        self._directory = directory
        self._rig = rig
        self._client = rig.client
        urls = rig.fleet.urls
        self._workload = Workload(rig.recorder, rig.client, urls, rig.settings.database, COLLECTIONS, plan.seed)
        followed = (*_FOLLOWED, *_SHAPES_FOLLOWED) if plan.shapes else _FOLLOWED
        self._followers = [Recording(rig.recorder, urls, shape, transport, plan.seed) for shape, transport in followed]
        self._visitor = Visitor(rig.recorder, urls, _VISITED, plan.seed)
        self._shapes = ShapeWriter(rig.recorder, patient, rig.settings, COLLECTIONS, plan.shapes, plan.seed)
        self._oplog = OplogTail(
            [member.direct for member in rig.cluster.members],
            Oplog(rig.settings.database, (*plan.collections, SOMETIMES) if plan.shapes else plan.collections),
        )
        self._tail = LogTail(rig.client, Stores.of(rig.client, rig.settings)) if plan.archived else None
        self._report = Report(
            plan.command, statuses=self._workload.statuses, shapes=self._shapes.made, outcomes=rig.ended, absent=absent
        )

    async def run(self) -> Report:
        began = time.monotonic()
        async with self._followed():
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._workload.run(stop), name="workload")
                if self._plan.shapes:
                    group.create_task(self._shapes.run(stop), name="shapes")
                try:
                    await self._break_things()
                    self._stage.enter("the end of the writes that have begun")
                finally:
                    # However it ends: a writer whose library hides that it is cancelled would write for ever.
                    stop.set()
            await self._settle()
            await self._judge()
        self._report.seconds = time.monotonic() - began
        self._report.write(self._directory / "evidence.jsonl")
        return self._report

    @asynccontextmanager
    async def _followed(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item.run(), name=item.name) for item in self._followers]
            tasks.append(group.create_task(self._visitor.run(), name="visitor"))
            if not self._plan.renewed:  # a backup takes the oplog back, too
                tasks.append(group.create_task(self._oplog.run(), name="oplog"))
            if self._tail is not None:
                tasks.append(group.create_task(self._tail.run(), name="log"))
            try:
                yield
            finally:
                # Told as well as cancelled: a library that fails while it is cancelled hides that.
                self._visitor.leave()
                self._oplog.leave()
                if self._tail is not None:
                    self._tail.leave()
                for follower in self._followers:
                    follower.leave()
                for task in tasks:
                    task.cancel()

    async def _break_things(self) -> None:
        self._stage.enter(f"writes for {self._plan.seconds:g} s")
        deadline = time.monotonic() + self._plan.seconds
        names = list(self._plan.nemeses)
        turn: list[str] = []
        while time.monotonic() < deadline or len(self._report.faults) < len(names):
            if not names:
                await self._writes(10)
                continue
            # Each in turn, in another order every time: so that a short run has all kinds, too.
            turn = turn or self._rig.choose.sample(names, len(names))
            name = turn.pop()
            self._report.faults[name] += 1
            if not await self._waited(name, NEMESES[name](self._rig)):
                # What it would have made good may be as it left it: no more faults on top of that.
                return
            await self._writes(self._rig.choose.randrange(5, 40))
            self._report.fallen += self._rig.fleet.supervise()
        if await self._waited("a healthy replica set", self._rig.cluster.healthy()):
            # On a busy machine faults may take all the time that there is, and a run without writes proves nothing.
            await self._waited(f"{LEAST_WRITES} writes", self._acknowledged(LEAST_WRITES))

    async def _waited(self, what: str, coming: Awaitable[None]) -> bool:
        """Return True if it came to its end in time. Record a violation if it did not."""
        self._stage.enter(what)
        try:
            async with within(_STRIKE):
                await coming
        except (TimeoutError, subprocess.TimeoutExpired, PyMongoError) as error:
            self._late("progress", f"{what} did not come to its end: {error!r}", self._rig.fleet.last_lines())
            return False
        return True

    def _late(self, promise: Promise, message: str, witness: tuple[str, ...] = ()) -> None:
        self._report.violations.append(Violation(promise, message, witness))

    async def _writes(self, more: int) -> None:
        """Wait until so many more writes are acknowledged, for `pause` seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(scaled(self._plan.pause)):
                await self._acknowledged(self._rig.recorder.acknowledged + more)

    async def _acknowledged(self, count: int) -> None:
        while self._rig.recorder.acknowledged < count:  # noqa: ASYNC110 - the workload's
            await asyncio.sleep(0.01)

    async def _settle(self) -> None:
        """The last writes, until they are in the log and with every client."""
        self._stage.enter("what expires")
        await expired(self._shapes)
        self._stage.enter("declared shapes")
        # What was destroyed or turned back has to be declared again.
        await self._waited("the activation of declared shapes", self._rig.rules.activated())
        self._stage.enter("the last writes in the log and with every client")
        settling = Settling(self._rig, self._followers, COLLECTIONS, self._workload.finish)
        self._report.violations += await settling.run()
        self._report.fallen += self._rig.fleet.supervise()
        if workers := [text for text in self._report.fallen if text.startswith("worker")]:
            self._late("progress", "a worker never ends by itself", tuple(workers))
        if count := self._report.statuses[500]:
            self._late("answers", f"the API answered {count} times by an internal error")
        if count := self._report.outcomes["an abuse was answered 500"]:
            self._late("answers", f"{count} abuses were answered by an internal error")

    async def _judge(self) -> None:
        """Read the evidence and check it; a violation where it can't be read."""
        self._stage.enter("the evidence")
        self._report.evidence = Evidence(self._rig.recorder.history(), (), {})
        try:
            async with within(_GATHER):
                self._report.evidence = await self._evidence()
        except (TimeoutError, PyMongoError, Unavailable) as error:
            self._late("progress", f"the evidence can't be read: {error!r}")
            return
        self._stage.enter("the verdict")
        plan = self._plan
        self._report.violations += check(self._report.evidence, repaired=plan.repaired, renewed=plan.renewed)

    async def _evidence(self) -> Evidence:
        commits = None if self._plan.renewed else await self._oplog.commits(self._client)
        unverified = await verified(Stores.of(self._client, self._rig.settings))
        sometimes = {SOMETIMES: self._shapes.asked} if self._plan.shapes else {}
        return await gather(
            self._client,
            self._rig.settings,
            self._rig.recorder.history(),
            {*self._plan.collections, *sometimes},
            self._rig.rules.parts(),
            self._tail,
            changed=self._rig.rules.changes,
            commits=commits,
            sometimes=sometimes,
            unverified=unverified,
        )
