"""Reads and writes, one at a time, on both drivers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bson import json_util
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.timestamp import Timestamp

from eventsync.domain.ids import IdText, format_id, parse_id
from eventsync.domain.values.extended_json import Document, same
from eventsync.errors import Conflict, EventsyncError, Malformed, NotFound, PatchFailed, TooLarge, VersionMismatch
from eventsync.nodestorage import (
    Author,
    Condition,
    JsonDocument,
    JsonPatch,
    MergePatch,
    Node,
    NodeStorage,
    Replace,
    WritePolicy,
)
from support.documents import joined
from support.guards import MINE, guard

ID = ObjectId("65a000000000000000000001")


def stamp(version: int) -> dict[str, Any]:
    return {"v": Int64(version), "op": "operation-1", "by": "tester"}


def increment(document: Document) -> Document:
    document["n"] += 1
    return document


async def test_create_and_get(storage: NodeStorage, author: Author, stored: Any) -> None:
    result = await storage.create("orders", {"n": 1, "_id": ID}, author=author)
    assert (result.id, result.version, result.patch, result.created) == (str(ID), 1, [], True)
    assert result.document == {"_id": ID, "n": 1}
    assert list(result.document) == ["_id", "n"]
    assert same(await stored("orders", ID), {"_id": ID, "n": 1, "_sync": stamp(1)})
    assert await storage.get("orders", ID) == Node(ID, 1, {"_id": ID, "n": 1})
    assert await storage.get("orders", "another") is None
    with pytest.raises(Conflict, match=f"orders/{ID} .* exists already"):
        await storage.create("orders", {"_id": ID}, author=author)


async def test_create_makes_an_id(storage: NodeStorage, author: Author) -> None:
    result = await storage.create("orders", {"n": 1}, author=author)
    assert result.document is not None
    assert isinstance(result.document["_id"], ObjectId)


async def test_update_with_a_function(storage: NodeStorage, author: Author, stored: Any) -> None:
    await storage.create("orders", {"_id": 1, "n": 1, "deep": {"a": [1, {"b": 2}]}}, author=author)

    def edit(document: Document) -> Document:
        document["deep"]["a"][1]["b"] = 2**40
        del document["n"]
        return document

    result = await storage.find_one_and_update("orders", 1, edit, author=author)
    assert same(result.document, {"_id": 1, "deep": {"a": [1, {"b": Int64(2**40)}]}})
    assert result.patch == [
        {"op": "remove", "path": "/n"},
        {"op": "replace", "path": "/deep/a/1/b", "value": 2**40},
    ]
    assert (result.version, result.created, result.replayed) == (2, False, False)
    assert same(await stored("orders", 1), {**(result.document or {}), "_sync": stamp(2)})


async def test_update_with_patches(storage: NodeStorage, author: Author, stored: Any) -> None:
    await storage.create("orders", {"_id": "a", "n": Int64(1), "when": None}, author=author)
    patch = JsonPatch([{"op": "replace", "path": "/n", "value": 2}, {"op": "test", "path": "/_id", "value": "a"}])
    await storage.find_one_and_update("orders", "a", patch, author=author)
    merge = MergePatch({"when": {"$date": "2026-11-23T05:22:46Z"}, "x": {"y": None, "z": 1}})
    result = await storage.find_one_and_update("orders", "a", merge, Condition.at_version(2), author=author)
    assert result.version == 3
    document = await stored("orders", "a")
    assert same(document["n"], Int64(2))
    assert document["when"].isoformat() == "2026-11-23T05:22:46+00:00"
    assert document["x"] == {"z": 1}
    with pytest.raises(PatchFailed):
        await storage.find_one_and_update("orders", "a", JsonPatch([{"op": "remove", "path": "/gone"}]), author=author)
    assert await stored("orders", "a") == document


async def test_no_change_is_no_write_and_no_version(storage: NodeStorage, author: Author, stored: Any) -> None:
    await storage.create("orders", {"_id": 1, "n": 1, "m": 2}, author=author)
    before = await stored("orders", 1)
    other = Author("somebody", "operation-2")
    for edit in (lambda document: document, JsonPatch([]), MergePatch({"n": 1, "gone": None})):
        result = await storage.find_one_and_update("orders", 1, edit, author=other)
        assert (result.version, result.patch, result.document) == (1, [], {"_id": 1, "n": 1, "m": 2})
    result = await storage.replace("orders", 1, {"m": 2, "n": 1}, upsert=True, author=other)
    assert (result.version, result.patch) == (1, [])
    assert await stored("orders", 1) == before


async def test_a_document_of_others_is_version_zero(
    storage: NodeStorage, author: Author, outside: Any, stored: Any
) -> None:
    await outside.orders.insert_many([{"_id": 1, "n": 1}, {"_id": 2, "n": 1, "_sync": "not ours"}])
    for id_value in (1, 2):
        node = await storage.get("orders", id_value)
        assert node is not None
        assert node.version == 0
        result = await storage.find_one_and_update(
            "orders", id_value, increment, Condition.at_version(0), author=author
        )
        assert result.version == 1
        assert same(await stored("orders", id_value), {"_id": id_value, "n": 2, "_sync": stamp(1)})


async def test_replace(storage: NodeStorage, author: Author, stored: Any) -> None:
    with pytest.raises(NotFound):
        await storage.replace("orders", 1, {"n": 1}, upsert=False, author=author)
    made = await storage.replace("orders", 1, {"n": Int64(1), "x": 1}, upsert=True, author=author)
    assert (made.version, made.created, made.patch) == (1, True, [])
    # What GET gave, sent back: a plain number keeps the type of the one that it replaces.
    sent = JsonDocument({"_id": 1, "n": 6})
    result = await storage.replace("orders", 1, sent, Condition.at_version(1), upsert=True, author=author)
    assert (result.version, result.created) == (2, False)
    assert same(await stored("orders", 1), {"_id": 1, "n": Int64(6), "_sync": stamp(2)})
    # What a program gives is taken as it is.
    await storage.replace("orders", 1, {"_id": 1, "n": 6}, Condition.at_version(2), upsert=True, author=author)
    assert same(await stored("orders", 1), {"_id": 1, "n": 6, "_sync": stamp(3)})


@pytest.mark.parametrize("id", [5, Int64(5), Int64(2**40), {"a": Int64(5)}], ids=repr)
async def test_upsert_stores_the_id_with_the_type_that_the_document_names(
    storage: NodeStorage,
    author: Author,
    stored: Any,
    id: Any,  # noqa: A002
) -> None:
    """The text of an id names no type of number, so a path can't."""
    path = parse_id(format_id(id))
    sent = JsonDocument(json.loads(json_util.dumps({"_id": id, "n": 1}, json_options=json_util.CANONICAL_JSON_OPTIONS)))
    for made in [
        await storage.replace("one", path, {"_id": id, "n": 1}, upsert=True, author=author),
        *await storage.transact([Replace("two", path, sent, upsert=True)], author=author),
    ]:
        assert same(made.document, {"_id": id, "n": 1})
    for collection in ("one", "two"):
        await storage.replace(collection, path, {"_id": path, "n": 2}, upsert=True, author=author)
        assert same(await stored(collection, path), {"_id": id, "n": 2, "_sync": stamp(2)}), "it is immutable"


async def test_upsert_stores_no_id_with_another_text_than_its_path(storage: NodeStorage, author: Author) -> None:
    made = await storage.replace("orders", 5, {"_id": 5.0}, upsert=True, author=author)
    assert made.id == "int:5"
    assert same(made.document, {"_id": 5})


async def test_replace_conditions(storage: NodeStorage, author: Author) -> None:
    made = await storage.replace("orders", 1, {"n": 1}, Condition.absent(), upsert=True, author=author)
    assert made.created
    with pytest.raises(VersionMismatch) as failure:
        await storage.replace("orders", 1, {"n": 2}, Condition.absent(), upsert=True, author=author)
    assert failure.value.current == 1
    with pytest.raises(VersionMismatch) as failure:
        await storage.replace("orders", 1, {"n": 2}, Condition.at_version(7), upsert=True, author=author)
    assert failure.value.current == 1
    with pytest.raises(VersionMismatch) as failure:
        await storage.replace("orders", 2, {"n": 2}, Condition.at_version(7), upsert=True, author=author)
    assert failure.value.current is None
    with pytest.raises(Malformed):
        await storage.replace("orders", 1, {"_id": 2}, upsert=True, author=author)


async def test_delete_and_recreate(storage: NodeStorage, author: Author, stored: Any) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    with pytest.raises(VersionMismatch) as failure:
        await storage.delete("orders", 1, Condition.at_version(7), author=author)
    assert failure.value.current == 1
    result = await storage.delete("orders", 1, Condition.at_version(1), author=author)
    assert (result.id, result.version, result.document, result.patch) == ("int:1", 2, None, [])
    assert await stored("orders", 1) is None
    with pytest.raises(NotFound):
        await storage.delete("orders", 1, author=author)
    with pytest.raises(VersionMismatch) as failure:
        await storage.delete("orders", 1, Condition.at_version(1), author=author)
    assert failure.value.current is None
    assert (await storage.create("orders", {"_id": 1, "n": 1}, author=author)).version == 1


async def test_updating_what_is_absent(storage: NodeStorage, author: Author) -> None:
    with pytest.raises(NotFound):
        await storage.find_one_and_update("orders", 1, increment, author=author)
    with pytest.raises(VersionMismatch) as failure:
        await storage.find_one_and_update("orders", 1, increment, Condition.at_version(3), author=author)
    assert failure.value.current is None


async def test_find_pages_in_the_order_of_ids_of_all_types(storage: NodeStorage, outside: Any) -> None:
    ids = [1, Int64(2**40), "a", "b", {"x": 1}, ID]
    await outside.orders.insert_many([{"_id": value} for value in reversed(ids)])
    found: list[Any] = []
    while page := await storage.find("orders", after=found[-1] if found else None, limit=2):
        assert len(page) == 2
        found += [node.id for node in page]
    assert same(found, ids)


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda document: {**document, "_id": 2}, Malformed),
        (lambda document: {**document, "_sync": 1}, Malformed),
        (lambda document: {**document, "n": object()}, Malformed),
        (lambda document: {**document, "n": 2**70}, Malformed),
        (lambda document: {**document, "n": "\ud800"}, Malformed),
        (lambda document: {**document, "n\0": 1}, Malformed),
        (lambda _: None, Malformed),
        (lambda document: {**document, "n": "x" * 2000}, TooLarge),
        (JsonPatch([{"op": "add", "path": "/n", "value": "x" * 2000}]), TooLarge),
        (JsonPatch([{"op": "test", "path": "", "value": 1}] * 4), TooLarge),
        (JsonPatch([{"op": "remove", "path": "/_id"}]), Malformed),
        (MergePatch({"_id": 1}), Malformed),
    ],
)
async def test_edits_that_are_refused_change_nothing(
    plain: NodeStorage, outside: Any, author: Author, edit: Any, error: type[EventsyncError]
) -> None:
    policy = WritePolicy(document_bytes=1000, patch_operations=3)
    storage = NodeStorage(outside, outside.operations, policy)
    await plain.create("orders", {"_id": 1, "n": 1}, author=author)
    with pytest.raises(error):
        await storage.find_one_and_update("orders", 1, edit, author=author)
    assert await plain.get("orders", 1) == Node(1, 1, {"_id": 1, "n": 1})


async def test_documents_that_are_refused(plain: NodeStorage, outside: Any, author: Author) -> None:
    deep: dict[str, Any] = {}
    for _ in range(101):
        deep = {"a": deep}
    refused: tuple[Document, ...] = ({"_sync": {}}, deep, {"_id": [1]}, {"_id": None}, {"at": Timestamp(0, 0)})
    for document in refused:
        with pytest.raises(Malformed):
            await plain.create("orders", document, author=author)
        with pytest.raises(Malformed):
            await plain.replace("orders", 1, document, upsert=True, author=author)
    assert await outside.orders.count_documents({}) == 0


async def test_an_id_is_never_an_operator(plain: NodeStorage, outside: Any, author: Author) -> None:
    await outside.orders.insert_one({"_id": 1, "n": 1})
    assert await plain.get("orders", {"$ne": None}) is None
    with pytest.raises(NotFound):
        await plain.find_one_and_update("orders", {"$gt": 0}, increment, author=author)
    with pytest.raises(NotFound):
        await plain.delete("orders", {"$exists": True}, author=author)
    assert await plain.find("orders", after={"$gt": 0}, limit=5) == []
    assert await outside.orders.count_documents({"n": 1}) == 1


async def test_refusals_by_mongodb_are_translated(storage: NodeStorage, outside: Any, author: Author) -> None:
    await outside.orders.create_index("email", unique=True)
    await outside.create_collection("strict", validator={"n": {"$type": "int"}})
    await storage.create("orders", {"_id": 1, "email": "a"}, author=author)
    await storage.create("orders", {"_id": 2, "email": "b"}, author=author)
    with pytest.raises(Conflict, match="email"):
        await storage.create("orders", {"_id": 3, "email": "a"}, author=author)
    with pytest.raises(Conflict, match="email"):
        await storage.find_one_and_update("orders", 2, MergePatch({"email": "a"}), author=author)
    with pytest.raises(Conflict, match="email"):
        await storage.replace("orders", 4, {"email": "a"}, upsert=True, author=author)
    await storage.create("strict", {"_id": 1, "n": 1}, author=author)
    with pytest.raises(Malformed, match="validation"):
        await storage.find_one_and_update("strict", 1, MergePatch({"n": "one"}), author=author)


async def test_a_large_document(storage: NodeStorage, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1, "text": "x" * 1_000_000}, author=author)
    result = await storage.find_one_and_update("orders", 1, increment, author=author)
    assert (result.version, result.patch) == (2, [{"op": "replace", "path": "/n", "value": 2}])


async def test_a_collection_with_a_collation(plain: NodeStorage, outside: Any, author: Author) -> None:
    await outside.create_collection("names", collation={"locale": "en", "strength": 2})
    await plain.create("names", {"_id": "ann", "n": 1}, author=author)
    assert await plain.get("names", "ANN") is None
    result = await plain.find_one_and_update("names", "ann", increment, author=author)
    assert result.document == {"_id": "ann", "n": 2}


@pytest.mark.parametrize("size", [1, 600_000], ids=["at once", "one by one"])
async def test_the_ids_of_readable_documents(storage: NodeStorage, outside: Any, size: int) -> None:
    rows: list[Any] = [{"_id": n, "owner": owner, "t": "x" * size} for n, owner in enumerate(["ada", "bob", "ada"])]
    await outside.orders.insert_many([*rows, joined({"_id": 3, "owner": "bob"}, {"owner": "ada"})])
    ids = [IdText(f"int:{n}") for n in range(5)]
    assert await storage.readable("orders", ids, guard("ada", {"read": MINE}, "orders")) == {"int:0", "int:2"}
    assert await storage.readable("orders", [], guard("ada", {"read": MINE}, "orders")) == set()
