"""Images that a change lacks, read from the collection at the change's own time."""

from __future__ import annotations

import pytest

from eventsync.domain.stamp import Stamp
from eventsync.mongodb.client import Client
from eventsync.nodestorage import Author, NodeStorage, WritePolicy
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.replay import assert_complete, began, brief, caught_up, replayed, snapshot
from support.systems import running_worker


async def test_missing_images_are_read_from_the_collection(client: Client, stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": n, "n": 0, "l": [], "_sync": Stamp(3, "op", "by").stored()} for n in range(5)])
    async with running_worker(settings.model_copy(update={"images": False})):
        log = await began(stores, "docs")
        base = await snapshot(stores, log, "docs")
        for number in range(20):
            await docs.update_one({"_id": number % 5}, {"$inc": {"n": 1}, "$push": {"l": number}})
        await docs.update_one({"_id": 0}, {"$set": {"_sync": Stamp(4, "op4", "by").stored()}})
        await docs.replace_one({"_id": 1}, {"r": 1})
        await docs.delete_one({"_id": 2})
        await docs.insert_one({"_id": 2, "again": True})
        async with client.start_session() as session, await session.start_transaction():
            await docs.update_one({"_id": 3}, {"$set": {"a": 1}}, session=session)
            await docs.update_one({"_id": 4}, {"$set": {"a": 1}}, session=session)
            await docs.update_one({"_id": 3}, {"$set": {"a": 2}}, session=session)
        replay = await replayed(stores, await caught_up(stores), base)
        options = await (await stores.data.list_collections(filter={"name": "docs"})).to_list()
    assert "changeStreamPreAndPostImages" not in options[0]["options"]
    assert {row["_id"]: row for _, row in replay.of("docs").values()} == {
        document["_id"]: document async for document in docs.find({}, {"_sync": 0})
    }
    assert [brief(event) for event in replay.events if event["id"] == "int:0"][-1] == ("replace", "int:0", 3, 4, "op4")


async def test_a_transaction_without_images_is_collapsed(client: Client, stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    storage = NodeStorage(stores.data, stores.log["operations"], WritePolicy.of(settings))
    await docs.insert_many([{"_id": key, "_sync": Stamp(3, "op", "by").stored()} for key in ("api", "twice")])
    async with running_worker(settings.model_copy(update={"images": False})):
        log = await began(stores, "docs")
        base = await snapshot(stores, log, "docs")
        await storage.delete("docs", "api", author=Author("ann", "op-9"))
        async with client.start_session() as session, await session.start_transaction():
            await docs.insert_one({"_id": "made"}, session=session)
            await docs.update_one({"_id": "made"}, {"$set": {"a": 1}}, session=session)
            await docs.insert_one({"_id": "never"}, session=session)
            await docs.delete_one({"_id": "never"}, session=session)
            await docs.update_one({"_id": "twice"}, {"$set": {"a": 1}}, session=session)
            await docs.delete_one({"_id": "twice"}, session=session)
        replay = await replayed(stores, await caught_up(stores), base)
    assert [brief(event) for event in replay.events] == [
        ("delete", "api", 3, 4, "op-9"), ("create", "made", 0, 0, None),
        ("delete", "twice", 3, 3, None),
    ]  # fmt: skip


async def test_disabled_images_are_enabled_again(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    async with running_worker(settings):
        await began(stores, "docs")
        await docs.insert_one({"_id": 1, "a": 0, "long": "x" * 200})
        await stores.data.command({"collMod": "docs", "changeStreamPreAndPostImages": {"enabled": False}})
        await docs.update_one({"_id": 1}, {"$set": {"a": 1}})
        await docs.update_one({"_id": 1}, {"$set": {"a": 2}})
        replay = await assert_complete(stores, "docs")
    ops = [event["op"] for event in replay.events]
    assert ops[:2] == ["create", "replace"]
    # A worker that is quick has the images on again before the second one.
    assert ops[2:] in (["replace"], ["update"])
    async with running_worker(settings):
        await docs.update_one({"_id": 1}, {"$set": {"a": 3}})
        await assert_complete(stores, "docs")
        options = await (await stores.data.list_collections(filter={"name": "docs"})).to_list()
    assert options[0]["options"]["changeStreamPreAndPostImages"] == {"enabled": True}


@pytest.mark.slow
async def test_a_change_whose_images_are_too_large_does_not_stop_the_stream(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    async with running_worker(settings):
        await began(stores, "docs")
        await docs.insert_one({"_id": "big", "a": "x" * 9_000_000, "n": 0})
        for number in range(2):
            await docs.update_one({"_id": "small"}, {"$set": {"n": number}}, upsert=True)
            await docs.update_one({"_id": "big"}, {"$inc": {"n": 1}})
        await docs.update_one({"_id": "small"}, {"$set": {"n": 9}})
        replay = await assert_complete(stores, "docs")
    assert [event["id"] for event in replay.events] == ["big", "small", "big", "small", "big", "small"]
    assert (await stores.logs.current()).number == 1  # type: ignore[union-attr]
