"""The end of a run under faults: it comes, whatever has become of the log, or says what does not come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.chaos.cluster import Cluster
from support.chaos.followers import Recording
from support.chaos.history import Recorder
from support.chaos.rig import Fleet, Rig
from support.chaos.rules import Rules
from support.chaos.settling import Settling
from support.chaos.workload import BehindWriter
from support.systems import running_server, running_system
from support.waiting import eventually

NAMES = ("orders", "stock")


@pytest.fixture
def both(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": NAMES})


class Scene:
    """A system of which the log can be renewed behind the last writes; and one follower."""

    def __init__(self, settings: Settings, client: Client, directory: Path) -> None:
        self.recorder = Recorder()
        fleet = Fleet(settings, directory, workers=0, servers=0)
        stores = Stores.of(client, settings)
        rules = Rules(stores, NAMES)
        self.rig = Rig(settings, client, Cluster([]), fleet, self.recorder, random.Random(1), rules)
        self.logs = stores.logs
        self.writer = BehindWriter(
            "last", self.recorder, client, settings.database, [("orders", "1")], random.Random(1)
        )
        self.renewals = 0
        """Number of new logs that are still to begin behind the last writes."""

    async def finish(self, name: str, mark: str) -> None:
        await self.writer.finish(name, mark)
        if name == NAMES[-1] and self.renewals:
            self.renewals -= 1
            before = await self.logs.request_reset("by hand")

            async def renewed() -> bool:
                current = await self.logs.current()
                return before is not None and current is not None and current.id != before.id

            await eventually(renewed)

    def settling(self, *followers: Recording, seconds: float = 30.0) -> Settling:
        return Settling(self.rig, followers, NAMES, self.finish, seconds=seconds)


@asynccontextmanager
async def following(scene: Scene, url: str) -> AsyncIterator[Recording]:
    follower = Recording(scene.recorder, [url], "orders", "websocket", 1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run())
        yield follower
        follower.leave()
        task.cancel()


@pytest.mark.slow
async def test_a_log_that_begins_behind_the_last_writes(both: Settings, client: Client, tmp_path: Path) -> None:
    scene = Scene(both, client, tmp_path)
    scene.renewals = 2
    async with running_system(both) as url, following(scene, url) as follower:
        assert await scene.settling(follower).run() == []
        current = await scene.logs.current()
    marks = [write.operation for write in scene.recorder.history().writes]
    assert len(marks) == 6, "for each of three logs"
    assert current is not None
    assert marks[-1] == f"end of stock in {current.id}"
    last = scene.recorder.history().frames[-1]
    assert last.kind == "end"
    assert str(last.end).startswith(f"{current.id}:")


@pytest.mark.slow
async def test_no_end_of_new_logs(both: Settings, client: Client, tmp_path: Path) -> None:
    scene = Scene(both, client, tmp_path)
    scene.renewals = 100
    async with running_system(both):
        (late,) = await scene.settling().run()
    assert late.message.startswith("the log does not stay: there were ")


async def test_writes_that_no_worker_takes(both: Settings, client: Client, tmp_path: Path) -> None:
    scene = Scene(both, client, tmp_path)
    async with running_server(both):
        (late,) = await scene.settling(seconds=0.1).run()
    assert late.message == "no log has events of orders, stock: no worker leads"


async def test_writes_that_do_not_come_into_the_log(both: Settings, client: Client, tmp_path: Path) -> None:
    scene = Scene(both, client, tmp_path)
    async with running_system(both):

        async def lost(name: str, mark: str) -> None:
            """Acknowledge a write that was never made."""

        (late,) = await Settling(scene.rig, [], NAMES, lost, seconds=0.1).run()
        current = await scene.logs.current()
    assert current is not None
    assert late.message == f"log {current.id} stands still at 0, without the last writes"


async def test_a_client_that_does_not_arrive(both: Settings, client: Client, tmp_path: Path) -> None:
    scene = Scene(both, client, tmp_path)
    follower = Recording(scene.recorder, ["http://127.0.0.1:1"], "orders", "websocket", 1)
    async with running_system(both):
        (late,) = await scene.settling(follower, seconds=0.3).run()
    assert late.message.startswith("websocket of orders is at None and did not come to ")
