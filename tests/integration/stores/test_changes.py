from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.mongodb.change_stream import (
    Batch,
    ChangeStream,
    ChangeTooLarge,
    HistoryLost,
    StreamInterrupted,
    Token,
    token_time,
    watch,
)
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.failpoints import failing, skip_unless_split, splits
from support.waiting import within

Database = AsyncDatabase[Any]


@pytest.fixture
async def alone(settings: Settings) -> AsyncIterator[Database]:
    """The test's database through a client of its own name, which faults can be aimed at."""
    async with connect(settings, "changes") as client:
        yield client[settings.database]


async def keys(stream: ChangeStream, count: int) -> list[Any]:
    """The `_id`s of the next `count` changes."""
    found: list[Any] = []
    async with within(10):
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
async def test_lost_history_differs_from_an_interruption(
    client: Client, alone: Database, settings: Settings, code: int
) -> None:
    async with watch(alone, []) as stream, failing(client, "getMore", code, app=app_name(settings, "changes")):
        with pytest.raises(HistoryLost, match=str(code)):
            await stream.read(wait=1, limit=10)


async def test_history_that_is_lost_when_the_stream_is_opened(
    client: Client, alone: Database, settings: Settings
) -> None:
    async with failing(client, "aggregate", 286, app=app_name(settings, "changes")):
        with pytest.raises(HistoryLost):
            async with watch(alone, []):
                raise AssertionError("opened")


@pytest.mark.parametrize("code", [43, 50, 234])
async def test_everything_else_is_an_interruption(
    client: Client, alone: Database, settings: Settings, code: int
) -> None:
    async with watch(alone, []) as stream, failing(client, "getMore", code, app=app_name(settings, "changes")):
        with pytest.raises(StreamInterrupted):
            await stream.read(wait=1, limit=10)


@pytest.mark.parametrize("code", [10334, 7182500])
async def test_a_change_with_too_large_images_has_an_error_of_its_own(
    client: Client, alone: Database, settings: Settings, code: int
) -> None:
    async with watch(alone, []) as stream, failing(client, "getMore", code, app=app_name(settings, "changes")):
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


# --- changes over 16 MiB ------------------------------------------------------------------------------------------


@pytest.fixture
async def large(stores: Stores) -> Database:
    """The database with a document of 15 MiB in `c`, which keeps images: every change of it is over 16 MiB."""
    await stores.data.create_collection("c", changeStreamPreAndPostImages={"enabled": True})
    await stores.data["c"].insert_one({"_id": "large", "pad": "x" * 15 * 2**20, "n": 0})
    return stores.data


async def count_up(database: Database, session: Any = None) -> None:
    """One change that has to be split, then a small one."""
    await database["c"].update_one({"_id": "large"}, {"$inc": {"n": 1}}, session=session)
    await database["c"].update_one({"_id": "small"}, {"$inc": {"n": 1}}, upsert=True, session=session)


def brief(change: RawBSONDocument) -> tuple[Any, ...]:
    before, after = change.get("fullDocumentBeforeChange"), change["fullDocument"]
    return change["documentKey"]["_id"], before["n"] if before else None, after["n"]


def token_of(change: RawBSONDocument) -> Token:
    return str(change["_id"]["_data"])


COUNTED = [("large", 0, 1), ("small", None, 1), ("large", 1, 2), ("small", 1, 2)]


@pytest.mark.parametrize("limit", [1, 3, 1000])
async def test_a_change_over_16_mib_comes_whole_and_no_token_points_into_it(large: Database, limit: int) -> None:
    await skip_unless_split(large)
    batches: list[Batch] = []
    async with watch(large, [], images=True) as stream:
        first = stream.token
        await large["c"].insert_one({"_id": "first", "n": 0})
        await count_up(large)
        await count_up(large)
        while sum(len(batch.changes) for batch in batches) < 5:
            batches.append(batch := await stream.read(wait=5, limit=limit))
            assert stream.token == batch.token >= max([first, *map(token_of, batch.changes)])
    changes = [change for batch in batches for change in batch.changes]
    assert [brief(change) for change in changes] == [("first", None, 0), *COUNTED]
    assert [len(change.raw) > 2**24 for change in changes] == [False, True, False, True, False]
    assert not any("splitEvent" in change for change in changes)
    # A read that has only brought fragments says nothing new, and there were such reads.
    said = [batch.token for batch in batches if not batch.changes]
    assert said
    assert set(said) <= {first, *map(token_of, changes)}
    for token in {first} | {batch.token for batch in batches}:
        rest = [brief(change) for change in changes if token_of(change) > token]
        async with watch(large, [], after=token, images=True) as stream:
            assert await briefs(stream, len(rest)) == rest


async def briefs(stream: ChangeStream, count: int) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    while len(found) < count:
        found += [brief(change) for change in (await stream.read(wait=5, limit=1000)).changes]
    return found


async def test_split_changes_of_a_transaction_are_its_own(client: Client, large: Database) -> None:
    await skip_unless_split(large)
    async with watch(large, [], images=True) as stream:
        async with client.start_session() as session, await session.start_transaction():
            await count_up(large, session)
            await count_up(large, session)
        changes: list[RawBSONDocument] = []
        while len(changes) < 4:
            changes += (await stream.read(wait=5, limit=1000)).changes
    assert [brief(change) for change in changes] == COUNTED
    assert len({(change["lsid"]["id"], change["txnNumber"], change["clusterTime"]) for change in changes}) == 1


async def test_a_token_of_a_split_change_is_worth_nothing_where_it_is_not_split(large: Database) -> None:
    """As after a failover to an older server: there it is repaired, not read on."""
    await skip_unless_split(large)
    async with watch(large, [], images=True) as stream:
        await large["c"].update_one({"_id": "large"}, {"$inc": {"n": 1}})
        assert await briefs(stream, 1) == COUNTED[:1]
        token = stream.token
    with pytest.raises(HistoryLost, match="280"):
        async with watch(large, [], after=token) as stream:
            await stream.read(wait=1, limit=10)


@pytest.mark.parametrize("token", ["{event}2B0204", "{head}2B7E{rest}04"], ids=["split", "later format"])
async def test_a_token_that_the_server_can_not_read_is_lost_history(stores: Stores, token: str) -> None:
    """As after a failover to an older server, which would answer the same for ever."""
    async with watch(stores.data, []) as stream:
        await stores.data["c"].insert_one({"_id": 1})
        event = (await stream.read(wait=5, limit=1)).token
    unread = token.format(event=event[:-2], head=event[:18], rest=event[22:-2])
    with pytest.raises(HistoryLost):
        async with watch(stores.data, [], after=unread) as stream:
            await stream.read(wait=1, limit=10)


async def test_a_stream_that_is_opened_in_the_middle_of_a_change_is_none(large: Database) -> None:
    await skip_unless_split(large)
    async with watch(large, [], images=True) as stream:
        await count_up(large)
        while not stream._fragments.pending:
            await stream.read(wait=5, limit=1)
        token = stream._fragments._held[0]["_id"]["_data"]
    with pytest.raises(HistoryLost, match="beginning of a change"):
        async with watch(large, [], after=token, images=True) as stream:
            await stream.read(wait=5, limit=10)


async def test_a_server_that_can_not_split_is_asked_without(
    client: Client, large: Database, alone: Database, settings: Settings
) -> None:
    """Each stream finds it out for itself: the next one may meet another member of the set, of another version."""
    able = await splits(large)
    refusing = failing(client, "aggregate", 40324, app=app_name(settings, "changes")) if able else nullcontext()
    async with refusing, watch(alone, [], images=True) as stream:
        start = stream.token
        await count_up(large)
        with pytest.raises(ChangeTooLarge, match="BSONObj size"):
            await stream.read(wait=5, limit=10)
    async with watch(alone, [], after=start) as stream:
        assert await keys(stream, 2) == ["large", "small"]
    if able:
        async with watch(alone, [], after=start, images=True) as stream:
            assert await briefs(stream, 2) == COUNTED[:2]
