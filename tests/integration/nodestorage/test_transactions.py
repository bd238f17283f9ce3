"""Several documents and collections, all or nothing."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from bson.objectid import ObjectId

from eventsync.domain.values.extended_json import Document
from eventsync.errors import Conflict, EventsyncError, Malformed, NotFound, PatchFailed, TooLarge, VersionMismatch
from eventsync.nodestorage import (
    Author,
    Condition,
    Create,
    Delete,
    JsonPatch,
    MergePatch,
    NodeStorage,
    Replace,
    Update,
    WriteOperation,
    WritePolicy,
)


async def test_several_collections_at_once(storage: NodeStorage, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    await storage.create("stock", {"_id": "apple", "left": 5}, author=author)
    results = await storage.transact(
        [
            Update("orders", 1, MergePatch({"n": 2}), Condition.at_version(1)),
            Update("stock", "apple", JsonPatch([{"op": "replace", "path": "/left", "value": 4}])),
            Create("audit", {"_id": "a", "what": "sold"}),
            Replace("orders", 2, {"n": 7}, upsert=True),
        ],
        author=author,
    )
    assert [(result.id, result.version, result.created) for result in results] == [
        ("int:1", 2, False), ("apple", 2, False), ("a", 1, True), ("int:2", 1, True),
    ]  # fmt: skip
    apple = await storage.get("stock", "apple")
    assert apple is not None
    assert apple.document == {"_id": "apple", "left": 4}


async def test_the_same_document_several_times(storage: NodeStorage, author: Author) -> None:
    def increment(document: Document) -> Document:
        return {**document, "n": document["n"] + 1}

    results = await storage.transact(
        [
            Create("orders", {"_id": 1, "n": 1}),
            Update("orders", 1, increment, Condition.at_version(1)),
            Update("orders", 1, increment, Condition.at_version(2)),
            Delete("orders", 1, Condition.at_version(3)),
            Create("orders", {"_id": 1, "n": 9}),
        ],
        author=author,
    )
    assert [result.version for result in results] == [1, 2, 3, 4, 1]
    node = await storage.get("orders", 1)
    assert node is not None
    assert (node.version, node.document) == (1, {"_id": 1, "n": 9})


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (Update("orders", 9, MergePatch({})), NotFound),
        (Update("orders", 1, MergePatch({}), Condition.at_version(7)), VersionMismatch),
        (Update("orders", 1, JsonPatch([{"op": "remove", "path": "/x"}])), PatchFailed),
        (Update("orders", 1, JsonPatch([{"op": "remove", "path": "/_id"}])), Malformed),
        (Create("orders", {"_id": 1}), Conflict),
        (Create("orders", {"_sync": 1}), Malformed),
        (Delete("orders", 9), NotFound),
        (Replace("orders", 9, {}), NotFound),
        (Replace("orders", 1, {}, Condition.absent(), upsert=True), VersionMismatch),
    ],
)
async def test_an_error_names_its_operation_and_nothing_is_written(
    storage: NodeStorage, author: Author, outside: Any, last: WriteOperation, error: type[Exception]
) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    before = await outside.orders.find().to_list()
    operations: list[WriteOperation] = [Update("orders", 1, MergePatch({"n": 2})), Create("orders", {"_id": 2}), last]
    with pytest.raises(error, match=r"^operation 2: "):
        await storage.transact(operations, author=author)
    assert await outside.orders.find().to_list() == before


async def test_the_number_of_operations_is_bounded(outside: Any, author: Author) -> None:
    storage = NodeStorage(outside, outside.operations, WritePolicy(transaction_operations=2))
    with pytest.raises(TooLarge):
        await storage.transact([Create("orders", {})] * 3, author=author)
    with pytest.raises(Malformed):
        await storage.transact([], author=author)
    assert len(await storage.transact([Create("orders", {})] * 2, author=author)) == 2


async def test_transfers_at_the_same_time_keep_the_sum(storage: NodeStorage) -> None:
    for number in range(4):
        await storage.create("accounts", {"_id": number, "n": 100}, author=Author.new("tester"))

    def add(amount: int) -> Any:
        return lambda document: {**document, "n": document["n"] + amount}

    async def transfer(giver: int, taker: int) -> None:
        listed = [Update("accounts", giver, add(-1)), Update("accounts", taker, add(1))]
        await storage.transact(listed, author=Author.new("tester"))

    await asyncio.gather(*(transfer(number % 4, (number * 3 + 1) % 4) for number in range(24) if number % 4 != 1))
    nodes = await storage.find("accounts", after=None, limit=10)
    assert sum(node.document["n"] for node in nodes) == 400


async def test_the_first_operation_that_fails_is_named(storage: NodeStorage, author: Author, outside: Any) -> None:
    """Also where MongoDB refuses it, after later ones were decided."""
    await outside.orders.create_index("code", unique=True)
    rules = {"$jsonSchema": {"properties": {"n": {"bsonType": "int"}}}}
    await outside.command({"collMod": "orders", "validator": rules})
    await storage.create("orders", {"_id": 1, "code": "a"}, author=author)
    good: list[WriteOperation] = [Create("orders", {"_id": number, "code": number}) for number in range(10, 15)]
    missing = Delete("orders", "missing")
    for bad, error in (
        (Create("orders", {"_id": 2, "code": "a"}), Conflict),
        (Create("orders", {"_id": 1, "code": "b"}), Conflict),
        (Create("orders", {"_id": 2, "code": "b", "n": "text"}), Malformed),
        (Update("orders", 1, MergePatch({"n": "text"})), Malformed),
    ):
        with pytest.raises(error, match=r"^operation 5: orders/int:\d can't be written: "):
            await storage.transact([*good, bad, Create("orders", {"code": "c"}), missing], author=author)
    assert await outside.orders.count_documents({}) == 1


async def test_deletes_make_room_for_what_follows(storage: NodeStorage, author: Author, outside: Any) -> None:
    await outside.orders.create_index("code", unique=True)
    for number in range(3):
        await storage.create("orders", {"_id": number, "code": number}, author=author)
    operations: list[WriteOperation] = [Delete("orders", number) for number in range(3)]
    operations += [Create("orders", {"_id": f"new{number}", "code": number}) for number in range(3)]
    results = await storage.transact(operations, author=author)
    assert [result.version for result in results] == [2, 2, 2, 1, 1, 1]
    assert await outside.orders.distinct("_id") == ["new0", "new1", "new2"]


async def test_equal_ids_are_distinguished(storage: NodeStorage, author: Author, outside: Any) -> None:
    """MongoDB takes 5 and 5.0 for one id, and finds the one that exists for both."""
    await outside.orders.insert_one({"_id": 5.0, "n": 1})
    with pytest.raises(Conflict, match="operation 1: orders/int:5 can't be made") as caught:
        await storage.transact([Create("orders", {"_id": 1}), Replace("orders", 5, {}, upsert=True)], author=author)
    assert caught.value.existing is not None
    with pytest.raises(NotFound):
        await storage.transact([Create("orders", {"_id": 1}), Delete("orders", 5)], author=author)


async def test_large_documents_are_read_one_by_one(storage: NodeStorage, database: Any, author: Author) -> None:
    for number in range(6):
        await storage.create("orders", {"_id": number, "text": "x" * 1_000_000}, author=author)
    operations: list[WriteOperation] = [Update("orders", number, MergePatch({"n": number})) for number in range(6)]
    assert [result.version for result in await storage.transact(operations, author=author)] == [2] * 6
    bounded = NodeStorage(database, database.operations, WritePolicy(transaction_bytes=3_000_000))
    with pytest.raises(TooLarge, match="operation 2: "):
        await bounded.transact(operations, author=author)


KEYS = (1, 2, "a")


def random_operation(chance: random.Random) -> WriteOperation:
    collection, key = chance.choice(["orders", "stock"]), chance.choice(KEYS)
    condition = chance.choice([None, None, None, Condition.at_version(chance.randint(1, 3))])
    document = {"n": chance.randint(1, 2), "list": [chance.randint(1, 9)], f"f{chance.randint(1, 3)}": chance.random()}
    kinds: list[WriteOperation] = [
        Create(collection, {"_id": key} | document),
        Create(collection, document),
        Replace(collection, key, document, condition, upsert=True),
        Update(collection, key, MergePatch(document | {"f1": None}), condition),
        Update(collection, key, JsonPatch([{"op": "add", "path": "/list/-", "value": 1}]), condition),
        Update(collection, key, MergePatch({})),
        Delete(collection, key, condition),
    ]
    return chance.choice(kinds)


@pytest.mark.parametrize("seed", range(40))
async def test_a_transaction_does_what_its_operations_do_one_by_one(
    plain: NodeStorage, outside: Any, seed: int
) -> None:
    """The same results, or the error of the same operation and nothing written."""
    chance, author = random.Random(seed), Author("tester", "1")
    for collection in ("orders", "stock"):
        for key in chance.sample(KEYS, 2):
            await plain.create(collection, {"_id": key, "n": 1, "list": []}, author=author)
    before = {name: await outside[name].find().sort("_id", 1).to_list() for name in ("orders", "stock")}
    operations = [random_operation(chance) for _ in range(chance.randint(2, 9))]
    together: Any
    try:
        together = await plain.transact(operations, author=author)
    except EventsyncError as error:
        together = type(error), int(str(error).split(":")[0].split()[1])
    after = {name: await outside[name].find().sort("_id", 1).to_list() for name in ("orders", "stock")}
    for name, documents in before.items():
        await outside[name].delete_many({})
        if documents:
            await outside[name].insert_many(documents)
    single: Any = []
    for index, operation in enumerate(operations):
        try:
            single.append(await plain._writer.one(operation, author, None))
        except EventsyncError as error:
            single = type(error), index
            break
    if isinstance(single, tuple):
        assert (together, after) == (single, before)
        return
    assert [(item.version, item.created, item.patch) for item in together] == [
        (item.version, item.created, item.patch) for item in single
    ]
    found = {name: await outside[name].find().sort("_id", 1).to_list() for name in ("orders", "stock")}
    assert [_named(item) for item in after["orders"] + after["stock"]] == [
        _named(item) for item in found["orders"] + found["stock"]
    ]


def _named(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """The fields in their order; a new id differs each time."""
    return [(name, "new" if isinstance(value, ObjectId) else value) for name, value in document.items()]
