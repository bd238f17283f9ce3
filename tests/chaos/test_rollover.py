"""The oplog rolls over while the worker is down or slow: the log is repaired, and continues under its id."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from bson.timestamp import Timestamp

from eventsync.mongodb.client import Client, app_name, connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.chaos.checker import check
from support.chaos.cluster import Machine, Member, running_cluster
from support.chaos.evidence import Violation
from support.chaos.history import Effect, Recorder
from support.chaos.observed import based, gather, read_rows, verified
from support.chaos.oplog import Oplog, feed, first_time
from support.chaos.rig import Fleet
from support.chaos.run import COLLECTIONS, settings_for
from support.systems import tracked
from support.waiting import patience, within

_FILLER = "x" * 200_000
_PATIENCE = 30.0
_SLOW = 4000
"""Milliseconds that a slow read takes: longer than it takes to lose the history."""

_WORKER = "eventsync-(worker|lease)"
_CODE = re.compile(r"history is lost \((\d+)\)")


@dataclass(frozen=True, slots=True)
class Scene:
    """One worker, one server, one member with a small oplog, and one writer."""

    settings: Settings
    fleet: Fleet
    member: Member
    client: Client
    recorder: Recorder
    oplog: Oplog

    async def put(self, operation: str, key: str) -> None:
        with self.recorder.writing(operation, Effect(("orders", key), operation)):
            await self.client["chaos"]["orders"].update_one({"_id": key}, {"$set": {"mark": operation}}, upsert=True)

    async def delete(self, operation: str, key: str) -> None:
        with self.recorder.writing(operation, Effect(("orders", key), None)):
            await self.client["chaos"]["orders"].delete_one({"_id": key})


Way = Callable[[Scene], AbstractAsyncContextManager[None]]
"""A context manager that holds the worker up while its block runs."""


@dataclass(frozen=True, slots=True)
class Rolled:
    """Outcome of a rollover. `codes`: the errors by which the worker learned that history is lost."""

    violations: list[Violation]
    codes: frozenset[int]
    repairs: int


@asynccontextmanager
async def down(scene: Scene) -> AsyncIterator[None]:
    """The worker does not run meanwhile."""
    scene.fleet.signal(signal.SIGTERM, "worker1")
    await scene.fleet.ended("worker1", seconds=patience(30))
    yield
    scene.fleet.start("worker1")


@asynccontextmanager
async def frozen(scene: Scene) -> AsyncIterator[None]:
    """The worker is stopped by SIGSTOP, its cursor open."""
    scene.fleet.signal(signal.SIGSTOP, "worker1")
    yield
    scene.fleet.signal(signal.SIGCONT, "worker1")


@asynccontextmanager
async def slow(scene: Scene) -> AsyncIterator[None]:
    """The worker's next read of its open cursor takes its time in MongoDB, while it keeps its lease."""
    data = {"failCommands": ["getMore"], "appName": app_name(scene.settings, "worker"), "blockConnection": True}
    point = {"configureFailPoint": "failCommand", "mode": {"times": 1}}
    await scene.member.direct.admin.command(point | {"data": data | {"blockTimeMS": _SLOW}})
    yield


@asynccontextmanager
async def cut_off(scene: Scene) -> AsyncIterator[None]:
    """Nothing passes between the worker and MongoDB, and neither notices."""
    scene.member.proxy.hold(_WORKER)
    yield
    scene.member.proxy.release()


WAYS: Mapping[str, Way] = MappingProxyType({way.__name__: way for way in (down, frozen, slow, cut_off)})


async def roll_over(directory: Path, way: Way = down) -> Rolled:
    """Sequence some, hold the worker up in this `way`, change and delete some, lose the history, let it continue."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(directory, 1, Machine(oplog=1)))
        # Longer than a slow read takes: it is to learn that its position is lost, not to lose its connection.
        settings = settings_for(cluster.uri).model_copy(update={"mongodb_timeout": 20.0})
        fleet = Fleet(settings, directory, workers=1, servers=1)
        stack.callback(fleet.stop)
        fleet.start("worker1", "serve1")
        await tracked(fleet.urls[0], COLLECTIONS)
        client = await stack.enter_async_context(connect(settings, "load"))
        scene = Scene(settings, fleet, cluster.members[0], client, Recorder(), Oplog("chaos", COLLECTIONS))
        late = await _play(scene, settings.log_db, way)
        commits, unverified = tuple(scene.oplog.commits), await verified(Stores.of(client, settings))
        history = scene.recorder.history()
        evidence = await gather(client, settings, history, COLLECTIONS, commits=commits, unverified=unverified)
        said = fleet.log("worker1")
        codes = frozenset(int(code) for code in _CODE.findall(said))
        return Rolled([*late, *check(evidence, repaired=True)], codes, evidence.repairs)


async def _play(scene: Scene, log_database: str, way: Way) -> list[Violation]:
    for number in range(20):
        await scene.put(f"before-{number}", str(number))
    await _sequenced(scene.client, log_database, "before-19")
    # The base that a repair compares by.
    await based(scene.client, log_database, COLLECTIONS)
    async with way(scene):
        for number in range(10, 30):
            await scene.put(f"while-{number}", str(number))
        for number in range(5):
            await scene.delete(f"gone-{number}", str(number))
        # What the oplog said about it, before it says nothing any more.
        await feed(scene.oplog, scene.member.direct)
        await _lose(scene.client)
    scene.oplog.forget()
    await scene.put("after", "30")
    await feed(scene.oplog, scene.member.direct)
    try:
        await _sequenced(scene.client, log_database, "after")
    except TimeoutError:
        message = "what was written after the history was lost is not in the log"
        return [Violation("progress", message, scene.fleet.last_lines(5))]
    return []


async def _sequenced(client: Client, log_database: str, mark: str) -> None:
    """Wait until the log has the write. Raises `TimeoutError`."""
    async with within(_PATIENCE):
        while mark not in {row.mark for row in await read_rows(client, log_database)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _lose(client: Client) -> None:
    """Write elsewhere until the oplog no longer reaches back to now. Raises `TimeoutError`."""
    now: Timestamp = (await client.admin.command("ping"))["operationTime"]
    deadline = time.monotonic() + patience(_PATIENCE)
    while True:
        first = await first_time(client)
        if first is not None and first > now:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the oplog does not roll over")
        await client["filler"]["filler"].insert_many([{"x": _FILLER} for _ in range(20)])
        await client["filler"]["filler"].delete_many({})


_CODES = {"down": {286}, "frozen": {286, 136}, "slow": {286, 136}, "cut_off": {286, 136}}
"""An open cursor has lost its position (136), or its successor can't begin there (286): on a busy machine either."""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_lost_history_is_repaired_from_the_collections(tmp_path: Path, way: str) -> None:
    rolled = await roll_over(tmp_path, WAYS[way])
    assert rolled.violations == []
    # Else nothing was lost, and nothing proved.
    assert rolled.repairs > 0
    assert rolled.codes & _CODES[way], rolled
