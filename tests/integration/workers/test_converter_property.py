"""Conversion checked by MongoDB itself, with random documents and random updates of every kind."""

from __future__ import annotations

import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument
from jsonpatch import apply_patch
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure, WriteError

from eventsync.domain.events import Event
from eventsync.domain.ids import IdText
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import CODEC, JSON_CODEC, decode, same, to_json
from eventsync.mongodb.change_stream import ChangeStream, watch
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.converter import convert
from eventsync_workers.sequencing.images import enable_images

Collection = AsyncCollection[dict[str, Any]]
NAMES = ["a", "b", "c", "n", "l"]
ODD_NAMES = ["", "a.b", "$x", "0", "1", "a/b", "~", "~1", "é", "__proto__", "a.0", ".", "$", "-"]


class Maker:
    """Random values, documents and updates, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.choice = self.random.choice

    def number(self) -> Any:
        return self.choice([0, 1, -7, 2**31 - 1, Int64(5), Int64(2**40), 1.5, 5.0, -0.0, Decimal128("1.10")])

    def leaf(self) -> Any:
        return self.choice(
            [
                None, True, False, "", "text", "é\0", 0, 1, 5, Int64(5), Int64(2**53 + 1), 5.0, 1.5, -0.0, float("nan"),
                float("inf"), Decimal128("1.10"), Decimal128("NaN"), ObjectId("0123456789abcdef01234567"),
                datetime(2026, 1, 1, tzinfo=UTC), datetime(1960, 1, 1, 0, 0, 0, 1000, tzinfo=UTC), b"ab",
                Binary(b"x" * 16, 3), uuid.UUID(int=5), Regex("a", "i"), Timestamp(1, 2), MinKey(), MaxKey(),
                Code("f()"), Code("f()", {"a": Int64(1)}), DBRef("c", Int64(1)), DBRef("c", 1, "d", x=1.0),
            ]
        )  # fmt: skip

    def value(self, depth: int = 2, names: list[str] = NAMES) -> Any:
        kind = self.random.random()
        if depth and kind < 0.25:
            return [self.value(depth - 1, names) for _ in range(self.random.randrange(4))]
        if depth and kind < 0.5:
            return self.fields(depth - 1, names)
        return self.leaf()

    def fields(self, depth: int, names: list[str] = NAMES) -> dict[str, Any]:
        chosen = self.random.sample(names, self.random.randrange(min(len(names), 5)))
        return {name: self.value(depth, names) for name in chosen}

    def document(self, names: list[str] = NAMES) -> dict[str, Any]:
        """With fields of known kinds, so that most operators find what they work on."""
        return self.fields(3, names) | {
            "num": self.number(),
            "int": self.random.randrange(100),
            "arr": [self.number() for _ in range(self.random.randrange(5))],
            "items": [{"k": n, "v": self.value(1, names)} for n in range(self.random.randrange(4))],
            "sub": {"x": self.value(1, names), "y": {"z": self.value(1, names)}},
        }

    def update(self) -> tuple[Any, list[dict[str, Any]] | None]:
        """An update document or pipeline, and its array filters."""
        makers: list[Callable[[], Any]] = [
                lambda: {"$set": {self.choice(NAMES): self.value()}},
                lambda: {"$set": {"sub.y.z": self.value(), "sub.new.deep": self.value(1)}},
                lambda: {"$set": {f"arr.{self.random.randrange(6)}": self.value(1)}},
                lambda: {"$set": {f"items.{self.random.randrange(3)}.v": self.value(1)}},
                lambda: {"$set": {"fresh.0": self.leaf()}},
                lambda: {"$unset": {self.choice([*NAMES, "sub.x", "sub.y", "items.0.v", "arr.1"]): ""}},
                lambda: {"$inc": {"num": self.number(), "counter": 1}},
                lambda: {"$mul": {"num": self.choice([2, 1.5, Int64(3)])}},
                lambda: {"$min": {"num": self.number()}},
                lambda: {"$max": {"num": self.number()}},
                lambda: {"$push": {"arr": self.value(1)}},
                lambda: {"$push": {"arr": {"$each": [self.leaf(), 3], "$position": self.random.randrange(4)}}},
                lambda: {"$push": {"arr": {"$each": [2, 1], "$sort": 1, "$slice": self.choice([-3, 0, 2])}}},
                lambda: {"$push": {"items": {"$each": [{"k": 2, "v": 0}], "$sort": {"k": -1}}}},
                lambda: {"$pop": {"arr": self.choice([1, -1])}},
                lambda: {"$pull": {"arr": {"$in": [0, 1, 1.5]}, "items": {"k": 1}}},
                lambda: {"$pullAll": {"arr": [1, -7]}},
                lambda: {"$addToSet": {"arr": {"$each": [self.leaf(), self.leaf()]}}},
                lambda: {"$rename": {self.choice(NAMES): "renamed", "sub.x": "moved"}},
                lambda: {"$bit": {"int": {self.choice(["and", "or", "xor"]): 5}}},
                lambda: {"$currentDate": {"at": True, "stamp": {"$type": "timestamp"}}},
                lambda: {"$set": {"items.$[].v": self.leaf()}},
                lambda: {"$set": {"a": self.value(), "b": self.value()}, "$unset": {"c": ""}, "$inc": {"int": 1}},
                lambda: [{"$set": {"sum": {"$size": "$arr"}, "sub.y": "$int"}}],
                lambda: [{"$set": {"arr": {"$slice": ["$arr", 2]}}}, {"$unset": ["a", "sub.x"]}],
                lambda: [{"$set": {"arr": {"$concatArrays": ["$arr", [{"$literal": self.leaf()}]]}}}],
                lambda: [{"$replaceWith": {"_id": "$_id", "only": {"$literal": self.value()}, "arr": [1], "num": 1}}],
                lambda: {"$set": {"int": "$literal text"}},
        ]  # fmt: skip
        if self.random.random() < 0.08:
            return {"$set": {"items.$[some].v": self.value(1)}}, [{"some.k": {"$gte": 1}}]
        return self.choice(makers)(), None


async def drained(stream: ChangeStream, stores: Stores) -> list[RawBSONDocument]:
    """Every change that is committed now."""
    until = (await stores.data.command("ping"))["operationTime"]
    await stores.data["elsewhere"].insert_one({})  # moves the stream on when nothing else does
    changes: list[RawBSONDocument] = []
    while True:
        batch = await stream.read(wait=1, limit=10_000)
        changes += batch.changes
        if batch.time > until:
            return changes


def states(change: RawBSONDocument) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The documents before and after, as users know them, from the images."""
    raw = (change.get("fullDocumentBeforeChange"), change.get("fullDocument"))
    before, after = (unstamp(decode(image.raw, JSON_CODEC))[1] if image is not None else None for image in raw)
    return before, after


def assert_complete(change: RawBSONDocument, event: Event) -> None:
    before, after = states(change)
    kind = change["operationType"]
    if event.op == "delete":
        assert kind == "delete"
        assert (event.document, event.patch) == (None, None)
    elif event.op == "update":
        assert kind == "update"
        assert before is not None
        assert event.patch is not None
        assert same(apply_patch(before, event.patch), after), (before, after, event.patch)
        if len(event.patch) > 1:
            assert len(to_json(event.patch)) <= len(to_json(after))
    else:
        assert kind in {"insert" if event.op == "create" else "replace", "update"}
        assert event.document is not None
        assert same(event.document, after)


async def change_all(collection: Collection, maker: Maker, rounds: int, count: int) -> int:
    """Random updates; returns how many MongoDB refused, because an operator met a value that it does not work on."""
    refused = 0
    for _ in range(rounds):
        for key in range(count):
            update, filters = maker.update()
            try:
                await collection.update_one({"_id": key}, update, array_filters=filters)
            except WriteError:
                refused += 1
    return refused


Write = Callable[[Collection, Maker], Awaitable[Any]]


@pytest.fixture
async def converted(stores: Stores) -> Callable[[Write, int], Awaitable[list[Event]]]:
    """Runs writes on a collection with images, converts the changes that they made, and checks each."""

    async def run(write: Write, seed: int) -> list[Event]:
        images = await enable_images(stores.data, ["docs"])
        assert images.refused == {}
        match = [{"$match": {"ns.coll": {"$in": ["docs", "elsewhere"]}}}]
        async with watch(stores.data, match, images=True) as stream:
            await write(stores.data.get_collection("docs", codec_options=CODEC), Maker(seed))
            changes = [change for change in await drained(stream, stores) if change["ns"]["coll"] == "docs"]
        events = []
        for change in changes:
            event = convert(change)
            assert event is not None
            assert event.id == IdText(f"int:{change['documentKey']['_id']}")
            assert_complete(change, event)
            events.append(event)
        state: dict[str, Any] = {}
        for event in events:
            replay(state, event)
        async for document in stores.data.get_collection("docs", codec_options=JSON_CODEC).find():
            assert same(state.pop(f"int:{document['_id']}"), unstamp(document)[1])
        assert state == {}
        return events

    return run


def replay(state: dict[str, Any], event: Event) -> None:
    """Without the images: what a client does with the events alone."""
    before = state.pop(event.id, None)
    assert (before is None) == (event.op == "create")
    if event.op == "update":
        assert before is not None
        state[event.id] = apply_patch(before, event.patch or [])
    elif event.op != "delete":
        state[event.id] = event.document


@pytest.mark.parametrize("seed", [1, 2])
async def test_updates_with_every_operator(converted: Any, seed: int) -> None:
    async def write(collection: Collection, maker: Maker) -> None:
        await collection.insert_many([{"_id": key} | maker.document() for key in range(40)])
        refused = await change_all(collection, maker, rounds=9, count=40)
        assert refused < 60

    events: list[Event] = await converted(write, seed)
    assert len(events) > 300
    assert {event.op for event in events} >= {"create", "update", "replace"}


async def test_replacements_deletes_and_documents_made_again(converted: Any) -> None:
    async def write(collection: Collection, maker: Maker) -> None:
        for _ in range(6):
            for key in range(20):
                kind = maker.random.random()
                if kind < 0.2:
                    await collection.delete_one({"_id": key})
                elif kind < 0.3:
                    await collection.find_one_and_delete({"_id": key})
                else:
                    await collection.replace_one({"_id": key}, maker.document(), upsert=True)

    events: list[Event] = await converted(write, 3)
    assert {event.op for event in events} == {"create", "replace", "delete"}
    again = [event for event in events if event.op == "create"]
    assert len(again) > len({event.id for event in again})


async def test_field_names_that_no_update_could_address(converted: Any) -> None:
    async def write(collection: Collection, maker: Maker) -> None:
        await collection.insert_one({"_id": 99, "$x": 1, "a.b": {"$y": [{"$z": 1}]}, "a": {"b": 2}})
        await collection.update_one({"_id": 99}, {"$set": {"a.b": 3}})
        inner = [name for name in ODD_NAMES if not name.startswith("$")]
        await collection.insert_many([{"_id": key} | maker.document(inner) for key in range(30)])
        for key in range(30):
            nested = maker.document(inner) | {
                "deep": {name: maker.leaf() for name in maker.random.sample(ODD_NAMES, 5)}
            }
            await collection.replace_one({"_id": key}, nested)
            await collection.update_one({"_id": key}, {"$set": {"deep.more": maker.leaf(), "sub.x": maker.leaf()}})
        await change_all(collection, maker, rounds=3, count=30)
        for key in range(30):
            name, value = maker.choice(ODD_NAMES), maker.value(1)
            pipeline = [
                {"$replaceWith": {"$setField": {"field": {"$literal": name}, "input": "$$ROOT", "value": value}}}
            ]
            try:
                await collection.update_one({"_id": key}, pipeline)
            except OperationFailure:
                await collection.update_one({"_id": key}, {"$set": {"refused": True}})

    events: list[Event] = await converted(write, 4)
    assert len(events) > 150


async def test_stamped_writes_say_their_version_and_leave_the_stamp_out(converted: Any) -> None:
    async def write(collection: Collection, maker: Maker) -> None:
        for version in range(1, 6):
            for key in range(20):
                stamp = {"v": Int64(version), "op": f"{key}-{version}", "by": "ann"}
                change = {"$set": {"_sync": stamp, "a": maker.value(), "arr": [version]}}
                await collection.update_one({"_id": key}, change, upsert=True)
        await collection.update_many({}, {"$set": {"behind": "the API's back"}})

    events: list[Event] = await converted(write, 5)
    ours = [event for event in events if not event.external]
    assert [(event.base, event.version) for event in ours if event.id == "int:7"] == [(n - 1, n) for n in range(1, 6)]
    assert [event.op_id for event in ours if event.id == "int:7"] == [f"7-{n}" for n in range(1, 6)]
    assert [(event.base, event.version) for event in events if event.external] == [(5, 5)] * 20
    assert not any(b"_sync" in event.encode() for event in events)


async def test_an_update_that_changes_nothing_makes_no_event(converted: Any) -> None:
    async def write(collection: Collection, maker: Maker) -> None:
        await collection.insert_one({"_id": 1, "a": 1, "l": [1]})
        await collection.update_one({"_id": 1}, {"$set": {"a": 1}})
        await collection.update_one({"_id": 1}, {"$addToSet": {"l": 1}})
        await collection.update_one({"_id": 1}, {"$inc": {"a": 0}})

    events: list[Event] = await converted(write, 6)
    assert [event.op for event in events] == ["create"]
