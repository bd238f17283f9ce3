"""A restored collection is the collection as it was, in every value and BSON type; or it is not there."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.database import Database

from eventsync.domain.events import Event, Op, place
from eventsync.domain.ids import IdText, format_id, stored_id
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.replay import Damaged, State
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import RAW_CODEC, Document, decode
from eventsync.domain.values.type_hints import type_hints_of
from eventsync.errors import Conflict, Malformed, Unavailable
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.settings import Settings
from eventsync.stores.history import restore, restore_target
from eventsync.stores.history.differing import same_state
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.history.restore import Restore, Restored, Restores
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from support.archives import archiver
from support.failpoints import failing
from support.histories import History, based, collection_at, newest_checkpoint, stored_at
from support.replay import caught_up, tracked
from support.systems import running_worker


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    update = {"snapshot_chunk_bytes": 1024, "archive_url": str(tmp_path), "segment_events": 15}
    return settings.model_copy(update=update)


async def contents(stores: Stores, name: str) -> dict[IdText, State]:
    found: dict[IdText, State] = {}
    async for raw in stores.data.get_collection(name, codec_options=RAW_CODEC).find():
        stamp, document = unstamp(decode(raw.raw))
        assert (stamp.op_id, stamp.by) == (None, None)
        found[format_id(document["_id"])] = (stamp.version, document)
    return found


async def restored(stores: Stores, position: Position, into: str = "copy", collection: str = "docs") -> Restored:
    restoring = Restore(stores)
    return await restoring.run(await restoring.source(collection, position), into)


def assert_same(said: dict[IdText, State], model: dict[IdText, State]) -> None:
    assert said.keys() == model.keys()
    for text, state in model.items():
        assert same_state(said[text], state), (text, said[text], state)


async def names(stores: Stores) -> set[str]:
    return set(await stores.data.list_collection_names())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_after_any_history_it_is_the_collection_at_every_checkpoint(
    stores: Stores, settings: Settings, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_target, "_BYTES", 400)  # a batch of events takes several runs
    history, choose, models = History.of(stores, "docs", seed), random.Random(seed), []
    for _ in range(25):
        await history.write()
    async with running_worker(settings):
        await stores.tracking.ask(["docs", "other"])
        log = await tracked(stores, "docs", "other")
        await based(stores, log, "docs")
        for number in range(6):
            for _ in range(choose.randrange(1, 40)):
                await history.write()
            await stores.data["other"].insert_one({"n": number})  # of another collection: no business of this one
            await caught_up(stores)
            checkpoint = await newest_checkpoint(stores, log)
            models.append((checkpoint, await collection_at(stores, "docs", checkpoint)))
            if choose.random() < 0.4:
                await stored_at(stores, log, "docs", checkpoint)
    if seed == 2:  # the events are in segments by then
        for name in ("docs", "other"):
            await stored_at(stores, log, name, await newest_checkpoint(stores, log))
        await archiver(stores, settings.model_copy(update={"hot_events": 1, "hot_age": 0.0})).run_once()
        assert (await stores.tiers.read(log)).archived_up_to > 0
    for number, (checkpoint, model) in enumerate(models):
        made = await restored(stores, Position(log, checkpoint.seq), f"copy{number}")
        assert_same(await contents(stores, made.into), model)
        assert made.documents == len(model)
    assert await names(stores) == {"docs", "other", *(f"copy{number}" for number in range(6))}
    assert await stores.log["restores"].count_documents({}) == 0
    assert await stores.log["pins"].count_documents({}) == 0


# --- a log made by hand -----------------------------------------------------------------------------------------


async def given(documents: Iterable[tuple[int, Document]]) -> AsyncIterator[tuple[int, Document]]:
    for version, document in documents:
        yield version, document


async def snapshot(stores: Stores, *documents: Document) -> LogId:
    """A log without events, and a snapshot of `docs` with these documents, at version 7."""
    await stores.ensure_indexes()
    log = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=Timestamp(1, 1))
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], log.id, Seq(0))
    rows = given((7, document) for document in documents)
    await stores.snapshots.stored.write(log.id, "docs", Seq(0), Timestamp(1, 1), rows)
    return log.id


async def test_versions_continue_and_no_writer_is_named(stores: Stores) -> None:
    log = await snapshot(stores, {"_id": "a", "n": Int64(1)})
    await restored(stores, Position(log, Seq(0)))
    assert await stores.data["copy"].find_one() == {"_id": "a", "n": 1, "_sync": {"v": 7}}


async def test_an_empty_collection(stores: Stores) -> None:
    log = await snapshot(stores)
    assert (await restored(stores, Position(log, Seq(0)))).documents == 0
    assert "copy" in await names(stores)


async def test_nothing_is_overwritten(stores: Stores) -> None:
    log = await snapshot(stores, {"_id": "a"})
    await stores.data["there"].insert_one({"_id": 1})
    await stores.tracking.ask(["asked"])
    for into in ("there", "docs", "asked"):
        with pytest.raises(Conflict, match="a restore makes a new one"):
            await restored(stores, Position(log, Seq(0)), into)
    for into in ("system.there", "x" * 110):
        with pytest.raises(Malformed):
            await restored(stores, Position(log, Seq(0)), into)
    assert await names(stores) == {"there"}


@pytest.fixture
def aside(settings: Settings) -> Iterator[Database[Any]]:
    """The user's database, for somebody who comes in between: restores say that they got on by a plain call."""
    with MongoClient[dict[str, Any]](settings.mongodb_uri) as client:
        yield client[settings.database]


async def test_nothing_is_overwritten_that_comes_meanwhile(stores: Stores, aside: Database[Any]) -> None:
    log = await snapshot(stores, {"_id": "a"})
    restoring = Restore(stores)
    source = await restoring.source("docs", Position(log, Seq(0)))
    with pytest.raises(Conflict, match="there is a collection copy already"):
        await restoring.run(source, "copy", lambda _: aside["copy"].insert_one({"_id": "mine"}))
    assert await names(stores) == {"copy"}
    assert await stores.data["copy"].find().to_list() == [{"_id": "mine"}]


async def test_one_that_is_asked_for_meanwhile_is_not_made(
    stores: Stores, settings: Settings, aside: Database[Any]
) -> None:
    log = await snapshot(stores, {"_id": "a"})
    restoring = Restore(stores)
    source = await restoring.source("docs", Position(log, Seq(0)))
    collections = aside.client[settings.log_db]["collections"]
    with pytest.raises(Conflict, match="copy is a tracked collection"):
        await restoring.run(source, "copy", lambda _: collections.insert_one({"_id": "copy"}))
    assert await names(stores) == set()


async def test_a_collection_that_somebody_else_wrote_to_is_given_up(stores: Stores, aside: Database[Any]) -> None:
    log = await snapshot(stores, {"_id": "a"})
    restoring = Restore(stores)
    source = await restoring.source("docs", Position(log, Seq(0)))

    def disturb(_: int) -> None:
        (name,) = aside.list_collection_names()
        aside[name].delete_many({})

    with pytest.raises(Damaged, match="has 0 documents instead of 1"):
        await restoring.run(source, "copy", disturb)
    assert await names(stores) == set()


async def test_one_that_was_taken_for_dead_ends(stores: Stores, settings: Settings, aside: Database[Any]) -> None:
    log = await snapshot(stores, {"_id": "a"})
    restoring = Restore(stores)
    source = await restoring.source("docs", Position(log, Seq(0)))
    entries = aside.client[settings.log_db]["restores"]
    with pytest.raises(Unavailable, match="idle for too long"):
        await restoring.run(source, "copy", lambda _: entries.delete_many({}))
    assert await names(stores) == set()


async def test_sweep_removes_expired_restores_and_names_running_ones(stores: Stores) -> None:
    restores = Restores(stores.data, stores.log, ttl=60)
    dead, alive = await restores.begin("copy"), await restores.begin("copy")
    for name in (dead, alive, "copy.restoring-mine"):
        await stores.data[name].insert_one({"_id": 1})
    assert await restores.sweep() == sorted([dead, alive])
    await stores.log["restores"].update_one({"_id": dead}, {"$set": {"until": datetime(2020, 1, 1, tzinfo=UTC)}})
    assert await restores.sweep() == [alive]
    assert await names(stores) == {alive, "copy.restoring-mine"}
    await restores.keep(alive, now=True)
    with pytest.raises(Unavailable):
        await restores.keep(dead, now=True)


async def test_sweep_that_is_interrupted_is_repeated(stores: Stores, settings: Settings, client: Client) -> None:
    """The record goes last: without it, nobody would find the collection."""
    restores = Restores(stores.data, stores.log, ttl=60)
    dead = await restores.begin("copy")
    await stores.data[dead].insert_one({"_id": 1})
    await stores.log["restores"].update_one({"_id": dead}, {"$set": {"until": datetime(2020, 1, 1, tzinfo=UTC)}})
    async with connect(settings, "sweep") as own, failing(client, "drop", 11600, app=app_name(settings, "sweep")):
        with pytest.raises(Unavailable):
            await Restores(own[settings.database], own[settings.log_db], ttl=60).sweep()
    with pytest.raises(Unavailable, match="idle for too long"):
        await restores.keep(dead, now=True)
    assert await names(stores) == {dead}
    assert await restores.sweep() == []
    assert await names(stores) == set()
    assert await stores.log["restores"].count_documents({}) == 0


async def test_without_a_snapshot(stores: Stores) -> None:
    with pytest.raises(NoBase):
        await Restore(stores).source("docs", Position(LogId("k3f9ab2c"), Seq(1)))


async def test_a_snapshot_that_is_retired_is_not_begun_with(stores: Stores) -> None:
    log = await snapshot(stores, {"_id": "a"})
    restoring = Restore(stores)
    source = await restoring.source("docs", Position(log, Seq(0)))
    await stores.snapshots.stored.write(log, "docs", Seq(0), Timestamp(1, 1), given([]))
    await stores.snapshots.stored.remove(source.snapshot.id)
    with pytest.raises(Unavailable, match="was just retired"):
        await restoring.run(source, "copy")
    assert await names(stores) == set()


async def append(stores: Stores, log: LogId, *events: Event) -> Position:
    tail = await stores.events.tail(log)
    first = tail.seq + 1 if tail else 1
    new = [_new(Seq(first + index), event) for index, event in enumerate(events)]
    await stores.events.append(log, new)
    return Position(log, new[-1].event.seq)


def _new(seq: Seq, event: Event) -> NewEvent:
    stored = StoredEvent(seq, event.collection, event.id, place(event.encode(), seq, None))
    type_hints = type_hints_of(event.document if event.document is not None else event.patch or [])
    return NewEvent(stored, event.version, "82AA", Timestamp(1, seq), type_hints)


def event(op: Op, key: Any, *, base: int = 0, version: int = 0, **fields: Any) -> Event:
    if "document" in fields:
        fields["document"] = {"_id": key} | fields["document"]
    return Event("docs", format_id(key), op, base, version, datetime(2026, 11, 23, tzinfo=UTC), **fields)


async def test_ids_and_names_that_nobody_would_choose(stores: Stores) -> None:
    """Also ids that the API would not take, and names that MongoDB takes in a new document only."""
    keys = ["x" * 2000, "a\0b", "", "int:5", "str:", None, {"a": Int64(1)}, {"a": 1.5}, b"\x00", True, Int64(2**40)]
    odd = {"$a": Int64(1), "a.b": {"$set": 1}, "": [{"$x": 1}], "$numberLong": "7"}
    log = await snapshot(stores, *({"_id": key} | odd for key in keys[::2]))
    made = [event("create", key, document=odd) for key in keys[1::2]]
    patch = [{"op": "replace", "path": "/$a", "value": Int64(2)}, {"op": "add", "path": "/n", "value": 1}]
    changed = [event("update", key, base=7 * (1 - at % 2), patch=patch) for at, key in enumerate(keys)]
    position = await append(stores, log, *made, *changed)
    await restored(stores, position)
    model = {format_id(key): (0, {"_id": key} | odd | {"$a": Int64(2), "n": 1}) for key in keys}
    assert_same(await contents(stores, "copy"), dict(model))


@pytest.mark.parametrize("size", [1, 500])
async def test_numbers_that_mongodb_takes_for_one_id(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(restore, "_BATCH", size)
    log = await snapshot(stores, {"_id": 5, "n": 1})
    position = await append(
        stores,
        log,
        event("update", 5, base=7, version=8, patch=[{"op": "replace", "path": "/n", "value": 2}]),
        event("delete", 5, base=8, version=8),
        event("create", 5.0, document={"n": 3}),
        event("update", 5.0, patch=[{"op": "replace", "path": "/n", "value": 4}]),
        event("delete", 5.0),
        event("create", Decimal128("5"), document={"n": 5}),
    )
    for seq, key, n in ((1, 5, 2), (3, 5.0, 3), (4, 5.0, 4), (6, Decimal128("5"), 5)):
        made = await restored(stores, Position(log, Seq(seq)), f"copy{seq}")
        version = 8 if seq == 1 else 0
        assert_same(await contents(stores, made.into), {format_id(key): (version, {"_id": key, "n": n})})
    assert (await restored(stores, Position(log, Seq(2)))).documents == 0
    assert position.seq == 6


async def test_an_event_that_does_not_fit_ends_it(stores: Stores) -> None:
    log = await snapshot(stores, {"_id": "a"})
    position = await append(stores, log, event("update", "b", patch=[]))
    with pytest.raises(Damaged, match="event 1 updates docs/b"):
        await restored(stores, position)
    assert await names(stores) == set()
    assert await stores.log["restores"].count_documents({}) == 0


@pytest.mark.parametrize("key", ["a", "int:5", "", "x" * 3000, "a\0", "ejson:5", None, 7, {"a": 1}, b"\0"])
def test_ids_read_back(key: Any) -> None:
    assert format_id(stored_id(format_id(key))) == format_id(key)
    assert stored_id(format_id(key)) == key
