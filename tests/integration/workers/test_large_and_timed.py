"""Large transactions, and changes that MongoDB makes by itself."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from bson import Int64

from eventsync.mongodb import change_stream
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.failpoints import skip_unless_split
from support.replay import assert_complete, current_log, eventually, tracked
from support.systems import running_worker


async def test_a_transaction_of_a_thousand_documents_stays_whole(
    client: Client, stores: Stores, settings: Settings
) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        async with client.start_session() as session, await session.start_transaction():
            await stores.data["docs"].insert_many([{"_id": n, "n": 0} for n in range(1000)], session=session)
            await stores.data["docs"].update_many({"_id": {"$lt": 10}}, {"$inc": {"n": 1}}, session=session)
        replay = await assert_complete(stores, "docs")
    assert [event["txn"]["n"] for event in replay.events] == list(range(1, 1011))
    assert {event["txn"]["of"] for event in replay.events} == {1010}


@pytest.mark.slow
async def test_a_transaction_over_16_mib_stays_whole(client: Client, stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        async with client.start_session() as session, await session.start_transaction():
            for number in range(4):
                await stores.data["docs"].insert_one({"_id": number, "a": "x" * 6_000_000}, session=session)
        replay = await assert_complete(stores, "docs")
    assert [(event["txn"]["n"], event["txn"]["of"]) for event in replay.events] == [(n, 4) for n in range(1, 5)]


async def write_large(client: Client, stores: Stores) -> None:
    """Changes of a document of 15 MiB, by itself and in a transaction, between small ones."""
    docs = stores.data["docs"]
    await docs.insert_one({"_id": "large", "pad": "x" * 15 * 2**20, "n": 0, "l": [[1]]})
    await docs.update_one({"_id": "small"}, {"$set": {"n": 0}}, upsert=True)
    await docs.update_one({"_id": "large"}, {"$set": {"n": Int64(0), "a": 1}})
    async with client.start_session() as session, await session.start_transaction():
        await docs.update_one({"_id": "large"}, {"$push": {"l.0": 2}}, session=session)
        await docs.update_one({"_id": "small"}, {"$set": {"n": 1}}, session=session)
        await docs.update_one({"_id": "large"}, {"$unset": {"a": ""}}, session=session)
    await docs.update_one({"_id": "large"}, {"$set": {"pad": "y" * 15 * 2**20}})
    await docs.replace_one({"_id": "large"}, {"pad": "z" * 15 * 2**20})
    await docs.delete_one({"_id": "large"})
    await docs.update_one({"_id": "small"}, {"$set": {"n": 2}})


IDS = ["large", "small", "large", "large", "small", "large", "large", "large", "large", "small"]


@pytest.mark.parametrize("batch", [1, 1000])
async def test_a_large_document_is_updated_by_patches(
    client: Client, stores: Stores, settings: Settings, batch: int
) -> None:
    await skip_unless_split(stores.data)
    async with running_worker(settings.model_copy(update={"stream_batch": batch})):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await write_large(client, stores)
        replay = await assert_complete(stores, "docs")
        assert await current_log(stores) == log
    assert [event["id"] for event in replay.events] == IDS
    assert [event["op"] for event in replay.events] == [
        "create", "create", "update", "update", "update", "update", "update", "replace", "delete", "update",
    ]  # fmt: skip
    paths = [[operation["path"] for operation in event.get("patch", ())] for event in replay.events]
    assert paths[2:7] == [["/n", "/a"], ["/l/0/1"], ["/n"], ["/a"], ["/pad"]]
    assert [event["txn"]["n"] for event in replay.events if "txn" in event] == [1, 2, 3]


@pytest.mark.slow
async def test_a_large_change_that_can_not_be_split_replaces_its_document(
    client: Client, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on every MongoDB before 6.0.9. Newer ones are asked for a stage that they don't know either."""
    monkeypatch.setattr(change_stream, "_SPLIT", {"$changeStreamSplitNothing": {}})
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await write_large(client, stores)
        replay = await assert_complete(stores, "docs")
        assert await current_log(stores) == log
    # One event describes what the transaction did to it.
    assert [event["id"] for event in replay.events] == [*IDS[:3], *IDS[4:]]
    large = [event["op"] for event in replay.events if event["id"] == "large"]
    assert large == ["create", "replace", "replace", "replace", "replace", "delete"]


@pytest.mark.slow
async def test_a_large_change_right_behind_a_transaction_of_several_reads(
    client: Client, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction's end is known only by what follows, which can't be read: all of it is read again, one by one."""
    monkeypatch.setattr(change_stream, "_SPLIT", {"$changeStreamSplitNothing": {}})
    small = settings.model_copy(update={"stream_batch": 10})
    async with running_worker(small):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await stores.data["docs"].insert_one({"_id": "large", "pad": "x" * 15 * 2**20})
        await assert_complete(stores, "docs")
    async with client.start_session() as session, await session.start_transaction():
        await stores.data["docs"].insert_many([{"_id": n} for n in range(25)], session=session)
    await stores.data["docs"].update_one({"_id": "large"}, {"$set": {"n": 1}})
    async with running_worker(small):
        replay = await assert_complete(stores, "docs")
    assert await current_log(stores) == log
    assert [event["op"] for event in replay.events] == ["create"] * 26 + ["replace"]
    assert {event["txn"]["of"] for event in replay.events[1:26]} == {25}


async def test_an_expired_document_is_deleted(client: Client, stores: Stores, settings: Settings) -> None:
    found = await client["admin"].command({"getParameter": 1, "ttlMonitorSleepSecs": 1})
    if found["ttlMonitorSleepSecs"] > 5:
        pytest.skip("this MongoDB looks for expired documents once a minute only")
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await stores.data["docs"].insert_many([{"_id": 1, "until": datetime(2020, 1, 1, tzinfo=UTC)}, {"_id": 2}])
        await stores.data["docs"].create_index("until", expireAfterSeconds=0)

        async def expired() -> bool | None:
            return None if await stores.data["docs"].find_one({"_id": 1}) else True

        await eventually(stores, "heads", expired)
        replay = await assert_complete(stores, "docs")
    assert [(event["op"], event["id"]) for event in replay.events][-1] == ("delete", "int:1")
    assert replay.events[-1]["external"]
