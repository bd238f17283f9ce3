"""The worker on real change streams: which events the log gets, and that it is the collections at every point."""

from __future__ import annotations

import asyncio
import os
import random
import re
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from bson import DBRef, Decimal128, Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from app.domain.event import Group
from app.domain.position import LogId, Seq
from app.domain.shape import Shape
from app.domain.stamp import Stamp
from app.errors import ConfigurationError
from app.settings import Settings
from app.stores.changes import watch
from app.stores.logs import cluster_identity
from app.stores.mongodb import Client
from app.stores.stores import SEQUENCING, Stores
from support.failpoints import failing
from support.load import under_load
from support.replay import Replay, assert_complete, caught_up, current_log, eventually, new_log, replayed, tracked
from support.systems import running_worker
from support.writes import random_writes
from workers.sequencer import Sequencer
from workers.worker import Worker

Event = dict[str, Any]


def brief(event: Event) -> tuple[Any, ...]:
    """What an event says of one change."""
    return event["op"], event["id"], event["base"], event["version"], event.get("op_id")


async def began(stores: Stores, *names: str) -> LogId:
    """Ask for collections, and wait until they are tracked."""
    await stores.tracking.ask(names)
    return await tracked(stores, *names)


# --- what becomes of writes ---------------------------------------------------------------------------------------


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


async def test_a_transaction_larger_than_a_batch_is_one(client: Client, stores: Stores, settings: Settings) -> None:
    small = settings.model_copy(update={"stream_batch": 7})
    async with running_worker(small):
        await began(stores, "docs")
        for round_ in range(3):
            async with client.start_session() as session, await session.start_transaction():
                await stores.data["docs"].insert_many([{"_id": round_ * 100 + n} for n in range(50)], session=session)
        replay = await assert_complete(stores, "docs")
    assert [event["txn"]["n"] for event in replay.events] == list(range(1, 51)) * 3


# --- tracking -----------------------------------------------------------------------------------------------------


async def test_a_collection_is_tracked_at_run_time_from_a_point_on(stores: Stores, settings: Settings) -> None:
    early, late = stores.data["early"], stores.data["late"]
    await late.insert_many([{"_id": n, "a": 0} for n in range(5)])
    async with running_worker(settings):
        log = await began(stores, "early")
        await early.insert_one({"_id": 1})
        await late.update_one({"_id": 0}, {"$set": {"a": 1}})
        await caught_up(stores)
        assert await began(stores, "late") == log
        base = next(item.base for item in await stores.tracking.read() if item.name == "late")
        assert base == 1
        await late.update_one({"_id": 1}, {"$set": {"a": 2}})
        await late.delete_one({"_id": 2})
        await early.insert_one({"_id": 2})
        await caught_up(stores)
        events = [event async for event in stores.events.read(log, Seq(0), Seq(99))]
    assert [(event.seq, event.collection, event.id) for event in events] == [
        (1, "early", "int:1"),
        (2, "late", "int:1"),
        (3, "late", "int:2"),
        (4, "early", "int:2"),
    ]


async def test_what_is_untracked_is_sequenced_no_longer(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs", "others")
        await stores.data["others"].insert_one({"_id": 1})
        before = (await replayed(stores, await caught_up(stores))).seq
        await stores.tracking.forget(["others"])
        await stores.data["docs"].insert_one({"_id": 1})

        async def reopened() -> bool | None:
            # Other changes are still in the stream until it is opened anew.
            await stores.data["others"].insert_one({})
            seen = (await replayed(stores, await caught_up(stores))).seq
            await stores.data["others"].insert_one({})
            return True if (await replayed(stores, await caught_up(stores))).seq == seen else None

        await eventually(stores, "heads", reopened)
        await stores.tracking.ask(["others"])
        await tracked(stores, "docs", "others")
        base = next(item.base for item in await stores.tracking.read() if item.name == "others")
        await stores.data["others"].insert_one({"_id": 2})
        events = (await replayed(stores, await caught_up(stores))).events
    assert await current_log(stores) == log
    assert base > before
    assert [event["id"] for event in events if event["seq"] > base] == ["int:2"]


async def test_tracking_under_load_misses_nothing(stores: Stores, settings: Settings) -> None:
    rng = random.Random(3)
    names = [f"c{n}" for n in range(5)]

    async def write() -> None:
        await stores.data[rng.choice(names)].update_one({"_id": rng.randrange(9)}, {"$inc": {"n": 1}}, upsert=True)

    async with running_worker(settings):
        async with under_load(write, write) as load:
            bases: dict[str, Replay] = {}
            for name in names:
                log = await began(stores, name)
                await load.wait(20)
                bases[name] = await snapshot(stores, log, name)
            await load.wait(50)
        log = await caught_up(stores)
        for name in names:
            shape_events = [event async for event in stores.events.read(log, Seq(0), Seq(2**31))]
            rows = bases[name].of(name)
            for event in shape_events:
                if event.collection == name and event.seq > bases[name].seq:
                    one = Replay(seq=event.seq - 1, rows={(name, key): row for key, row in rows.items()})
                    one.take(event)
                    rows = one.of(name)
            assert {document["_id"]: document["n"] for _, document in rows.values()} == {
                document["_id"]: document["n"] async for document in stores.data[name].find()
            }


async def snapshot(stores: Stores, log: LogId, name: str) -> Replay:
    async with stores.snapshots.open(log, Shape(name)) as taken:
        replay = Replay(seq=taken.position.seq)
        async for document in taken.documents:
            row = orjson.loads(document.row)
            replay.rows[name, document.id] = row["version"], row["doc"]
    return replay


async def test_a_change_at_the_very_time_of_a_checkpoint_is_not_sequenced_again(
    stores: Stores, settings: Settings
) -> None:
    """A high-water mark stands before the changes of its time: with a collection more, the stream brings them again."""
    await stores.ensure_indexes()
    identity = await cluster_identity(stores.data)
    async with watch(stores.data, [{"$match": {"ns.coll": "nothing"}}]) as stream:
        await stores.data["docs"].insert_one({"_id": "before"})
        written = (await stores.data.command("ping"))["operationTime"]
        batch = await stream.read(wait=0.05, limit=10)
        while batch.time < written:
            batch = await stream.read(wait=0.05, limit=10)
    assert batch.time == written
    log = await stores.logs.begin(None, cluster=identity, reason="test", token=batch.token, time=batch.time)
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], log.id, Seq(0))
    async with running_worker(settings):
        await stores.data["docs"].insert_one({"_id": "after"})
        replay = await replayed(stores, await caught_up(stores))
    assert [event["id"] for event in replay.events] == ["after"]


@pytest.mark.parametrize("name", ["with space", "a.b.c", "größe", "events", "%2F", "x" * 120])
async def test_collections_of_any_name(stores: Stores, settings: Settings, name: str) -> None:
    async with running_worker(settings):
        await began(stores, name)
        await stores.data[name].insert_one({"_id": 1})
        replay = await assert_complete(stores, name)
    assert [event["collection"] for event in replay.events] == [name]


async def test_a_capped_collection_that_runs_over_deletes(stores: Stores, settings: Settings) -> None:
    await stores.data.create_collection("docs", capped=True, size=100_000, max=3)
    async with running_worker(settings):
        await began(stores, "docs")
        for number in range(5):
            await stores.data["docs"].insert_one({"_id": number})
        replay = await assert_complete(stores, "docs")
    assert [event["id"] for event in replay.events if event["op"] == "delete"] == ["int:0", "int:1"]


async def test_what_cannot_be_tracked_is_said_and_stops_nobody_else(
    stores: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await stores.data.create_collection("view", viewOn="docs", pipeline=[])
    await stores.data.create_collection("series", timeseries={"timeField": "t"})
    async with running_worker(settings.model_copy(update={"collections": ("view", "docs", "series")})):
        await tracked(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await assert_complete(stores, "docs")
        reasons = {item.name: item.refused for item in await stores.tracking.read()}
        assert reasons == {
            "docs": None,
            "series": "it is a timeseries, which has no changes of its own",
            "view": "it is a view, which has no changes of its own",
        }
        await stores.data.drop_collection("view")
        await tracked(stores, "docs", "view")
        assert {item.name for item in await stores.tracking.read() if item.refused} == {"series"}
    assert [line for line in caplog.messages if line.startswith("view can't be tracked")] == [
        "view can't be tracked: it is a view, which has no changes of its own"
    ]


async def test_a_name_that_mongodb_refuses_stops_nobody_else(stores: Stores, settings: Settings) -> None:
    await stores.log["collections"].insert_many([{"_id": "bad$name"}, {"_id": "x" * 250}])
    async with running_worker(settings):
        await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await assert_complete(stores, "docs")
        assert len([item for item in await stores.tracking.read() if item.refused]) == 2


async def test_settings_that_name_an_impossible_collection(settings: Settings) -> None:
    worker = Worker(settings.model_copy(update={"collections": ("system.users",)}), asyncio.Event())
    with pytest.raises(ConfigurationError, match=r"system\.users"):
        await worker.run()


# --- states that the change does not carry ------------------------------------------------------------------------


async def test_without_images_the_states_are_read_from_the_collection(
    client: Client, stores: Stores, settings: Settings
) -> None:
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


async def test_images_that_somebody_switches_off_are_switched_on_again(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    async with running_worker(settings):
        await began(stores, "docs")
        await docs.insert_one({"_id": 1, "a": 0, "long": "x" * 200})
        await stores.data.command({"collMod": "docs", "changeStreamPreAndPostImages": {"enabled": False}})
        await docs.update_one({"_id": 1}, {"$set": {"a": 1}})
        await docs.update_one({"_id": 1}, {"$set": {"a": 2}})
        replay = await assert_complete(stores, "docs")
    assert [event["op"] for event in replay.events] == ["create", "replace", "replace"]
    async with running_worker(settings):
        await docs.update_one({"_id": 1}, {"$set": {"a": 3}})
        await assert_complete(stores, "docs")
        options = await (await stores.data.list_collections(filter={"name": "docs"})).to_list()
    assert options[0]["options"]["changeStreamPreAndPostImages"] == {"enabled": True}


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


async def test_a_document_that_is_larger_as_json_than_mongodb_may_hold(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "bytes": os.urandom(13_000_000)})
        await stores.data["docs"].insert_one({"_id": 2})
        await assert_complete(stores, "docs")


async def test_an_event_that_no_log_can_hold_begins_a_new_one(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "bytes": os.urandom(16_777_150)})
        await new_log(stores, log)
        await tracked(stores, "docs")
        current = await stores.logs.current()
    assert current is not None
    assert "can't hold an event" in current.reason


async def test_what_the_driver_cannot_decode_does_not_stop_the_stream(stores: Stores, settings: Settings) -> None:
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


# --- where the log can't go on ------------------------------------------------------------------------------------


async def lose_the_checkpoint(stores: Stores) -> None:
    await stores.log["heads"].delete_many({})


async def lose_the_events(stores: Stores) -> None:
    await stores.log["events"].delete_many({})


async def come_from_another_cluster(stores: Stores) -> None:
    await stores.log["logs"].update_many({}, {"$set": {"cluster": "another"}})


async def come_from_the_future(stores: Stores) -> None:
    future = {"token": "82FFFFFFFF000000012B0229296E04", "time": Timestamp(2**32 - 1, 1), "seq": Int64(1)}
    await stores.log["heads"].update_many({}, {"$set": future})


LOSSES: list[tuple[Any, str]] = [
    (lose_the_checkpoint, "lost its checkpoint"),
    (lose_the_events, "lost its events 1 to 1"),
    (come_from_another_cluster, "belongs to another"),
    (come_from_the_future, "ahead of MongoDB"),
]


@pytest.mark.parametrize(("lose", "reason"), LOSSES, ids=[lose.__name__ for lose, _ in LOSSES])
async def test_where_the_log_cannot_go_on_a_new_one_begins(
    stores: Stores, settings: Settings, lose: Any, reason: str
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await caught_up(stores)
    await lose(stores)
    async with running_worker(settings):
        await new_log(stores, log)
        new = await tracked(stores, "docs")
        await stores.data["docs"].delete_many({})
        base = await snapshot(stores, await caught_up(stores), "docs")
        await stores.data["docs"].insert_one({"_id": 3})
        replay = await replayed(stores, await caught_up(stores), base)
    assert new != log
    found = await stores.logs.current()
    assert found is not None
    assert found.number == 2
    assert re.search(reason, found.reason), found.reason
    assert list(replay.of("docs")) == ["int:3"]


async def test_a_new_log_begins_when_somebody_asks_for_it(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.logs.request_reset("by hand")
        await new_log(stores, log)
        await tracked(stores, "docs")
        found = await stores.logs.current()
    assert found is not None
    assert (found.number, found.reason, found.reset) == (2, "by hand", None)


@pytest.mark.parametrize(("command", "code"), [("getMore", 43), ("insert", 50), ("update", 112)])
async def test_an_interruption_is_only_that(
    client: Client, stores: Stores, settings: Settings, command: str, code: int
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        async with failing(client, command, code, app="eventsync-worker", times=2):
            for number in range(20):
                await stores.data["docs"].insert_one({"_id": number})
            replay = await assert_complete(stores, "docs")
    assert replay.seq == 20
    assert await current_log(stores) == log


# --- idle, stopping, going on -------------------------------------------------------------------------------------


async def test_an_idle_stream_keeps_its_checkpoint_moving(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings.model_copy(update={"stream_wait": 0.05})):
        log = await began(stores, "docs")
        times: set[Timestamp] = set()

        async def moving() -> bool | None:
            checkpoint = await stores.logs.read_checkpoint(log)
            assert checkpoint is not None
            assert checkpoint.seq == 0
            times.add(checkpoint.time)
            return len(times) > 3 or None

        assert await eventually(stores, "heads", moving)


async def test_a_worker_that_stops_gives_the_lease_back_at_once(stores: Stores, settings: Settings) -> None:
    slow = settings.model_copy(update={"lease_period": 600.0})
    async with running_worker(slow):
        await began(stores, "docs")
    lease = await stores.leases.read(SEQUENCING)
    assert lease is not None
    assert not lease.live
    await stores.data["docs"].insert_one({"_id": 1})
    async with running_worker(slow):
        await assert_complete(stores, "docs")


async def test_workers_that_come_and_go_under_load_lose_and_double_nothing(
    client: Client, stores: Stores, settings: Settings
) -> None:
    async with running_worker(settings):
        await began(stores, "docs")
    async with under_load(*(random_writes(client, settings.database, "docs", seed) for seed in range(3))) as load:
        for _ in range(8):
            async with running_worker(settings):
                await load.wait(30)
    async with running_worker(settings):
        replay = await assert_complete(stores, "docs")
    assert replay.seq > 240
    assert await current_log(stores) == await current_log(stores)
    assert (await stores.logs.current()).number == 1  # type: ignore[union-attr]


async def test_a_lease_that_comes_back_loses_nothing(client: Client, stores: Stores, settings: Settings) -> None:
    """A sequencer that is told to stop now and then, in mid-transaction above all, and the next moment is not."""
    rng, over = random.Random(1), asyncio.Event()

    def stopping() -> bool:
        return over.is_set() or rng.random() < 0.15

    async def lead() -> None:
        while not over.is_set():
            await Sequencer(stores, settings.model_copy(update={"stream_batch": 3})).lead(stopping)

    await stores.ensure_indexes()
    await stores.tracking.ask(["docs"])
    async with asyncio.TaskGroup() as group:
        group.create_task(lead())
        try:
            await tracked(stores, "docs")
            async with under_load(
                random_writes(client, settings.database, "docs", 1), random_writes(client, settings.database, "docs", 2)
            ) as load:
                await load.wait(60)
            replay = await assert_complete(stores, "docs")
        finally:
            over.set()
    assert any(event.get("txn", {}).get("of", 0) > 3 for event in replay.events)


async def test_the_rest_of_a_transaction_that_was_half_appended_completes_it(
    client: Client, stores: Stores, settings: Settings
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        async with client.start_session() as session, await session.start_transaction():
            await stores.data["docs"].insert_many([{"_id": n} for n in range(6)], session=session)
        before = [event async for event in stores.events.read(await caught_up(stores), Seq(0), Seq(99))]
    # What a sequencer leaves that dies inside the insert: a prefix, and no checkpoint behind it.
    await stores.log["events"].delete_many({"_id.n": {"$gt": 2}})
    await stores.log["heads"].update_one({"_id": log}, {"$set": {"seq": Int64(0), "time": Timestamp(1, 1)}})
    async with running_worker(settings):
        await assert_complete(stores, "docs")
        after = [event async for event in stores.events.read(log, Seq(0), Seq(99))]
    assert after == before
    assert [event.group for event in after] == [Group(before[0].group.id, n, 6) for n in range(1, 7)]  # type: ignore[union-attr]
