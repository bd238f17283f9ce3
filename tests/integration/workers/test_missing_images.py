"""Images that a change lacks, read from the collection at the change's own time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.events import Event
from eventsync.domain.positions import LogId
from eventsync.domain.stamp import Stamp
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.client import Client
from eventsync.nodestorage import Author, NodeStorage, WritePolicy
from eventsync.settings import Settings
from eventsync.stores.log.events import LogHead
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing import log_writer
from eventsync_workers.sequencing.converter import convert
from eventsync_workers.sequencing.log_writer import LogWriter
from eventsync_workers.sequencing.missing_images import ImageReader
from support.documents import joined
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


@pytest.mark.parametrize(
    ("updates", "ops"),
    [
        ([{"$set": {"note": 5}}, {"$push": {"list": 2}}], ["replace", "update"]),
        ([{"$set": {"note": 5}}, {"$unset": {"gone": ""}}], ["replace", "update"]),
        ([{"$set": {"note": 5}}, {"$unset": {"note": ""}}, {"$inc": {"n": 1}}], ["replace", "replace", "update"]),
        ([{"$inc": {"n": 1}}, {"$unset": {"note": ""}}], ["update", "replace"]),
    ],
)
async def test_a_transaction_with_updates_of_a_field_that_stands_twice_is_exact(
    client: Client, stores: Stores, settings: Settings, updates: list[dict[str, Any]], ops: list[str]
) -> None:
    """Each event leads to the state behind its own change, not to that behind the transaction."""
    docs = stores.data["docs"]
    parts: tuple[dict[str, Any], ...] = ({"note": 1}, {"note": 2, "list": [1], "gone": 1, "n": 0})
    async with running_worker(settings):
        await began(stores, "docs")
        await docs.insert_many([joined({"_id": key}, *parts) for key in ("kept", "deleted")])
        async with client.start_session() as session, await session.start_transaction():
            await docs.insert_one(joined({"_id": "made"}, *parts), session=session)
            await docs.insert_one(joined({"_id": "never"}, *parts), session=session)
            for update in updates:
                await docs.update_many({}, update, session=session)
            await docs.delete_one({"_id": "never"}, session=session)
        replay = await assert_complete(stores, "docs")
    found = {key: [event["op"] for event in replay.events if event["id"] == key] for key in ("kept", "made", "never")}
    # A replacement right before the deletion is left out.
    deleted = ["create", *ops[: -1 if ops[-1] == "replace" else None], "delete"]
    assert found == {"kept": ["create", *ops], "made": ["create", *ops], "never": deleted}


async def test_changes_of_a_transaction_that_can_not_be_converted_are_exact(
    client: Client, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their documents are replaced; the mark of a deletion by the API still makes no event."""
    docs, storage = stores.data["docs"], NodeStorage(stores.data, stores.log["operations"], WritePolicy.of(settings))

    def broken(change: dict[str, Any], raw: bytes | None = None) -> Event | None:
        if change["operationType"] == "update":
            raise RecursionError
        return convert(change, raw)

    monkeypatch.setattr(log_writer, "convert", broken)
    async with running_worker(settings):
        await began(stores, "docs")
        await docs.insert_many([{"_id": key, "_sync": Stamp(3, "op", "by").stored()} for key in ("api", "twice")])
        await storage.delete("docs", "api", author=Author("ann", "op-9"))
        async with client.start_session() as session, await session.start_transaction():
            for number in range(2):
                await docs.update_one({"_id": "twice"}, {"$push": {"l": number}}, session=session)
        replay = await assert_complete(stores, "docs")
    assert [brief(event) for event in replay.events[2:]] == [
        ("delete", "api", 3, 4, "op-9"), ("replace", "twice", 3, 3, None), ("replace", "twice", 3, 3, None),
    ]  # fmt: skip
    assert [event.get("doc", {}).get("l") for event in replay.events[3:]] == [[0], [0, 1]]


async def test_the_rest_of_a_transaction_is_converted_like_the_whole(client: Client, stores: Stores) -> None:
    """A worker that takes over in the middle knows nothing of the changes before."""
    docs = await stores.data.create_collection("docs", changeStreamPreAndPostImages={"enabled": True})
    updates: list[dict[str, Any]] = [{"$set": {"n": 5}}, {"$push": {"l": 2}}, {"$unset": {"n": ""}}]
    changes: list[RawBSONDocument] = []
    async with watch(stores.data, [], images=True) as stream:
        async with client.start_session() as session, await session.start_transaction():
            for key in ("a", "b"):
                await docs.insert_one(joined({"_id": key, "n": 1}, {"n": 2, "l": [1]}), session=session)
            for update in updates:
                await docs.update_many({}, update, session=session)
            await docs.delete_one({"_id": "b"}, session=session)
        while len(changes) < 9:
            changes += (await stream.read(wait=1, limit=100)).changes
    log, images = LogId("k3f9ab2c"), ImageReader(stores.snapshots.live)
    whole = (await LogWriter(log, stores.events, images, None, Timestamp(1, 1)).convert([changes])).events
    assert [f"{new.event.id} {json.loads(new.event.body)['op']}" for new in whole] == [
        *("a create", "b create", "a replace", "b replace", "a update", "b update", "a replace", "b delete")
    ]
    tokens = [change["_id"]["_data"] for change in changes]
    for newest in whole[:-1]:
        head = LogHead(newest.event.seq, newest.token, newest.time, newest.event.transaction)
        rest = changes[tokens.index(newest.token) + 1 :]
        writer = LogWriter(log, stores.events, images, head, newest.time)
        assert (await writer.convert([rest])).events == whole[newest.event.seq :]


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
