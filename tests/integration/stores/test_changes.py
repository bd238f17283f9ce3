from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.database import AsyncDatabase

from app.settings import Settings
from app.stores.changes import ChangeStream, ChangeTooLarge, HistoryLost, StreamInterrupted, token_time, watch
from app.stores.mongodb import Client, connect
from app.stores.stores import Stores
from support.failpoints import failing

Database = AsyncDatabase[Any]


@pytest.fixture
async def alone(settings: Settings) -> AsyncIterator[Database]:
    """The test's database through a client of its own name, which faults can be aimed at."""
    async with connect(settings, f"changes-{settings.database}") as client:
        yield client[settings.database]


def app_of(settings: Settings) -> str:
    return f"eventsync-changes-{settings.database}"


async def keys(stream: ChangeStream, count: int) -> list[Any]:
    """The `_id`s of the next `count` changes."""
    found: list[Any] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            batch = await stream.read(wait=1, limit=1000)
            found += [change["documentKey"]["_id"] for change in batch.changes]
    return found


async def open_cursors(client: Client) -> int:
    return int((await client.admin.command("serverStatus"))["metrics"]["cursor"]["open"]["total"])


async def test_changes_come_raw_and_in_order_and_the_token_moves_on(stores: Stores) -> None:
    async with watch(stores.data, []) as stream:
        first = stream.token
        await stores.data["c"].insert_many([{"_id": n} for n in range(5)])
        batch = await stream.read(wait=5, limit=3)
        assert [change["documentKey"]["_id"] for change in batch.changes] == [0, 1, 2]
        assert all(isinstance(change, RawBSONDocument) for change in batch.changes)
        assert batch.token == stream.token == batch.changes[-1]["_id"]["_data"] > first
        assert batch.time == batch.changes[-1]["clusterTime"]
        assert await keys(stream, 2) == [3, 4]


async def test_an_empty_read_moves_the_token_on(stores: Stores) -> None:
    async with watch(stores.data, [{"$match": {"ns.coll": "nobody"}}]) as stream:
        seen = [stream.token]
        for _ in range(3):
            written = await stores.data["c"].insert_one({}), await stores.data.command("ping")
            batch = await stream.read(wait=0.02, limit=10)
            while batch.time < written[1]["operationTime"]:
                batch = await stream.read(wait=0.02, limit=10)
            assert not batch.changes
            seen.append(batch.token)
    assert seen == sorted(set(seen))


async def test_a_stream_resumes_right_after_a_token(stores: Stores) -> None:
    collection = stores.data["c"]
    async with watch(stores.data, []) as stream:
        start = stream.token
        await collection.insert_many([{"_id": n} for n in range(3)])
        token = (await stream.read(wait=5, limit=2)).token
    await collection.insert_one({"_id": 3})
    async with watch(stores.data, [], after=token) as stream:
        assert await keys(stream, 2) == [2, 3]
    async with watch(stores.data, [], after=start) as stream:
        assert await keys(stream, 4) == [0, 1, 2, 3]


async def test_a_high_water_mark_survives_another_pipeline_and_an_events_token_may_not(stores: Stores) -> None:
    collection, other = stores.data["c"], stores.data["other"]
    async with watch(stores.data, [{"$match": {"ns.coll": "c"}}]) as stream:
        await collection.insert_one({"_id": 1})
        batch = await stream.read(wait=5, limit=10)
        event = batch.changes[-1]["_id"]["_data"]
        while batch.time <= token_time(event):
            await stores.data["elsewhere"].insert_one({})
            batch = await stream.read(wait=0.1, limit=10)
        mark = batch.token
    await other.insert_one({"_id": 2})
    async with watch(stores.data, [{"$match": {"ns.coll": "other"}}], after=mark) as stream:
        assert await keys(stream, 1) == [2]
    with pytest.raises(HistoryLost, match="280"):
        async with watch(stores.data, [{"$match": {"ns.coll": "other"}}], after=event) as stream:
            await stream.read(wait=1, limit=10)


async def test_a_killed_cursor_interrupts_and_another_stream_goes_on(stores: Stores) -> None:
    async with watch(stores.data, []) as stream:
        await stores.data["c"].insert_one({"_id": 1})
        assert await keys(stream, 1) == [1]
        await stores.data.command({"killCursors": "$cmd.aggregate", "cursors": [stream._id]})
        await stores.data["c"].insert_one({"_id": 2})
        with pytest.raises(StreamInterrupted, match="cursor"):
            await stream.read(wait=1, limit=10)
        token = stream.token
    async with watch(stores.data, [], after=token) as stream:
        assert await keys(stream, 1) == [2]


@pytest.mark.parametrize("code", [136, 280, 286])
async def test_lost_history_is_told_apart_from_an_interruption(
    client: Client, alone: Database, settings: Settings, code: int
) -> None:
    async with watch(alone, []) as stream, failing(client, "getMore", code, app=app_of(settings)):
        with pytest.raises(HistoryLost, match=str(code)):
            await stream.read(wait=1, limit=10)


async def test_history_that_is_lost_when_the_stream_is_opened(
    client: Client, alone: Database, settings: Settings
) -> None:
    async with failing(client, "aggregate", 286, app=app_of(settings)):
        with pytest.raises(HistoryLost):
            async with watch(alone, []):
                raise AssertionError("opened")


@pytest.mark.parametrize("code", [43, 50, 234])
async def test_everything_else_is_an_interruption(
    client: Client, alone: Database, settings: Settings, code: int
) -> None:
    async with watch(alone, []) as stream, failing(client, "getMore", code, app=app_of(settings)):
        with pytest.raises(StreamInterrupted):
            await stream.read(wait=1, limit=10)


async def test_a_change_whose_images_are_too_large_is_told_apart(
    client: Client, alone: Database, settings: Settings
) -> None:
    async with watch(alone, []) as stream, failing(client, "getMore", 10334, app=app_of(settings)):
        with pytest.raises(ChangeTooLarge):
            await stream.read(wait=1, limit=10)


async def test_the_batch_that_ends_a_stream_is_delivered(client: Client, stores: Stores) -> None:
    await stores.data["c"].insert_one({"_id": 1})
    async with watch(stores.data, []) as stream:
        await client.drop_database(stores.data.name)
        kinds: list[str] = []
        while "invalidate" not in kinds:
            kinds += [change["operationType"] for change in (await stream.read(wait=1, limit=10)).changes]
        with pytest.raises(StreamInterrupted, match="dropped"):
            await stream.read(wait=1, limit=10)
    assert kinds == ["drop", "dropDatabase", "invalidate"]
    with pytest.raises(HistoryLost, match="260"):
        async with watch(stores.data, [], after=stream.token):
            raise AssertionError("resumed from an invalidation")


async def test_streams_leave_no_cursor_behind(client: Client, stores: Stores) -> None:
    before = await open_cursors(client)
    for _ in range(5):
        async with watch(stores.data, []) as stream:
            await stream.read(wait=0.01, limit=10)
    with pytest.raises(StreamInterrupted):
        async with watch(stores.data, [{"$noSuchStage": {}}]):
            raise AssertionError("opened")
    assert await open_cursors(client) <= before


async def test_images_are_the_exact_states(stores: Stores) -> None:
    await stores.data.create_collection("c", changeStreamPreAndPostImages={"enabled": True})
    async with watch(stores.data, [], images=True) as stream:
        await stores.data["c"].insert_one({"_id": 1, "a": 1})
        for value in (2, 3):
            await stores.data["c"].update_one({"_id": 1}, {"$set": {"a": value}})
        changes = (await stream.read(wait=5, limit=10)).changes
        while len(changes) < 3:
            changes = [*changes, *(await stream.read(wait=5, limit=10)).changes]
    images = [(change.get("fullDocumentBeforeChange"), change["fullDocument"]) for change in changes]
    assert [(before["a"] if before else None, after["a"]) for before, after in images] == [(None, 1), (1, 2), (2, 3)]
