"""Several server processes on one port: replaced, killed and ended while writers write and clients follow."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.clients import PEERS, Follower, following
from support.identity import token
from support.replica import to_tree
from support.ruled import apply_rules
from support.systems import Processes, running_server, tracked
from support.waiting import eventually, patience, within
from support.writers import ApiWriter, assert_each_is_one_event, documents_of

Data = dict[str, list[dict[str, Any]]]
SHAPE = "theaters"
BOUND = 2.0 + 5.0 + 8.0
"""The drain timeout of these tests, what a server gets besides, and what a busy machine takes, in seconds."""

_FOR_EVER = 10**9


class Load:
    """Writers, and two followers over each transport."""

    def __init__(self, client: Client, settings: Settings, writers: list[ApiWriter], followers: list[Follower]) -> None:
        self._collection = client[settings.database].get_collection(SHAPE, codec_options=CODEC)
        self.writers = writers
        self.followers = followers

    async def goes_on(self, writes: int = 30) -> None:
        """Until so many more writes have been acknowledged."""
        goal = self._acknowledged() + writes
        async with within(30):
            while self._acknowledged() < goal:  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(0.005)

    def _acknowledged(self) -> int:
        return sum(len(writer.acknowledged) for writer in self.writers)

    async def is_exact(self, marker: str) -> None:
        """Once nobody writes any more: everybody has everything, and has lost its place never."""
        await self._collection.insert_one({"_id": marker})
        for follower in self.followers:
            await follower.has(marker)
            want = {text: to_tree(found) for text, found in (await documents_of(self._collection)).items()}
            assert follower.replica.documents == want
            assert follower.replica.resets == 0
            assert follower.replica.snapshots == 1, "a client that comes back continues where it was"


@asynccontextmanager
async def load(url: str, client: Client, settings: Settings, documents: list[dict[str, Any]]) -> AsyncIterator[Load]:
    """Load while the block runs; afterwards everything has to be exact."""
    writers = [ApiWriter(url, SHAPE, documents, seed=seed) for seed in range(3)]
    async with AsyncExitStack() as stack:
        followers = [
            await stack.enter_async_context(following(url, SHAPE, transport, seed=seed))
            for transport in PEERS
            for seed in range(2)
        ]
        found = Load(client, settings, writers, followers)
        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.run(_FOR_EVER))
            yield found
            for writer in writers:
                writer.stop()
        await found.is_exact("marker")


def runs(pids: set[int]) -> bool:
    """Return True if any of them does."""
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.slow
@pytest.mark.usefixtures("short_transactions")
async def test_several_share_a_port_are_replaced_and_killed_and_end_in_time(
    processes: Processes, client: Client, settings: Settings, data_sets: Data
) -> None:
    processes.start("worker")
    processes.start("serve", options=("--workers", "2"))
    await tracked(processes.url, settings.collections)
    await processes.said("serve", " serves", times=2)
    async with load(processes.url, client, settings, data_sets[SHAPE][:30]) as running:
        await running.goes_on()
        before = processes.children("serve")
        assert len(before) == 2
        processes.signal(signal.SIGHUP, "serve")
        await processes.said("serve", "all server processes are replaced")
        await running.goes_on()
        after = processes.children("serve")
        assert len(after) == 2
        assert not before & after
        victim = min(after)
        os.kill(victim, signal.SIGKILL)
        await processes.said("serve", "was killed by SIGKILL; starting it again")
        await processes.said("serve", "listening on", times=5)
        await running.goes_on()
        assert len(processes.children("serve") - {victim}) == 2
    assert all(follower.connections > 1 for follower in running.followers[:4]), "the streams have moved"
    # With streams open:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(following(processes.url, SHAPE, transport)) for transport in PEERS]
        for follower in streams:
            await follower.has("marker")
        children = processes.children("serve")
        processes.signal(signal.SIGTERM, "serve")
        assert await processes.ended("serve", seconds=BOUND) == 0
        assert not runs(children)


async def test_each_answers_for_the_refusals_of_all_and_of_another_server(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    await apply_rules(stores, tmp_path)
    quick = settings.model_copy(update={"report_interval": 0.3})
    processes = Processes(quick, tmp_path)
    try:
        processes.start("worker")
        processes.start("serve", options=("--workers", "2"))
        async with running_server(quick) as other:
            await processes.said("serve", " serves", times=2)
            await _refusals_are_shared(processes.url, other)
    finally:
        processes.stop()


async def _refusals_are_shared(shared: str, other: str) -> None:
    """Have users refused by two server processes on a port and one on another. Each must answer for all of them."""
    users: list[str] = []

    async def answered(url: str, path: str, sub: str, **claims: Any) -> httpx.Response:
        """Ask over a connection of its own, which any process on the port may accept."""
        headers = {"Authorization": f"Bearer {token(now=time.time(), sub=sub, **claims)}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=patience(20)) as client:
            return await client.get(path)

    async def refused_by_three() -> set[str] | None:
        """Have two more users refused, and return the servers that have refused somebody, once these are three."""
        for url in (shared, other):
            users.append(f"user {len(users)}")
            assert (await answered(url, "/metrics", users[-1])).status_code == 403
        refusals = await seen(shared)
        servers = {each["server"] for each in refusals["servers"] if each["count"]}
        return servers if len(servers) == 3 else None

    async def seen(url: str) -> dict[str, Any]:
        answer = await answered(url, "/v1/admin/access", "root", roles=["ops"])
        found: dict[str, Any] = answer.raise_for_status().json()
        asked.add(found["answered_by"])
        return dict(found["refusals"])

    async def all_are_known(url: str) -> bool:
        found = await seen(url)
        newest = [line["subject"] for line in found["recent"]]
        assert len(newest) == len(set(newest)), "each is listed once"
        expected = list(reversed(users))[:50]
        return found["complete"] and newest == expected and found["counts"] == {"not_operator": len(users)}

    asked = set[str]()
    servers = await eventually(refused_by_three, 30)
    async with within(60):
        while asked != servers:
            for url in (shared, other):
                await eventually(partial(all_are_known, url), 30)


async def test_children_end_with_their_parent(processes: Processes, settings: Settings) -> None:
    processes.start("worker")
    processes.start("serve", options=("--workers", "2"))
    await processes.said("serve", " serves", times=2)
    children = processes.children("serve")
    assert len(children) == 2
    processes.kill("serve")
    async with within(BOUND):
        while runs(children):  # noqa: ASYNC110 - they are not ours to wait for
            await asyncio.sleep(0.02)
    # And the port is free.
    processes.start("serve")
    await tracked(processes.url, settings.collections)


@pytest.mark.slow
async def test_clients_move_when_one_of_two_servers_on_a_port_ends(
    settings: Settings, tmp_path: Path, client: Client, data_sets: Data
) -> None:
    processes = Processes(settings.model_copy(update={"reuse_port": True}), tmp_path)
    try:
        processes.start("worker", "serve")
        await tracked(processes.url, settings.collections)
        processes.start("second", command="serve")
        await processes.said("second", "listening on")
        async with load(processes.url, client, settings, data_sets[SHAPE][:30]) as running:
            for name in ("serve", "second"):
                await running.goes_on()
                processes.signal(signal.SIGTERM, name)
                await processes.ended(name, seconds=BOUND)
                await running.goes_on()
                processes.start(name, command="serve")
                await processes.said(name, "listening on", times=2)
        moved = [follower.connections for follower in running.followers[:4]]
        assert min(moved) >= 2, "each stream was at one of them, and both have ended once"
    finally:
        processes.stop()


@pytest.mark.slow
async def test_an_upgrade_replaces_workers_and_servers_one_by_one_without_a_lost_or_doubled_event(
    settings: Settings, tmp_path: Path, client: Client, data_sets: Data
) -> None:
    kinds = {"worker": "worker", "worker2": "worker", "serve": "serve", "second": "serve"}
    processes = Processes(settings.model_copy(update={"reuse_port": True}), tmp_path)
    deployment = client[settings.log_db]["deployment"]
    try:
        processes.start("worker", "worker2", "serve")
        await tracked(processes.url, settings.collections)
        processes.start("second", command="serve")
        await processes.said("second", "listening on")
        # As an earlier version has left it, which did not record the versions of what is stored.
        await deployment.delete_one({"_id": "formats"})
        async with load(processes.url, client, settings, data_sets[SHAPE][:30]) as running:
            for name, kind in kinds.items():
                await running.goes_on()
                processes.signal(signal.SIGTERM, name)
                assert await processes.ended(name, seconds=BOUND) == 0
                await running.goes_on()
                processes.start(name, command=kind)
                await processes.said(name, "MongoDB is reached" if kind == "worker" else "listening on", times=2)
            await running.goes_on()
            assert await deployment.find_one({"_id": "formats"}), "the first worker of this version has recorded them"
            processes.start("migrate")
            assert await processes.ended("migrate", seconds=patience(20)) == 0, processes.log("migrate")
            await running.goes_on()
        await assert_each_is_one_event(client, settings, running.writers)
        assert sum(processes.log(name).count(" leads") for name in ("worker", "worker2")) > 1, "another one took over"
    finally:
        processes.stop()


async def test_without_reuse_port_there_is_one_server(processes: Processes, settings: Settings) -> None:
    processes.start("worker", "serve")
    await tracked(processes.url, settings.collections)
    for options in ((), ("--workers", "2")):
        processes.start("second", command="serve", options=options)
        assert await processes.ended("second", seconds=20) == 2
    assert f"port {processes.port} on 127.0.0.1 is in use" in processes.log("second")
    async with httpx.AsyncClient(base_url=processes.url, timeout=patience(20)) as client:
        assert (await client.get("/healthz")).status_code == 200
