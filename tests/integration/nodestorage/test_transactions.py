"""Several documents and collections, all or nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventsync.domain.values.extended_json import Document
from eventsync.errors import Conflict, Malformed, NotFound, PatchFailed, TooLarge, VersionMismatch
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
