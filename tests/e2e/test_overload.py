"""Admission of writes: by several server processes, each for its own, and with a MongoDB that is far away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from support.failpoints import blocking
from support.load import Overload
from support.systems import Processes, tracked
from support.tcp_proxy import TcpProxy, tcp_proxy
from support.waiting import scaled


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed = {"collections": ("docs",), "write_queue_delay": scaled(0.3), "mongodb_pool_size": 5}
    return settings.model_copy(update=changed)


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


@pytest.fixture
async def far(settings: Settings, processes: Processes, tmp_path: Path) -> AsyncIterator[tuple[Processes, TcpProxy]]:
    """A server that reaches MongoDB through a proxy, in groups of four writes, and a worker that does not."""
    if not (port := urlsplit(settings.mongodb_uri or "").port):
        pytest.skip("this MongoDB is no single node")
    async with tcp_proxy(f"mongodb://127.0.0.1:{port}") as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        changed = {"mongodb_uri": uri, "write_queue_delay": scaled(1.0), "write_group_operations": 4}
        (tmp_path / "far").mkdir()
        server = Processes(settings.model_copy(update=changed), tmp_path / "far")
        processes.start("worker")
        server.start("serve")
        try:
            await tracked(server.url, ["docs"])
            yield server, proxy
        finally:
            # The proxy runs in this loop, and the server needs it until its end.
            await asyncio.to_thread(server.stop)


@pytest.mark.slow
@pytest.mark.parametrize("one_way", [0.0025, 0.01])
async def test_writes_to_a_mongodb_far_away_are_refused_only_in_an_overload(
    far: tuple[Processes, TcpProxy], client: Client, settings: Settings, one_way: float
) -> None:
    server, proxy = far
    proxy.delay(one_way)
    overload = Overload(server.url)
    # Two groups of four in 20 ms, and the time of MongoDB: 32 writers wait for less than the longest delay.
    await overload.run(writers=32, accepted=300, refused=0)
    assert (overload.refused, overload.others) == ([], [])
    # Eight writes in 0.2 s: those that were admitted before are late, those that come are refused at once.
    proxy.delay(0.05)
    await overload.run(writers=200, accepted=60, refused=60)
    assert all(1 <= int(answer.headers["retry-after"]) <= 10 for answer in overload.refused)
    stored = {row["_id"] async for row in client[settings.database]["docs"].find({}, {"_id": 1})}
    late = [text for text in overload.others if '"status":503' in text]
    assert (stored, overload.others) == (overload.accepted, late)
    # It recovers with the distance.
    proxy.delay(one_way)
    await overload.run(writers=8, accepted=20, refused=0)
    before = (len(overload.refused), len(overload.others))
    await overload.run(writers=32, accepted=100, refused=0)
    assert (len(overload.refused), len(overload.others)) == before
