"""Commands that go to MongoDB: their number, their concerns, and the events of each write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import bson
import pytest
from bson.int64 import Int64
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from eventsync.domain.events import Event
from eventsync.nodestorage import (
    Author,
    Condition,
    Create,
    Delete,
    Idempotency,
    JsonPatch,
    MergePatch,
    NodeStorage,
    Update,
    WriteOperation,
    WritePolicy,
)
from eventsync_workers.sequencing.converter import convert

MIB = 1024 * 1024
MAJORITY = {"w": "majority", "j": True}


class Commands(CommandListener):
    """Every command that was sent, in order."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._group_reads: set[int] = set()
        self.read_by_groups = 0
        """Bytes of the documents that were read several at a time."""

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))
        if event.command_name == "getMore" or isinstance(event.command.get("filter", {}).get("_id"), Mapping):
            self._group_reads.add(event.request_id)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if event.request_id in self._group_reads:
            cursor = event.reply["cursor"]
            self.read_by_groups += sum(
                len(document.raw) for document in cursor.get("firstBatch") or cursor["nextBatch"]
            )

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def take(self) -> list[dict[str, Any]]:
        taken, self.sent = self.sent, []
        return taken


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
async def watched(mongodb_uri: str, database_name: str, commands: Commands) -> AsyncIterator[NodeStorage]:
    """A storage on a client with the weakest concerns, and its commands."""
    async with AsyncMongoClient[dict[str, Any]](mongodb_uri, w=1, event_listeners=[commands]) as client:
        storage = NodeStorage(client[database_name], client[database_name].operations, WritePolicy())
        yield storage


def names(sent: list[dict[str, Any]]) -> list[str]:
    return [next(iter(command)) for command in sent]


async def test_a_write_of_a_known_document_is_one_update_which_compares_it(
    watched: NodeStorage, commands: Commands, author: Author
) -> None:
    await watched.create("orders", {"_id": 1, "n": 1, "deep": {"list": [1, 2], "x": 1}}, author=author)
    [insert] = commands.take()
    assert insert["writeConcern"] == MAJORITY
    # Once a collection: whether it has a collation.
    await watched.find_one_and_update("orders", 1, MergePatch({"n": 2}), author=author)
    assert names(commands.take()) == ["listCollections", "update"]

    patch = JsonPatch([{"op": "replace", "path": "/deep/list/1", "value": 3}, {"op": "remove", "path": "/deep/x"}])
    await watched.find_one_and_update("orders", 1, patch, Condition.at_version(2), author=author)
    [update] = commands.take()
    assert update["writeConcern"] == MAJORITY
    [statement] = update["updates"]
    assert statement["q"]["_id"] == 1
    stamp = {"v": Int64(3), "op": "operation-1", "by": "tester"}
    assert statement["u"] == {"$set": {"deep.list.1": 3, "_sync": stamp}, "$unset": {"deep.x": ""}}
    [_, _, compared] = statement["q"]["$expr"]["$cond"][0]["$and"]
    assert bson.decode(compared["$eq"][1]["$literal"].raw) == {
        "_id": 1,
        "n": 2,
        "deep": {"list": [1, 2], "x": 1},
        "_sync": {"v": 2, "op": "operation-1", "by": "tester"},
    }

    await watched.find_one_and_update("orders", 1, MergePatch({}), author=author)
    [find] = commands.take()
    assert find["filter"] == {"_id": 1}, "that nothing changes is not decided on a guess"
    assert find["readConcern"]["level"] == "majority"


async def test_a_guess_that_another_writer_made_wrong_costs_one_more_round(
    watched: NodeStorage, outside: Any, commands: Commands, author: Author
) -> None:
    await watched.create("orders", {"_id": 1, "n": 1}, author=author)
    await outside.orders.update_one({"_id": 1}, {"$set": {"m": 5}})
    commands.take()
    result = await watched.find_one_and_update("orders", 1, MergePatch({"n": 2}), author=author)
    assert names(commands.take()) == ["listCollections", "update", "find", "update"]
    assert result.document == {"_id": 1, "n": 2, "m": 5}


async def test_writes_that_arrive_together_are_one_command(
    watched: NodeStorage, commands: Commands, author: Author
) -> None:
    created = [watched.create("orders", {"_id": number, "n": 0}, author=author) for number in range(20)]
    await asyncio.gather(*created)
    [insert] = commands.take()
    assert len(insert["documents"]) == 20
    edits = [watched.find_one_and_update("orders", n, MergePatch({"n": 1}), author=author) for n in range(20)]
    await asyncio.gather(*edits)
    _, update = commands.take()
    assert len(update["updates"]) == 20
    await asyncio.gather(*(watched.delete("orders", n, author=author) for n in range(20)))
    assert names(commands.take()) == ["find", "update", "delete", "commitTransaction"]


@pytest.mark.parametrize("kind", ["updates", "deletes"])
async def test_a_group_reads_few_bytes_of_large_documents(
    watched: NodeStorage, outside: Any, commands: Commands, author: Author, kind: str
) -> None:
    """Each large document is read by its own request, which accounts for its memory, and the small ones together."""
    large = range(0, 16, 2)
    for n in range(16):
        await outside.orders.insert_one({"_id": n, "text": "x" * (4 * MIB if n in large else 10)})
    if kind == "updates":
        await asyncio.gather(
            *(watched.find_one_and_update("orders", n, MergePatch({"n": 1}), author=author) for n in range(16))
        )
        assert [row["n"] async for row in outside.orders.find({}, {"n": 1})] == [1] * 16
    else:
        await asyncio.gather(*(watched.delete("orders", n, author=author) for n in range(16)))
        assert await outside.orders.count_documents({}) == 0
    assert commands.read_by_groups < 16 * MIB, "one answer of MongoDB"
    sizes = [len(command[kind]) for command in commands.take() if kind in command]
    assert max(sizes) == 8, "the small ones"


async def test_transactions_are_majority_committed(watched: NodeStorage, commands: Commands, author: Author) -> None:
    await watched.create("orders", {"_id": 1}, author=author, idempotency=Idempotency("key", "fingerprint"))
    sent = commands.take()
    assert names(sent) == ["collStats", "find", "insert", "insert", "commitTransaction"], "once in 5 s, the size"
    assert sent[1]["readConcern"]["level"] == "snapshot"
    assert sent[-1]["writeConcern"] == MAJORITY
    await watched.delete("orders", 1, author=author)
    assert names(commands.take()) == ["find", "findAndModify", "delete", "commitTransaction"]


async def test_a_transaction_takes_few_commands(watched: NodeStorage, commands: Commands, author: Author) -> None:
    count = 50
    creates: list[WriteOperation] = [Create("orders", {"_id": number, "n": 1}) for number in range(count)]
    await watched.transact(creates, author=author)
    assert names(commands.take()) == ["insert", "commitTransaction"]
    updates: list[WriteOperation] = [Update("orders", number, MergePatch({"n": 2})) for number in range(count)]
    await watched.transact(updates, author=author)
    sent = commands.take()
    assert names(sent) == ["find", "update", "commitTransaction"]
    assert len(sent[1]["updates"]) == count
    deletes: list[WriteOperation] = [Delete("orders", number) for number in range(count)]
    await watched.transact([*deletes, Create("audit", {})], author=author)
    assert names(commands.take()) == ["find", "update", "delete", "insert", "commitTransaction"]


async def test_the_events_of_writes(plain: NodeStorage, outside: Any) -> None:
    images = {"enabled": True}
    await outside.create_collection("orders", changeStreamPreAndPostImages=images)
    watch = await outside.orders.watch(full_document="required", full_document_before_change="required")
    async with watch:
        await plain.create("orders", {"_id": 1, "n": 1}, author=Author("ann", "a"))
        await plain.find_one_and_update("orders", 1, MergePatch({"n": 2}), author=Author("bob", "b"))
        await outside.orders.update_one({"_id": 1}, {"$set": {"n": 3}})
        await plain.delete("orders", 1, author=Author("cyd", "c"))
        listed: list[WriteOperation] = [
            Create("orders", {"_id": 1, "n": 1}),
            Update("orders", 1, MergePatch({"n": 2})),
            Update("orders", 1, MergePatch({"n.m": 3})),
            Delete("orders", 1),
        ]
        await plain.transact(listed, author=Author("dan", "d"))
        events: list[Event] = []
        while len(events) < 8:
            if event := convert(await watch.next()):
                events.append(event)
    assert [(event.op, event.base, event.version, event.op_id, event.by) for event in events] == [
        ("create", 0, 1, "a", "ann"),
        ("update", 1, 2, "b", "bob"),
        ("update", 2, 2, None, None),
        ("delete", 2, 3, "c", "cyd"),
        ("create", 0, 1, "d", "dan"),
        ("update", 1, 2, "d", "dan"),
        ("replace", 2, 3, "d", "dan"),
        ("delete", 3, 4, "d", "dan"),
    ]
