"""Admission of writes by several server processes, each for its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from support.failpoints import blocking
from support.load import Overload
from support.systems import Processes, tracked
from support.waiting import scaled


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed = {"collections": ("docs",), "write_queue_delay": scaled(0.3), "mongodb_pool_size": 5}
    return settings.model_copy(update=changed)


@pytest.fixture
def processes(settings: Settings, tmp_path: Path) -> Iterator[Processes]:
    found = Processes(settings, tmp_path)
    try:
        yield found
    finally:
        found.stop()


@pytest.mark.slow
async def test_each_server_process_refuses_what_it_cannot_write_in_time(
    processes: Processes, client: Client, settings: Settings
) -> None:
    processes.start("worker")
    processes.start("serve", options=("--workers", "2"))
    await tracked(processes.url, ["docs"])
    await processes.said("serve", " serves", times=2)
    overload = Overload(processes.url)
    commands, slow = ("find", "findAndModify", "insert", "update"), round(1000 * settings.write_queue_delay / 3)
    async with blocking(client, commands, slow, app=app_name(settings, "serve")):
        await overload.run(writers=160, accepted=60, refused=60)
    stored = {row["_id"] async for row in client[settings.database]["docs"].find({}, {"_id": 1})}
    assert (stored, overload.others) == (overload.accepted, [])
    refused = len(overload.refused)
    await overload.run(writers=8, accepted=100, refused=0)
    assert (len(overload.refused), overload.others) == (refused, [])
