"""Clients of declared shapes hold exactly what the shape's filter finds, through enter, leave and disconnects."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo.errors import OperationFailure

from eventsync.domain.positions import LogId
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.domain.shapes import Shape
from eventsync.mongodb.change_stream import watch
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration
from eventsync.stores.snapshots.live_snapshots import Snapshot, SnapshotReader
from eventsync.stores.stores import Stores
from support.clients import PEERS, Follower, following
from support.peers.peer import Asked, Link
from support.replay import caught_up
from support.systems import running_system
from support.waiting import eventually, patience, within
from support.writers import change_one

BY_BOARD = define("by_board", "docs", {"board": "$board"}, {"board": ["int", "null"]})
OPEN = define("open_of", "docs", {"board": {"$in": "$boards"}, "open": True}, {"boards": ["int"]})
READ_BY = define("read_by", "docs", {"readers": "$reader"}, {"reader": ["text"]})
SHAPES: dict[str, dict[str, Any]] = {
    "by_board?board=int:1": {"board": 1},
    "by_board?board=null:": {"board": None},
    "open_of?boards=int:1&boards=int:2": {"board": {"$in": [1, 2]}, "open": True},
    "read_by?reader=ada": {"readers": "ada"},
}
"""Shapes, and MongoDB's filter for each."""

_FOLDING = {"locale": "en", "strength": 2}
_NAMESPACE_EXISTS = 48


async def declare(stores: Stores, url: str, definitions: Iterable[Definition], *shapes: str) -> None:
    """Declare these shapes and no others, and wait until the server at `url` serves `shapes`."""
    await stores.definitions.apply([Declaration.of(each) for each in definitions])
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:

        async def served() -> bool:
            answers = [await client.get("/v1/sync/snapshot", params={"shape": shape}) for shape in shapes]
            return all(answer.status_code == httpx.codes.OK for answer in answers)

        await eventually(served, 20)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",)})


@pytest.fixture
async def url(stores: Stores, settings: Settings) -> AsyncIterator[str]:
    async with running_system(settings) as url:
        await declare(stores, url, [BY_BOARD, OPEN, READ_BY], *SHAPES)
        yield url


async def found(stores: Stores, where: dict[str, Any]) -> dict[str, Any]:
    return {f"int:{item['_id']}": item async for item in stores.data["docs"].find(where)}


async def assert_holds(stores: Stores, follower: Follower) -> None:
    shown = {key: dict(document) for key, document in follower.replica.documents.items()}
    assert shown == await found(stores, SHAPES[follower.replica.shape]), follower.name


def drawn(chance: random.Random) -> dict[str, Any]:
    return {
        "board": chance.choice([None, 1, 2, 3]),
        "open": chance.random() < 0.6,
        "readers": chance.sample(["ada", "bob", "eve"], chance.randint(0, 2)),
        "n": chance.randint(0, 99),
    }


@pytest.mark.parametrize("transport", PEERS)
async def test_documents_enter_and_leave(stores: Stores, url: str, transport: str) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": 1, "board": 1}, {"_id": 2, "board": 2}])
    await caught_up(stores)
    async with following(url, "by_board?board=int:1", transport) as follower:
        await follower.has("int:1")
        await docs.update_one({"_id": 2}, {"$set": {"board": 1, "n": 5}})
        await follower.has("int:2")
        await docs.update_one({"_id": 1}, {"$set": {"board": [2, 1]}})
        await docs.update_one({"_id": 2}, {"$set": {"board": 3, "secret": "s"}})
        log = await caught_up(stores)
        await follower.reached(f"{log}:{await stores.events.head(log)}")
        assert follower.replica.documents == {"int:1": {"_id": 1, "board": [2, 1]}}
        assert (follower.replica.snapshots, follower.replica.resets) == (1, 0)
        assert follower.replica.position is not None
        assert follower.replica.position.startswith(f"{log}.")


@pytest.mark.slow
@pytest.mark.parametrize("window_bytes", [64 * 1024 * 1024, 1])
@pytest.mark.parametrize("seed", [0, 1])
async def test_all_clients_hold_what_mongodb_finds(
    stores: Stores, settings: Settings, window_bytes: int, seed: int
) -> None:
    """With a window of one event, what they missed comes from MongoDB: as events, squashed, or as a snapshot."""
    chance = random.Random(seed)
    settings = settings.model_copy(update={"window_bytes": window_bytes})
    async with running_system(settings) as url, AsyncExitStack() as stack:
        for _ in range(30):
            await change_one(stores.data["docs"], drawn(chance), chance)
        await declare(stores, url, [BY_BOARD, OPEN, READ_BY], *SHAPES)
        followers = [
            await stack.enter_async_context(following(url, shape, transport, seed=seed, cut_after=3))
            for transport in PEERS
            for shape in SHAPES
        ]
        for _ in range(150):
            await change_one(stores.data["docs"], drawn(chance), chance)
            if chance.random() < 0.05:
                await caught_up(stores)
        log = await caught_up(stores)
        head = await stores.events.head(log)
        for follower in followers:
            await follower.reached(f"{log}:{head}", seconds=40)
            await assert_holds(stores, follower)
            assert follower.replica.resets == 0


async def test_clients_that_begin_together_share_one_read(
    stores: Stores, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stores.data["docs"].insert_many([{"_id": n, "board": n % 2} for n in range(20)])
    await caught_up(stores)
    reads: list[str] = []
    opened = SnapshotReader.open

    def counted(self: SnapshotReader, log: LogId, shape: Shape) -> AbstractAsyncContextManager[Snapshot]:
        reads.append(str(shape))
        return opened(self, log, shape)

    monkeypatch.setattr(SnapshotReader, "open", counted)
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        # The answer of `declare`'s snapshots may be kept for a second, and is from before the documents.
        await eventually(lambda: _has(client, "by_board?board=int:1", 10), 20)
        reads.clear()
        query = {"shape": "by_board?board=int:1"}
        answers = await asyncio.gather(*(client.get("/v1/sync/snapshot", params=query) for _ in range(40)))
    assert {len(answer.text.splitlines()) for answer in answers} == {11}
    assert len(reads) < 10


async def _has(client: httpx.AsyncClient, shape: str, documents: int) -> bool:
    answer = await client.get("/v1/sync/snapshot", params={"shape": shape})
    return len(answer.text.splitlines()) == 1 + documents


@pytest.mark.parametrize("transport", PEERS)
async def test_collation_of_the_collection_does_not_count(stores: Stores, url: str, transport: str) -> None:
    async def is_collated() -> bool:
        """Make the collection again, unless the worker that tracks it is faster and makes it without the collation."""
        await stores.data.drop_collection("docs")
        try:
            await stores.data.create_collection("docs", check_exists=False, collation=_FOLDING)
        except OperationFailure as error:
            if error.code != _NAMESPACE_EXISTS:
                raise
            return False
        return True

    await eventually(is_collated, 20)
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": 1, "readers": ["Ada"]}, {"_id": 2, "readers": ["ada"]}])
    await caught_up(stores)
    async with following(url, "read_by?reader=ada", transport) as follower:
        await follower.has("int:2")
        await docs.update_one({"_id": 1}, {"$push": {"readers": "ADA"}})
        await docs.update_one({"_id": 1}, {"$push": {"readers": "ada"}})
        await docs.update_one({"_id": 2}, {"$set": {"readers": ["Ada"]}})
        log = await caught_up(stores)
        await follower.reached(f"{log}:{await stores.events.head(log)}")
        assert follower.replica.documents == {"int:1": {"_id": 1, "readers": ["Ada", "ADA", "ada"]}}


async def test_listing_of_a_shape_has_its_documents_in_any_order(stores: Stores, url: str) -> None:
    await stores.data["docs"].insert_many([{"_id": n, "board": n % 2, "n": -n, "open": n < 4} for n in range(6)])
    path = "/v1/collections/docs/documents"
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:

        async def listed(query: str) -> list[str]:
            answer = await client.get(f"{path}?{query}")
            assert answer.status_code == httpx.codes.OK, answer.text
            return [row["id"] for row in answer.json()["documents"]]

        assert await listed("shape=by_board&board=int:1") == ["int:1", "int:3", "int:5"]
        assert await listed("shape=by_board&board=int:1&sort=n&limit=2") == ["int:5", "int:3"]
        assert await listed('shape=by_board%3Fboard%3Dint:1&filter={"n":{"$gt":-4}}') == ["int:1", "int:3"]
        assert await listed("shape=open_of&boards=int:0&boards=int:1") == ["int:0", "int:1", "int:2", "int:3"]
        for query, status, code in (
            ("shape=by_board", 400, "invalid_predicate"),
            ("shape=by_board&board=7", 400, "invalid_predicate"),
            ("shape=no_such&board=7", 404, "unknown_shape"),
            ("shape=by_board&board=int:1&limit=1&limit=2", 400, "malformed"),
            ("board=int:1", 400, "malformed"),
        ):
            answer = await client.get(f"{path}?{query}")
            assert (answer.status_code, answer.json()["code"]) == (status, code), query


@pytest.mark.slow
@pytest.mark.parametrize("transport", PEERS)
async def test_client_whose_missed_events_are_all_archived_becomes_live(
    stores: Stores, settings: Settings, tmp_path: Path, transport: str
) -> None:
    """The documents that archived events of a route have touched are not known, so nothing can be squashed."""
    soon = {"hot_events": 5, "segment_events": 20, "archive_url": str(tmp_path), "window_bytes": 1}
    quick, docs, shape = settings.model_copy(update=soon), stores.data["docs"], "by_board?board=int:1"
    async with running_system(quick) as url:
        await declare(stores, url, [BY_BOARD], shape)
        await docs.insert_many([{"_id": n, "board": 1 + n % 2} for n in range(10)])
        async with following(url, shape, transport) as follower:
            await follower.reached(f"{await caught_up(stores)}:10")
        left = follower.replica
        await docs.update_one({"_id": 2}, {"$set": {"n": 1}})
        await docs.update_one({"_id": 4}, {"$set": {"board": 2}})
        for n in range(80):
            await docs.update_one({"_id": 1}, {"$set": {"n": n}})
        log = await caught_up(stores)
        async with within(30), watch(stores.log, [{"$match": {"ns.coll": "tiers"}}]) as stream:
            while (await stores.tiers.read(log)).archived_up_to < 40:
                await stream.read(wait=1, limit=1)
    # Another server: this one may remember for a moment how far the archive reached.
    async with running_system(quick) as url:
        async with following(url, shape, transport) as follower:
            follower.replica = left
            await follower.reached(f"{log}:92")
        assert left.resets == 0
        await assert_holds(stores, follower)


@pytest.mark.parametrize("transport", PEERS)
async def test_changed_definition_resets_its_followers(stores: Stores, url: str, transport: str) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": 1, "board": 1}, {"_id": 2, "board": 1, "open": True}])
    async with following(url, "by_board?board=int:1", transport) as follower:
        await follower.has("int:1")
        changed = define("by_board", "docs", {"board": "$board", "open": True}, {"board": ["int"]})
        await declare(stores, url, [changed])
        await docs.insert_one({"_id": 3, "board": 1, "open": True})
        # An event that was sequenced before the definition changed may still come by the former one.
        await eventually(lambda: follower.replica.rows.keys() == {"int:2", "int:3"}, 20)
        assert follower.replica.resets > 0


@pytest.mark.parametrize("transport", PEERS)
async def test_shape_that_is_declared_no_more_ends_with_an_error(stores: Stores, url: str, transport: str) -> None:
    await stores.data["docs"].insert_one({"_id": 1, "board": 1})
    async with PEERS[transport].open(url, Asked(("by_board?board=int:1",))) as link:
        await met(link, "live")
        await declare(stores, url, [OPEN])
        if transport == "http":
            await met(link, None)
            assert link.ended is not None
            assert link.ended.code == httpx.codes.NOT_FOUND
        else:
            assert (await met(link, "error"))["code"] == "unknown_shape"


async def met(link: Link, kind: str | None) -> dict[str, Any]:
    """Receive messages up to one of this type, or to the end of the connection."""
    while (received := await link.receive()) is not None:
        if received.message["type"] == kind:
            return received.message
    assert kind is None, link.ended
    return {}
