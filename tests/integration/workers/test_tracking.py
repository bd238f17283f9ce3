"""Tracking: from which point on a collection is tracked, and which ones can't be."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from unittest.mock import AsyncMock

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.positions import Seq
from eventsync.errors import ConfigurationError, Unavailable
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.clocks import cluster_time
from eventsync.settings import Settings
from eventsync.stores.log.logs import cluster_identity
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.snapshotter import Snapshotter
from eventsync_workers.sequencing.activation import ActiveCollections
from eventsync_workers.sequencing.log_writer import LogWriter
from eventsync_workers.worker import Worker
from support.load import under_load
from support.replay import (
    Replay,
    assert_complete,
    began,
    caught_up,
    current_log,
    eventually,
    logged,
    replayed,
    snapshot,
    tracked,
)
from support.systems import running_worker


async def test_a_collection_is_tracked_at_run_time_from_a_point_on(stores: Stores, settings: Settings) -> None:
    early, late = stores.data["early"], stores.data["late"]
    await late.insert_many([{"_id": n, "a": 0} for n in range(5)])
    async with running_worker(settings):
        log = await began(stores, "early")
        await early.insert_one({"_id": 1})
        await late.update_one({"_id": 0}, {"$set": {"a": 1}})
        await caught_up(stores)
        assert await began(stores, "late") == log
        base = next(item.tracked_from for item in await stores.tracking.read() if item.name == "late")
        assert base == 1
        await late.update_one({"_id": 1}, {"$set": {"a": 2}})
        await late.delete_one({"_id": 2})
        await early.insert_one({"_id": 2})
        await caught_up(stores)
        events = [event async for event in stores.events.read(log, Seq(0))]
    assert [(event.seq, event.collection, event.id) for event in events] == [
        (1, "early", "int:1"),
        (2, "late", "int:1"),
        (3, "late", "int:2"),
        (4, "early", "int:2"),
    ]


async def test_an_untracked_collection_is_no_longer_sequenced(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs", "others")
        await stores.data["others"].insert_one({"_id": 1})
        before = (await replayed(stores, await caught_up(stores))).seq
        await stores.tracking.forget(["others"])
        await stores.data["docs"].insert_one({"_id": 1})

        async def reopened() -> bool | None:
            # Other changes are still in the stream until it is opened again.
            await stores.data["others"].insert_one({})
            seen = (await replayed(stores, await caught_up(stores))).seq
            await stores.data["others"].insert_one({})
            return True if (await replayed(stores, await caught_up(stores))).seq == seen else None

        await eventually(stores, "heads", reopened)
        await stores.tracking.ask(["others"])
        await tracked(stores, "docs", "others")
        base = next(item.tracked_from for item in await stores.tracking.read() if item.name == "others")
        await stores.data["others"].insert_one({"_id": 2})
        events = (await replayed(stores, await caught_up(stores))).events
    assert await current_log(stores) == log
    assert base > before
    assert [event["id"] for event in events if event["seq"] > base] == ["int:2"]


async def drop(stores: Stores) -> None:
    await stores.data["late"].drop()


async def rename_away(stores: Stores) -> None:
    await stores.data["late"].rename("elsewhere")


async def rename_onto(stores: Stores) -> None:
    await stores.data["elsewhere"].insert_one({})
    await stores.data["elsewhere"].rename("late", dropTarget=True)


@pytest.mark.parametrize("remove", [drop, rename_away, rename_onto])
async def test_untracked_collection_without_a_snapshot_is_removed_without_effect_on_others(
    stores: Stores,
    settings: Settings,
    remove: Callable[[Stores], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its changes are still in the stream, and no snapshot says which documents to delete."""
    caplog.set_level(logging.INFO)
    async with running_worker(settings):
        log = await began(stores, "docs")
        monkeypatch.setattr(Snapshotter, "run_once", AsyncMock())
        await stores.data["late"].insert_one({"_id": 1})
        await began(stores, "late")
        await logged(caplog, stores, f"log {log}: sequencing docs, late from 0")
        # No registry check comes between, after which the stream would be opened again without the collection.
        monkeypatch.setattr(ActiveCollections, "check_registry", AsyncMock())
        await stores.tracking.forget(["late"])
        await remove(stores)
        await caught_up(stores)
        monkeypatch.undo()
        await logged(caplog, stores, f"log {log}: late is no longer tracked: it was untracked")
        await stores.data["docs"].insert_one({"_id": 1})
        replay = await assert_complete(stores, "docs")
        found = await stores.data.list_collection_names()
    assert [event["collection"] for event in replay.events] == ["docs"]
    assert await current_log(stores) == log
    # The worker makes a tracked collection again, and no other one.
    assert ("late" in found) is (remove is rename_onto)


async def test_collection_that_is_removed_as_soon_as_it_is_untracked_causes_no_repair(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next stream has no changes of the collection, so MongoDB would not find the removal to begin behind it."""
    caplog.set_level(logging.INFO)
    check = ActiveCollections.check_registry

    async def check_and_drop(self: ActiveCollections) -> None:
        await check(self)
        if self.pending is not None and self.pending.has_dropped:
            await stores.data["late"].drop()
            # The stream with the collection is read up to the removal, however late MongoDB shows that.
            self.pending = replace(self.pending, time=await cluster_time(stores.data))

    # From the beginning: a check that is under way must not find the collection untracked.
    monkeypatch.setattr(ActiveCollections, "check_registry", check_and_drop)
    async with running_worker(settings):
        log = await began(stores, "docs", "late")
        await stores.data["late"].insert_one({"_id": 1})
        await caught_up(stores)
        await stores.tracking.forget(["late"])
        await logged(caplog, stores, f"log {log}: sequencing docs from 1")
        await stores.data["docs"].insert_one({"_id": 1})
        await assert_complete(stores, "docs")
    assert f"log {log}: drop of late" in caplog.text
    assert "history is lost" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("has_pauses", [True, False])
async def test_tracking_under_load_misses_nothing(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, has_pauses: bool
) -> None:
    """Under a steady load there may be no batch without changes, behind which a collection could become active."""
    rng = random.Random(3)
    names = [f"c{n}" for n in range(5)]
    settles = LogWriter.settles
    monkeypatch.setattr(
        LogWriter, "settles", lambda writer, batch: (has_pauses or writer.seq == 0) and settles(writer, batch)
    )

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
        monkeypatch.undo()
        log = await caught_up(stores)
        for name in names:
            shape_events = [event async for event in stores.events.read(log, Seq(0))]
            rows = bases[name].of(name)
            for event in shape_events:
                if event.collection == name and event.seq > bases[name].seq:
                    one = Replay(seq=event.seq - 1, rows={(name, key): row for key, row in rows.items()})
                    one.take(event)
                    rows = one.of(name)
            assert {document["_id"]: document["n"] for _, document in rows.values()} == {
                document["_id"]: document["n"] async for document in stores.data[name].find()
            }


async def test_a_change_at_the_very_time_of_a_checkpoint_is_not_sequenced_again(
    stores: Stores, settings: Settings
) -> None:
    """A high-water mark stands before the changes of its time: with a collection more, the stream brings them again."""
    await stores.ensure_indexes()
    identity = await cluster_identity(stores.data)
    async with watch(stores.data, [{"$match": {"ns.coll": "nothing"}}]) as stream:
        await stores.data["docs"].insert_one({"_id": "before"})
        while True:
            # The server's own writes may come between: then once more.
            await stores.data["docs"].update_one({"_id": "before"}, {"$inc": {"n": 1}})
            written = (await stores.data.command("ping"))["operationTime"]
            batch = await stream.read(wait=0.05, limit=10)
            while batch.time < written:
                batch = await stream.read(wait=0.05, limit=10)
            if batch.time == written:
                break
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


async def test_a_refused_collection_is_logged_and_stops_no_other(
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


async def test_failing_worker_neither_undoes_a_refusal_nor_tracks_what_was_untracked(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, competed = asyncio.Event(), 0

    async def compete(*_: object) -> None:
        nonlocal competed
        competed += 1
        if competed == 1:
            await stores.tracking.refuse({"docs": "it can't be read"})
            await stores.tracking.forget(["others"])
            raise Unavailable("there is no primary")
        stop.set()

    monkeypatch.setattr(Worker, "_compete", compete)
    await Worker(settings.model_copy(update={"collections": ("docs", "others")}), stop).run()
    assert competed == 2
    assert [(item.name, item.refused) for item in await stores.tracking.read()] == [("docs", "it can't be read")]


async def test_the_event_behind_an_activation_names_the_collections(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs", "others")
        await stores.data["docs"].insert_one({"_id": 1})
        await caught_up(stores)
        await began(stores, "late")
    async with running_worker(settings):
        # The activation is that of an earlier term, which has not appended anything behind it.
        await stores.data["docs"].insert_many([{"_id": 2}, {"_id": 3}])
        await caught_up(stores)
        found = await stores.tracking.read()
    rows = [row.get("a") async for row in stores.log["events"].find({"_id.l": log}).sort("_id.n", 1)]
    assert rows == [["docs", "others"], ["late"], None]
    assert [(item.name, item.tracked_from, item.fenced) for item in found] == [
        ("docs", 0, True),
        ("late", 1, True),
        ("others", 0, True),
    ]


async def test_an_earlier_activation_does_not_replace_a_later_one(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await caught_up(stores)
        await began(stores, "late")
        (before,) = [item for item in await stores.tracking.read() if item.name == "late"]
        assert before.time is not None
        earlier = Timestamp(before.time.time - 1, 1)
        await stores.tracking.activate(["late"], log, Seq(0), earlier)
        await stores.tracking.activate(["late"], log, before.tracked_from, earlier)
        assert before in await stores.tracking.read()
