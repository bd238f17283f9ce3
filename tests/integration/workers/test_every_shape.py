"""Every shape of change, written behind the API: its events, and a log that replays to the collection.

The events are the ones of `docs/reference/events.md`; the states are compared BSON-exact.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, InsertOne, ReplaceOne, UpdateMany
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError

from eventsync.domain.values.extended_json import CODEC
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.documents import LEAVES, ODD_NAMES, PLAIN_NAMES
from support.replay import assert_complete, current_log, tracked
from support.systems import running_system, running_worker
from support.waiting import patience

Docs = AsyncCollection[Any]
DOCUMENTS = "/v1/collections/docs/documents"
C, U, R, D = "create", "update", "replace", "delete"
PAD = "x" * 400
"""Makes a document longer than any patch here, so that what is no replacement stays an update."""


@dataclass(frozen=True)
class Shape:
    """Writes, the operations of their events, and the paths that the patches touch where that says something."""

    name: str
    write: Callable[[Docs], Awaitable[object]]
    events: list[str]
    paths: list[str] = field(default_factory=list)


SHAPES: list[Shape] = []


def shape(*events: str, paths: list[str] | None = None) -> Callable[[Any], Any]:
    """Enter the function below into the table."""

    def enter(write: Callable[[Docs], Awaitable[object]]) -> Callable[[Docs], Awaitable[object]]:
        SHAPES.append(Shape(write.__name__, write, list(events), paths or []))
        return write

    return enter


async def by_pipelines(docs: Docs, *stages: dict[str, Any]) -> None:
    for stage in stages:
        await docs.update_one({"_id": 1}, [stage])


def set_field(name: str, value: Any, within: Any = "$$ROOT") -> dict[str, Any]:
    return {"$setField": {"field": {"$literal": name}, "input": within, "value": value}}


# --- field names --------------------------------------------------------------------------------------------------

ODD = {name: {name: [{name: Int64(number)}]} for number, name in enumerate((*ODD_NAMES, *PLAIN_NAMES))}


@shape(C, R, R)
async def any_name_in_documents_and_replacements(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "deep": ODD} | ODD)
    # (What begins with `$` may stand at a document's top after an insert, but not after a replacement.)
    await docs.replace_one({"_id": 1}, {"deep": ODD, "a.b": 1, "": 2, "0": 3})
    await docs.replace_one({"_id": 1}, {"deep": {"": {"": {".": {"$": 1}}}}, "0": {"0": 1}})


@shape(C, *[U] * 6, paths=["/a.b", "/", "/o/$x", "/o/a.0", "/o/~1~0", "/o/$x"])
async def any_name_by_expressions(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "a": {"b": 1, "0": 1}, "o": {}, "pad": PAD})
    await by_pipelines(
        docs,
        {"$replaceWith": set_field("a.b", 5)},
        {"$replaceWith": set_field("", 6)},
        {"$set": {"o": set_field("$x", {"$literal": {"$y": 7}}, "$o")}},
        {"$set": {"o": set_field("a.0", Int64(8), "$o")}},
        {"$set": {"o": set_field("/~", 9, "$o")}},
        {"$set": {"o": {"$unsetField": {"field": {"$literal": "$x"}, "input": "$o"}}}},
    )


@shape(C, *[U] * 3, paths=["/a/b", "/a/c", "/a"])
async def a_dotted_name_beside_the_path_of_the_same_spelling(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "a.b": 1, "a": {"b": 2}, "a.c": 3, "pad": PAD})
    await docs.update_one({"_id": 1}, {"$set": {"a.b": 5}})
    await docs.update_one({"_id": 1}, {"$set": {"a.c": 6}})
    await docs.update_one({"_id": 1}, {"$unset": {"a": ""}})


@shape(C, *[U] * 5, paths=["/k/0", "/l/0", "/k/01", "/m", "/l/1/0"])
async def a_number_as_a_name_and_as_an_index(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "k": {"0": 1}, "l": [1, {"0": 1}], "pad": PAD})
    for path in ("k.0", "l.0", "k.01", "m.0", "l.1.0"):
        await docs.update_one({"_id": 1}, {"$set": {path: Int64(2)}})


@shape(C, U, U, paths=["/v/$oid", "/v/$date", "/v/$date", "/v/$undefined", "/v/$x"])
async def objects_that_look_like_extended_json(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "v": {"$oid": "65a000000000000000000001"}, "w": {"$numberLong": "7"}, "pad": PAD})
    await docs.update_one({"_id": 1}, [{"$set": {"v": {"$literal": {"$date": "2026-11-23T05:22:46Z"}}}}])
    await docs.update_one({"_id": 1}, [{"$set": {"v": {"$literal": {"$undefined": True, "$x": {"$binary": 1}}}}}])


# --- arrays -------------------------------------------------------------------------------------------------------


@shape(C, *[U] * 7)
async def arrays_of_arrays(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "m": [[1, 2], [3, [4, [5]]], []], "pad": PAD})
    await docs.update_one({"_id": 1}, {"$set": {"m.0.1": Int64(2)}})
    await docs.update_one({"_id": 1}, {"$push": {"m.1.1.1": 6}})
    await docs.update_one({"_id": 1}, {"$push": {"m": [[[]]]}})
    await docs.update_one({"_id": 1}, {"$inc": {"m.$[].$[n]": 1}}, array_filters=[{"n": {"$in": [1, 3]}}])
    await docs.update_one({"_id": 1}, {"$set": {"m.2.1": "with a hole before it"}})
    await docs.update_one({"_id": 1}, {"$pull": {"m.0": {"$gt": 1}}})
    await docs.update_one({"_id": 1}, {"$unset": {"m.1.1.0": ""}})


PUSHES: list[dict[str, Any]] = [
    {"$push": {"l": {"$each": [7, 8, 9]}}},
    {"$push": {"l": {"$each": [0], "$position": 0}}},
    {"$push": {"l": {"$each": [6, 6], "$position": -2}}},
    {"$push": {"l": {"$each": [5], "$slice": -4}}},
    {"$push": {"l": {"$each": [1], "$sort": -1, "$slice": 4}}},
    {"$push": {"l": {"$each": [], "$sort": 1}}},
    {"$push": {"l": {"$each": [], "$slice": 2}}},
    {"$addToSet": {"l": {"$each": [1, Int64(77), 77.0, "x"]}}},
    {"$pop": {"l": -1}},
    {"$pop": {"l": 1}},
    {"$pull": {"l": {"$gte": 77}}},
    {"$push": {"l": {"$each": ["a", "b", "a"]}}},
    {"$pullAll": {"l": ["a", "b"]}},
    {"$set": {"l.4": "past the end"}},
    {"$unset": {"l.4": ""}},
    {"$push": {"l": {"$each": [], "$slice": 0}}},
]


@shape(C, *[U] * len(PUSHES))
async def every_operator_on_an_array(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "l": [1, 2, 3], "pad": PAD})
    for push in PUSHES:
        await docs.update_one({"_id": 1}, push)


@shape(C, *[U] * 6)
async def arrays_cut_and_joined_by_expressions(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "l": list(range(9)), "m": [[1, 2, 3], [4]], "pad": PAD})
    await by_pipelines(
        docs,
        {"$set": {"l": {"$slice": ["$l", 5]}}},
        {"$set": {"l": {"$slice": ["$l", -3]}}},
        {"$set": {"l": {"$concatArrays": [["x"], "$l", ["y"]]}}},
        {"$set": {"l": {"$filter": {"input": "$l", "cond": {"$isNumber": "$$this"}}}}},
        {"$set": {"m": {"$map": {"input": "$m", "in": {"$slice": ["$$this", 1]}}}}},
        {"$set": {"l": {"$reverseArray": "$l"}}},
    )


@shape(C, *[U] * 5, paths=["/v", "/v", "/v", "/v", "/v"])
async def a_value_that_changes_its_kind(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "v": [1], "pad": PAD})
    values: tuple[Any, ...] = ({"0": 1}, "0", None, [], {})
    for value in values:
        await docs.update_one({"_id": 1}, {"$set": {"v": value}})


# --- updates ------------------------------------------------------------------------------------------------------

OPERATORS: list[dict[str, Any]] = [
    {"$inc": {"i": 1}},
    {"$inc": {"i": Int64(1)}},
    {"$inc": {"i": 0.5}},
    {"$mul": {"i": Decimal128("1.0")}},
    {"$min": {"i": -1}},
    {"$max": {"i": Int64(5)}},
    {"$bit": {"b": {"xor": 6}}},
    {"$rename": {"b": "renamed", "s": "t.s"}},
    {"$currentDate": {"at": True, "ts": {"$type": "timestamp"}}},
    {"$setOnInsert": {"never": 1}, "$set": {"o.a.b": 1}},
    {"$unset": {"o.a": "", "t": ""}},
    {"$set": {"zero": Timestamp(0, 0), "o.zero": Timestamp(0, 0)}},
]


@shape(C, *[U] * len(OPERATORS))
async def every_operator_on_a_field(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "i": 1, "b": 5, "s": "x", "pad": PAD})
    for update in OPERATORS:
        await docs.update_one({"_id": 1}, update)


@shape(C, *[U] * 6, paths=["/n"] * 6)
async def a_number_that_only_changes_its_type(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "n": 5, "pad": PAD})
    for value in (Int64(5), 5.0, Decimal128("5"), Decimal128("5.0"), Int64(5), 5):
        await docs.update_one({"_id": 1}, {"$set": {"n": value}})


@shape(C, U, U, U, R, R)
async def pipelines(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "a": 1, "b": {"c": 2}, "pad": PAD})
    await by_pipelines(
        docs,
        {"$set": {"a": {"$add": ["$a", "$b.c"]}, "at": "$$NOW", "cluster": "$$CLUSTER_TIME"}},
        {"$unset": ["b.c", "at"]},
        {"$set": {"b": "$$REMOVE", "o": {"$mergeObjects": ["$b", {"$literal": {"$x": 1}}]}}},
        {"$replaceWith": {"_id": "$_id", "q": "$a", "of": ["$o"]}},
        {"$project": {"q": 1, "twice": ["$q", "$q"], "again": ["$of", "$of", "$of"]}},
    )


@shape(C)
async def updates_that_change_nothing(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "n": 1, "l": [1]})
    updates: tuple[Any, ...] = (
        {"$set": {"n": 1}},
        {"$inc": {"n": 0}},
        {"$addToSet": {"l": 1}},
        {"$pull": {"l": 9}},
        [{"$set": {}}],
    )
    for update in updates:
        await docs.update_one({"_id": 1}, update)
    await docs.update_one({"_id": 2}, {"$set": {"n": 1}})
    await docs.delete_one({"_id": 2})


@shape(C, C, U, U, R, D, C, C, D)
async def find_and_modify(docs: Docs) -> None:
    await docs.find_one_and_update({"_id": 1}, {"$setOnInsert": {"a": 1, "pad": PAD}}, upsert=True)
    await docs.find_one_and_replace({"_id": 2}, {"b": 1}, upsert=True)
    await docs.find_one_and_update({"_id": 1}, {"$inc": {"a": 1}})
    await docs.find_one_and_update({"_id": 1}, [{"$set": {"a": {"$add": ["$a", 1]}}}])
    await docs.find_one_and_replace({"_id": 2}, {"b": 2})
    await docs.find_one_and_delete({"_id": 2})
    await docs.find_one_and_update({"x": 5, "y": {"$gt": 1}}, [{"$set": {"z": 1}}], upsert=True)
    await docs.update_one({"_id": "u", "q": {"$eq": Int64(4)}}, {"$push": {"l": 1}}, upsert=True)
    await docs.delete_many({"_id": "u"})


@shape(C, C, C, U, U, R, D, C, D)
async def bulk_writes_and_the_half_of_one_that_fails(docs: Docs) -> None:
    await docs.insert_many([{"_id": number, "n": 0, "pad": PAD} for number in range(3)])
    writes: list[Any] = [
        UpdateMany({"_id": {"$lt": 2}}, {"$inc": {"n": 1}}),
        ReplaceOne({"_id": 2}, {"r": 1}),
        DeleteOne({"_id": 0}),
    ]
    await docs.bulk_write(writes)
    with pytest.raises(BulkWriteError):
        await docs.bulk_write([InsertOne({"_id": 9}), InsertOne({"_id": 9}), InsertOne({"_id": 10})])
    with pytest.raises(BulkWriteError):
        await docs.bulk_write([InsertOne({"_id": 9}), DeleteOne({"_id": 9})], ordered=False)


# --- replacements, deletes, ids -----------------------------------------------------------------------------------


@shape(C, R, R, D, C, R, D, C)
async def replacements_and_documents_made_again(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "a": 1})
    await docs.replace_one({"_id": 1}, {"b": 1})
    await docs.replace_one({"_id": 1}, {})
    await docs.delete_one({"_id": 1})
    await docs.insert_one({"_id": 1, "c": [1]})
    await docs.replace_one({"_id": 1}, {"_id": 1, "c": [Int64(1)]})
    await docs.delete_many({})
    await docs.update_one({"_id": 1}, {"$set": {"d": 1}}, upsert=True)


@shape(C, U, R, R)
async def fields_that_only_change_their_order(docs: Docs) -> None:
    await docs.insert_one({"_id": 1, "pad": PAD, "a": 1, "b": 2})
    await docs.update_one({"_id": 1}, [{"$replaceWith": {"_id": 1, "pad": PAD, "b": 2, "a": 1}}])
    await docs.update_one({"_id": 1}, [{"$replaceWith": {"_id": 1, "a": 1, "b": 2, "pad": PAD}}])
    await docs.replace_one({"_id": 1}, {"b": 2, "pad": PAD, "a": 1})


IDS: list[Any] = [
    None, True, False, MinKey(), MaxKey(), 5, Int64(6), Int64(2**40), -1, 1.5, float("nan"), float("inf"),
    Decimal128("2.50"), "", "a", "int:5", "a/b", "a.b", "$a", " ", "\u00e9", "65a000000000000000000001",
    ObjectId("65a000000000000000000001"), uuid.UUID(int=7), Binary(b"short", 3), b"bytes",
    datetime(1960, 1, 1, tzinfo=UTC), Timestamp(7, 1), Timestamp(0, 0), Code("f()"), Code("f()", {"x": Int64(1)}),
    {}, {"a": 1}, {"a": {"b": 1}}, {"b": 1, "a": [1]}, {"a": [1], "b": 1}, {"a.b": 1, "": {"": 2}}, {"l": [[Int64(3)]]},
]  # fmt: skip


@shape(*[C] * len(IDS), *[U] * len(IDS), *[D] * len(IDS), *[C] * len(IDS))
async def ids_of_every_type(docs: Docs) -> None:
    await docs.insert_many([{"_id": key, "n": 0, "pad": PAD} for key in IDS])
    for key in IDS:
        await docs.update_one({"_id": {"$eq": key}}, {"$inc": {"n": 1}})
    await docs.delete_many({})
    await docs.insert_many([{"_id": key} for key in IDS])


@shape(C, U, C)
async def values_of_every_type(docs: Docs) -> None:
    values = [*LEAVES, MinKey(), MaxKey(), Code("f()"), Code("f()", {"x": Int64(1)}), Binary(b"x", 3), Regex("", "mxs")]
    await docs.insert_one({"_id": 1, "values": values, "empty": Timestamp(0, 0)})
    await docs.update_one({"_id": 1}, {"$set": {f"at.{index}": value for index, value in enumerate(values)}})
    await docs.insert_one({"_id": 2, "at": [{"v": value} for value in values]})


def raw(*elements: bytes) -> RawBSONDocument:
    body = b"".join(elements)
    return RawBSONDocument((len(body) + 5).to_bytes(4, "little") + body + b"\0")


@shape(C, U, R, D)
async def a_field_name_twice_in_one_document(docs: Docs) -> None:
    twice = raw(b"\x10_id\0\1\0\0\0", b"\x10a\0\1\0\0\0", b"\x10a\0\2\0\0\0", b"\x02p\0\x05\0\0\0long\0")
    await docs.database.command({"insert": docs.name, "documents": [twice]})
    await docs.update_one({"_id": 1}, {"$set": {"b": 1}})
    await docs.database.command({"update": docs.name, "updates": [{"q": {"_id": 1}, "u": twice}]})
    await docs.delete_one({"_id": 1})


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
async def test_writes(stores: Stores, settings: Settings, case: Shape) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await case.write(stores.data.get_collection("docs", codec_options=CODEC))
        replay = await assert_complete(stores, "docs")
        assert await current_log(stores) == log
    assert [event["op"] for event in replay.events] == case.events
    touched = [operation["path"] for event in replay.events for operation in event.get("patch", ())]
    assert not case.paths or touched == case.paths
    assert all(event["external"] for event in replay.events)


async def test_the_same_shapes_through_the_api(stores: Stores, settings: Settings) -> None:
    """Names that no update's path can express (the API refuses `$…`), arrays of arrays, Extended JSON."""
    first = {"_id": 1, "a.b": 1, "a": {"b": 2}, "": {"": 3}, "0": {"0": 4}, "o": {"/~": 5}, "m": [[1], []], "pad": PAD}
    patches: list[list[dict[str, Any]]] = [
        [{"op": "replace", "path": "/a.b", "value": 6}, {"op": "add", "path": "/o/a.b", "value": {"$numberLong": "7"}}],
        [{"op": "add", "path": "/", "value": [[]]}, {"op": "add", "path": "/m/0/1", "value": [8]}],
        [{"op": "remove", "path": "/o/~1~0"}, {"op": "add", "path": "/m/1/0", "value": 9.0}],
        [{"op": "remove", "path": "/m/0/0"}, {"op": "move", "from": "/a/b", "path": "/0/01"}],
    ]
    tracking = settings.model_copy(update={"collections": ("docs",)})
    async with (
        running_system(tracking) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as api,
    ):
        answers = [await api.post(DOCUMENTS, json=first)]
        for patch in patches:
            headers = {"Content-Type": "application/json-patch+json"}
            answers.append(await api.patch(f"{DOCUMENTS}/int:1", content=orjson.dumps(patch), headers=headers))
        answers.append(await api.put(f"{DOCUMENTS}/int:1", json={"a.b": {"": [[]]}, "n": {"$numberDecimal": "1.50"}}))
        answers.append(await api.delete(f"{DOCUMENTS}/int:1"))
        answers.append(await api.post(DOCUMENTS, json={"_id": 1, "l": [[{"$numberLong": "5"}]]}))
        assert [answer.status_code // 100 for answer in answers] == [2] * len(answers), [a.text for a in answers]
        replay = await assert_complete(stores, "docs")
    assert [event["op"] for event in replay.events] == [C, U, U, U, U, R, D, C]
    assert [event["version"] for event in replay.events] == [1, 2, 3, 4, 5, 6, 7, 1]
    assert not any("external" in event for event in replay.events)
