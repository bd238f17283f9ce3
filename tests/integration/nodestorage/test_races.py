"""Writers at the same time, ours and others': nothing that one of them wrote is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from eventsync.domain.condition import Condition, Tags
from eventsync.domain.values.extended_json import Document, same
from eventsync.errors import Conflict, NotFound, VersionMismatch
from eventsync.nodestorage import Author, JsonPatch, Node, NodeStorage, WritePolicy


@pytest.fixture
def meanwhile(mongodb_uri: str, database_name: str) -> Iterator[Any]:
    """A collection to write to in the middle of an edit: with a driver that blocks, as edits are plain functions."""
    with MongoClient[dict[str, Any]](mongodb_uri) as blocking:
        yield blocking[database_name].orders


def increment(document: Document) -> Document:
    return {**document, "n": document["n"] + 1}


def interrupted(edit: Callable[[Document], Document], *interruptions: Callable[[], Any]) -> Any:
    """The edit, with something else happening between each read and write, as long as there is something."""
    left = iter(interruptions)

    def run(document: Document) -> Document:
        next(left, lambda: None)()
        return edit(document)

    return run


async def test_800_increments_by_8_writers(database: Any) -> None:
    # A storage stands for a process: writers with the same one take turns, others race.
    storages = [NodeStorage(database, database.operations, WritePolicy()) for _ in range(4)]
    storage = storages[0]
    await storage.create("orders", {"_id": 1, "n": 0}, author=Author.new("tester"))
    versions: list[int] = []

    async def write(writer: int) -> None:
        for _ in range(100):
            author = Author.new(f"writer {writer}")
            ours = storages[writer % 4]
            versions.append((await ours.find_one_and_update("orders", 1, increment, author=author)).version)

    async with asyncio.TaskGroup() as group:
        for writer in range(8):
            group.create_task(write(writer))
    node = await storage.get("orders", 1)
    assert node is not None
    assert (node.document["n"], node.version) == (800, 801)
    assert sorted(versions) == list(range(2, 802))


@pytest.mark.parametrize(
    ("update", "result"),
    [
        ({"$set": {"n": 10}}, {"_id": 1, "n": 11, "m": "a"}),
        ({"$set": {"m": "b"}}, {"_id": 1, "n": 2, "m": "b"}),
        ({"$set": {"m": "A"}}, {"_id": 1, "n": 2, "m": "A"}),
        ({"$set": {"x": None}}, {"_id": 1, "n": 2, "m": "a", "x": None}),
        ({"$unset": {"m": ""}}, {"_id": 1, "n": 2}),
        ({"$set": {"n": float("nan")}}, {"_id": 1, "n": float("nan"), "m": "a"}),
        ([{"$replaceWith": {"$literal": {"_id": 1, "n": 5}}}], {"_id": 1, "n": 6}),
    ],
)
@pytest.mark.parametrize("kind", ["compared", "large", "collated"])
async def test_a_write_behind_our_back_is_not_lost(
    plain: NodeStorage, outside: Any, meanwhile: Any, author: Author, update: Any, result: Document, kind: str
) -> None:
    if kind == "collated":
        await outside.create_collection("orders", collation={"locale": "en", "strength": 2})
    size = 300_000 if kind == "large" else 1
    await plain.create("orders", {"_id": 1, "n": 1, "m": "a", "text": "x" * size}, author=author)
    edit = interrupted(increment, lambda: meanwhile.update_one({"_id": 1}, update))
    written = await plain.find_one_and_update("orders", 1, edit, author=author)
    node = await plain.get("orders", 1)
    assert node is not None
    assert same(node.document, written.document)
    assert same({name: value for name, value in node.document.items() if name != "text"}, result)


async def test_both_drivers_see_a_write_behind_our_back(storage: NodeStorage, meanwhile: Any, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    edit = interrupted(increment, *[lambda: meanwhile.update_one({"_id": 1}, {"$inc": {"n": 10}})] * 3)
    result = await storage.find_one_and_update("orders", 1, edit, Condition.at_version(1), author=author)
    # Others don't count versions, so the expected one was there all the time.
    assert (result.document, result.version) == ({"_id": 1, "n": 32}, 2)


async def test_an_expected_version_is_tried_once(plain: NodeStorage, meanwhile: Any, author: Author) -> None:
    await plain.create("orders", {"_id": 1, "n": 1}, author=author)
    bump = {"$set": {"n": 5, "_sync": {"v": 2, "op": "x", "by": "y"}}}
    calls: list[None] = []
    edit = interrupted(increment, lambda: calls.append(meanwhile.update_one({"_id": 1}, bump) and None))
    with pytest.raises(VersionMismatch) as failure:
        await plain.find_one_and_update("orders", 1, edit, Condition.at_version(1), author=author)
    assert failure.value.current == 2
    assert len(calls) == 1
    with pytest.raises(VersionMismatch) as failure:
        await plain.find_one_and_update(
            "orders",
            1,
            interrupted(increment, lambda: meanwhile.delete_one({"_id": 1})),
            Condition.at_version(2),
            author=author,
        )
    assert failure.value.current is None


@pytest.mark.parametrize("kind", ["compared", "large", "collated"])
async def test_a_condition_is_compared_with_the_state_that_is_replaced(
    plain: NodeStorage, outside: Any, meanwhile: Any, author: Author, kind: str
) -> None:
    if kind == "collated":
        await outside.create_collection("orders", collation={"locale": "en", "strength": 2})
    size = 300_000 if kind == "large" else 1
    made = await plain.create("orders", {"_id": 1, "n": 1, "text": "x" * size}, author=author)
    condition = Condition(Tags.parse([made.etag or ""], "If-Match"))
    edit = interrupted(increment, lambda: meanwhile.update_one({"_id": 1}, {"$set": {"m": 1}}))
    with pytest.raises(VersionMismatch) as failure:
        await plain.find_one_and_update("orders", 1, edit, condition=condition, author=author)
    node = await plain.get("orders", 1)
    assert node is not None
    assert (node.version, node.document["n"], node.document["m"]) == (1, 1, 1)
    assert (failure.value.current, failure.value.etag) == (1, node.etag)
    now = Condition(Tags.parse([node.etag], "If-Match"))
    written = await plain.find_one_and_update("orders", 1, increment, condition=now, author=author)
    assert (written.version, written.etag) == (2, (await read(plain)).etag)


async def read(storage: NodeStorage) -> Node:
    node = await storage.get("orders", 1)
    assert node is not None
    return node


async def test_deleted_meanwhile(plain: NodeStorage, meanwhile: Any, author: Author) -> None:
    await plain.create("orders", {"_id": 1, "n": 1}, author=author)
    with pytest.raises(NotFound):
        await plain.find_one_and_update(
            "orders", 1, interrupted(increment, lambda: meanwhile.delete_one({"_id": 1})), author=author
        )


async def test_trying_ends(outside: Any, meanwhile: Any, author: Author) -> None:
    await outside.orders.insert_one({"_id": 1, "n": 1})
    always = [lambda: meanwhile.update_one({"_id": 1}, {"$inc": {"n": 1}})] * 10_000
    few = NodeStorage(outside, outside.operations, WritePolicy(attempts=3))
    with pytest.raises(Conflict, match="3 times"):
        await few.find_one_and_update("orders", 1, interrupted(increment, *always), author=author)
    node = await few.get("orders", 1)
    assert node is not None
    assert (node.version, node.document["n"]) == (0, 4)
    short = NodeStorage(outside, outside.operations, WritePolicy(attempts=10_000, deadline=0.2))
    with pytest.raises(Conflict) as caught:
        await short.find_one_and_update("orders", 1, interrupted(increment, *always), author=author)
    assert "10000 times" not in caught.value.message, "the deadline has ended it"


async def test_upserts_at_the_same_time_make_one_document(storage: NodeStorage) -> None:
    results = await asyncio.gather(
        *(storage.replace("orders", 1, {"n": n}, upsert=True, author=Author.new("tester")) for n in range(10))
    )
    assert sorted(result.version for result in results) == list(range(1, 11))
    assert [result.created for result in results].count(True) == 1


async def test_one_of_several_concurrent_creations_succeeds(storage: NodeStorage) -> None:
    results = await asyncio.gather(
        *(storage.create("orders", {"_id": 1}, author=Author.new("tester")) for _ in range(10)),
        *(
            storage.replace("orders", 1, {}, Condition.absent(), upsert=True, author=Author.new("tester"))
            for _ in range(10)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 19
    assert all(isinstance(error, Conflict | VersionMismatch) for error in refused)


async def test_deletes_and_updates_at_the_same_time(storage: NodeStorage) -> None:
    await storage.create("orders", {"_id": 1, "n": 0}, author=Author.new("tester"))
    patch = JsonPatch([{"op": "add", "path": "/m", "value": 1}])
    results = await asyncio.gather(
        *(storage.delete("orders", 1, author=Author.new("tester")) for _ in range(5)),
        *(storage.find_one_and_update("orders", 1, patch, author=Author.new("tester")) for _ in range(5)),
        return_exceptions=True,
    )
    deleted = [result for result in results[:5] if not isinstance(result, BaseException)]
    assert len(deleted) == 1
    assert all(isinstance(result, NotFound) for result in results if isinstance(result, BaseException))
    assert await storage.get("orders", 1) is None
