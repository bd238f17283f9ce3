"""Sequencing of real change streams: the log's events, and a log that replays to the collections at every point."""

from __future__ import annotations

from datetime import UTC, datetime

from bson import DBRef, Decimal128
from bson.raw_bson import RawBSONDocument

from eventsync.domain.stamp import Stamp
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.replay import assert_complete, began, brief, caught_up, current_log, replayed
from support.systems import running_worker


async def test_writes_of_every_kind_become_events_in_commit_order(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    async with running_worker(settings):
        await began(stores, "docs")
        await docs.insert_one({"_id": "a", "n": 1, "pad": "x" * 99, "_sync": Stamp(1, "op1", "ann").stored()})
        await docs.update_one({"_id": "a"}, {"$set": {"n": 2, "_sync": Stamp(2, "op2", "bob").stored()}})
        await docs.update_one({"_id": "a"}, {"$set": {"n": 3}})
        await docs.update_one({"_id": "a"}, [{"$set": {"m": {"$add": ["$n", 1]}}}])
        await docs.update_one({"_id": "a"}, [{"$replaceWith": {"_id": "$_id", "p": 1}}])
        await docs.replace_one({"_id": "a"}, {"q": [1, {"d": datetime(1960, 1, 1, tzinfo=UTC)}]})
        await docs.delete_one({"_id": "a"})
        await docs.insert_one({"_id": "a", "ref": DBRef("docs", "a"), "dec": Decimal128("1.10")})
        replay = await assert_complete(stores, "docs")
    assert [brief(event) for event in replay.events] == [
        ("create", "a", 0, 1, "op1"),
        ("update", "a", 1, 2, "op2"),
        ("update", "a", 2, 2, None),
        ("update", "a", 2, 2, None),
        ("replace", "a", 2, 0, None),
        ("replace", "a", 0, 0, None),
        ("delete", "a", 0, 0, None),
        ("create", "a", 0, 0, None),
    ]
    assert [event.get("external", False) for event in replay.events] == [False, False, *[True] * 6]
    assert replay.events[2]["patch"] == [{"op": "replace", "path": "/n", "value": 3}]
    assert "txn" not in replay.events[0]


async def test_an_api_delete_is_one_event_and_the_document_may_come_again(
    client: Client, stores: Stores, settings: Settings
) -> None:
    docs = stores.data["docs"]
    async with running_worker(settings):
        await began(stores, "docs")
        await docs.insert_one({"_id": 1, "a": 1, "_sync": Stamp(1, "op1", "ann").stored()})
        async with client.start_session() as session, await session.start_transaction():
            marked = {"$set": {"_sync": Stamp(2, "op2", "bob", deleted=True).stored()}}
            await docs.update_one({"_id": 1, "_sync.v": 1}, marked, session=session)
            await docs.delete_one({"_id": 1}, session=session)
        await docs.insert_one({"_id": 1, "_sync": Stamp(1, "op3", "ann").stored()})
        replay = await assert_complete(stores, "docs")
    assert [brief(event) for event in replay.events] == [
        ("create", "int:1", 0, 1, "op1"),
        ("delete", "int:1", 1, 2, "op2"),
        ("create", "int:1", 0, 1, "op3"),
    ]
    assert [event["by"] for event in replay.events] == ["ann", "bob", "ann"]
    assert not any("txn" in event for event in replay.events)


async def test_a_transaction_is_marked_as_one_and_interleaved_ones_stay_apart(
    client: Client, stores: Stores, settings: Settings
) -> None:
    docs, other = stores.data["docs"], stores.data["other"]
    async with running_worker(settings):
        await began(stores, "docs", "other")
        async with client.start_session() as one, client.start_session() as two:
            await one.start_transaction()
            await two.start_transaction()
            for number in range(3):
                await docs.insert_one({"_id": f"one-{number}"}, session=one)
                await other.insert_one({"_id": f"two-{number}"}, session=two)
                await docs.insert_one({"_id": f"alone-{number}"})
            await two.commit_transaction()
            await one.commit_transaction()
        async with client.start_session() as session, await session.start_transaction():
            await docs.insert_one({"_id": "single"}, session=session)
        async with client.start_session() as session, await session.start_transaction():
            await docs.update_one({"_id": "single"}, {"$set": {"a": 1}}, session=session)
            await other.insert_one({"_id": "x"}, session=session)
            await docs.update_one({"_id": "single"}, {"$set": {"a": 2}}, session=session)
        replay = await assert_complete(stores, "docs", "other")
    marks = [(event["id"], event["txn"]["n"], event["txn"]["of"]) for event in replay.events if "txn" in event]
    assert marks == [
        *((f"two-{n}", n + 1, 3) for n in range(3)),
        *((f"one-{n}", n + 1, 3) for n in range(3)),
        ("single", 1, 3),
        ("x", 2, 3),
        ("single", 3, 3),
    ]
    assert len({event["txn"]["id"] for event in replay.events if "txn" in event}) == 3
    assert [event["id"] for event in replay.events[:3]] == ["alone-0", "alone-1", "alone-2"]


async def test_a_transaction_larger_than_a_batch_stays_whole(
    client: Client, stores: Stores, settings: Settings
) -> None:
    small = settings.model_copy(update={"stream_batch": 7})
    async with running_worker(small):
        await began(stores, "docs")
        for round_ in range(3):
            async with client.start_session() as session, await session.start_transaction():
                await stores.data["docs"].insert_many([{"_id": round_ * 100 + n} for n in range(50)], session=session)
        replay = await assert_complete(stores, "docs")
    assert [event["txn"]["n"] for event in replay.events] == list(range(1, 51)) * 3


async def test_undecodable_changes_do_not_stop_the_stream(stores: Stores, settings: Settings) -> None:
    def raw(*elements: bytes) -> RawBSONDocument:
        body = b"".join(elements)
        return RawBSONDocument((len(body) + 5).to_bytes(4, "little") + body + b"\0")

    text = raw(b"\x10_id\0\1\0\0\0", b"\x02s\0\2\0\0\0\xff\0")
    short_uuid = raw(b"\x10_id\0\2\0\0\0", b"\x05u\0\3\0\0\0\x04abc")
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data.command({"insert": "docs", "documents": [text, short_uuid]})
        await stores.data["docs"].update_many({}, {"$set": {"a": 1}})
        await stores.data["docs"].delete_many({"_id": 1})
        replay = await replayed(stores, await caught_up(stores))
    assert [(event["op"], event["id"]) for event in replay.events] == [
        ("create", "int:1"), ("create", "int:2"), ("update", "int:1"), ("update", "int:2"), ("delete", "int:1"),
    ]  # fmt: skip
    assert replay.events[0]["doc"] == {"_id": 1, "s": "\ufffd"}
    assert await current_log(stores) == log
