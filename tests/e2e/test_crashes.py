"""kill -9 of the worker, of the server and of both, while writers write and clients follow."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.clients import PEERS, following
from support.replica import to_tree
from support.systems import Processes, tracked
from support.waiting import patience
from support.writers import ApiWriter, assert_each_is_one_event, documents_of, write_behind

Data = dict[str, list[dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.usefixtures("short_transactions")
@pytest.mark.parametrize("victims", [("worker",), ("serve",), ("worker", "serve")], ids="+".join)
async def test_killed_in_mid_load(
    client: Client, settings: Settings, data_sets: Data, tmp_path: Path, victims: tuple[str, ...]
) -> None:
    processes = Processes(settings, tmp_path)
    collection = client[settings.database].get_collection("theaters", codec_options=CODEC)
    documents = data_sets["theaters"][:30]
    processes.start("worker", "serve")
    try:
        await tracked(processes.url, settings.collections)
        writers = [ApiWriter(processes.url, "theaters", documents, seed=seed) for seed in range(3)]
        async with AsyncExitStack() as stack:
            followers = [
                await stack.enter_async_context(following(processes.url, "theaters", transport, cut_after=20))
                for transport in PEERS
            ]
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(150))
                group.create_task(_behind(client, settings))
                for _ in range(2):
                    await asyncio.wait_for(_some(writers, 40), patience(20))
                    processes.kill(*victims)
                    processes.start(*victims)
                    await tracked(processes.url, settings.collections)
            await collection.insert_one({"_id": "marker"})
            for follower in followers:
                await follower.has("marker")
                want = {text: to_tree(found) for text, found in (await documents_of(collection)).items()}
                assert follower.replica.documents == want
                assert follower.replica.resets == 0
        await assert_each_is_one_event(client, settings, writers)
    finally:
        processes.stop()


async def _behind(client: Client, settings: Settings) -> None:
    collection = client[settings.database].get_collection("theaters", codec_options=CODEC)
    await collection.insert_many([{"_id": f"own {number}"} for number in range(10)])
    await write_behind(collection, 150, seed=9)


async def _some(writers: list[ApiWriter], more: int) -> None:
    """Until the writers have had so many more writes acknowledged."""
    goal = sum(len(writer.acknowledged) for writer in writers) + more
    while sum(len(writer.acknowledged) for writer in writers) < goal:
        if all(writer.done for writer in writers):
            return
        await asyncio.sleep(0.005)
