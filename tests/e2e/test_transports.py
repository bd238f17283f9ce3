"""Real data through the API, and clients of every transport that end with exactly the collection's content."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import bson
import httpx
import orjson
import pytest
from bson import json_util
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.clients import PEERS, Follower, following
from support.peers.python import connect
from support.replica import Replica, seq_of, to_tree
from support.systems import head, running_system
from support.waiting import patience, within
from support.writers import ApiWriter, documents_of, write_behind

Data = dict[str, list[dict[str, Any]]]


async def load(url: str, data: Data) -> None:
    """Every document by POST, as it is."""
    room = asyncio.Semaphore(16)

    async def put(client: httpx.AsyncClient, name: str, document: dict[str, Any]) -> None:
        async with room:
            answer = await client.post(f"/v1/collections/{name}/documents", json=document)
            assert answer.status_code == 201, answer.text

    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client, asyncio.TaskGroup() as group:
        for name, documents in data.items():
            for document in documents:
                group.create_task(put(client, name, document))


def collection_of(client: Client, settings: Settings, name: str) -> AsyncCollection[dict[str, Any]]:
    return client[settings.database].get_collection(name, codec_options=CODEC)


async def written_up(url: str, client: Client, settings: Settings, key: str = "marker") -> str:
    """The position of a last write, behind all others."""
    marker = collection_of(client, settings, settings.collections[0])
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
        await marker.insert_one({"_id": key})
        position = (await head(url)).split(":")[0] + ":0"
        shape = f"{settings.collections[0]}/{key}"
        query: dict[str, Any] = {"shape": shape, "position": position, "wait": 10}
        page = (await http.get("/v1/sync/log", params=query, timeout=patience(20))).json()
    log = position.split(":")[0]
    return f"{log}:{page['events'][-1]['seq']}"


async def test_data_sets_come_back_equal_in_value_and_type(client: Client, settings: Settings, data_sets: Data) -> None:
    options = json_util.CANONICAL_JSON_OPTIONS.with_options(
        tz_aware=True, datetime_conversion=CODEC.datetime_conversion
    )
    async with running_system(settings) as url:
        await load(url, data_sets)
        for name, documents in data_sets.items():
            stored = {row["_id"]: row async for row in collection_of(client, settings, name).find()}
            assert len(stored) == len(documents)
            for document in documents:
                want = json_util.loads(orjson.dumps(document), json_options=options)
                kept = stored[want["_id"]]
                assert kept.pop("_sync")["v"] == 1
                assert bson.encode(kept, codec_options=CODEC) == bson.encode(want, codec_options=CODEC)


@pytest.mark.slow
@pytest.mark.parametrize("transport", PEERS)
async def test_clients_that_are_cut_off_end_exact(
    client: Client, settings: Settings, data_sets: Data, transport: str
) -> None:
    one = data_sets["theaters"][0]["_id"]["$oid"]
    data = {name: documents[:50] for name, documents in data_sets.items()}
    # It holds all events: behind it, a snapshot of these few documents may cost less than what a client has missed.
    wide = settings.model_copy(update={"window_bytes": 4 * 1024 * 1024})
    async with running_system(wide) as url:
        await load(url, data)
        async with AsyncExitStack() as stack:
            followers: list[Follower] = []
            for seed, shape in enumerate([*settings.collections, f"theaters/{one}"]):
                follow = following(url, shape, transport, seed=seed, cut_after=3)
                followers.append(await stack.enter_async_context(follow))
            writers = [ApiWriter(url, name, documents, seed=1) for name, documents in data.items()]
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(writer.run(35))
                for name in settings.collections:
                    group.create_task(write_behind(collection_of(client, settings, name), 35, seed=2))
            position = await written_up(url, client, settings)
            for follower in followers:
                await follower.reached(position)
                await check(client, settings, follower)


async def check(client: Client, settings: Settings, follower: Follower) -> None:
    """The replica is the collection, and got there by events: one snapshot, at the beginning."""
    replica = follower.replica
    name, _, key = replica.shape.partition("/")
    documents = await documents_of(collection_of(client, settings, name))
    want = {text: to_tree(document) for text, document in documents.items() if not key or text == key}
    assert replica.documents == want
    assert (replica.snapshots, replica.resets) == (1, 0)
    assert follower.connections > 2


@pytest.mark.slow
async def test_one_vector_serves_every_transport(client: Client, settings: Settings, data_sets: Data) -> None:
    async with running_system(settings) as url:
        await load(url, {"theaters": data_sets["theaters"][:20]})
        replica = None
        for number, transport in enumerate([*PEERS, *PEERS]):
            async with following(url, "theaters", transport) as follower:
                if replica is not None:
                    follower.replica = replica
                replica = follower.replica
                await write_behind(collection_of(client, settings, "theaters"), 10, seed=number)
                marker = {"_id": f"marker {number}"}
                await collection_of(client, settings, "theaters").insert_one(marker)
                await follower.has(marker["_id"])
            replica.disconnected()
        assert replica is not None
        documents = await documents_of(collection_of(client, settings, "theaters"))
        assert replica.documents == {text: to_tree(document) for text, document in documents.items()}
        assert (replica.snapshots, seq_of(replica.position or "") > 0) == (1, True)


async def test_a_quiet_shape_beside_a_busy_one_has_no_hole(client: Client, settings: Settings) -> None:
    """The window forgets where the quiet shape's last event stood: its next frame must not begin beyond the client."""
    quiet = settings.model_copy(update={"heartbeat": 30.0})
    accounts = collection_of(client, settings, "accounts")
    replica = Replica("accounts")
    async with running_system(quiet) as url, connect(url.replace("http", "ws") + "/v1/sync") as connection:

        async def until(there: Callable[[Any], bool]) -> None:
            async with within(10):
                while not there(message := json.loads(await connection.recv())):
                    replica.take(message)
            replica.take(message)

        await connection.send(json.dumps({"type": "hello", "shapes": ["accounts"]}))
        await until(lambda message: message["type"] == "live")
        for number in range(3):
            await accounts.insert_one({"_id": f"quiet {number}"})
            await until(lambda message: message["type"] == "events")
            noise = [{"_id": f"{number}-{other}", "text": "x" * 1000} for other in range(100)]
            await collection_of(client, settings, "theaters").insert_many(noise)
            await written_up(url, client, settings, f"marker {number}")
            # Whatever wakes the session lets its cursor pass the noise, of which the client hears nothing.
            await connection.send(json.dumps({"type": "ping"}))
            await until(lambda message: message["type"] == "pong")
    assert list(replica.rows) == ["quiet 0", "quiet 1", "quiet 2"]
    assert replica.snapshots == 1
