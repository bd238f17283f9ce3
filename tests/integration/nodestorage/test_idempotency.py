"""Idempotency keys: the same key never writes twice, whatever happens in between."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.synchronous.client_session import ClientSession

from eventsync.concurrency.offload import Offload
from eventsync.domain.ids import IdText
from eventsync.domain.values.extended_json import CODEC, Document
from eventsync.errors import Conflict, NotFound, RateLimited, TooLarge, VersionMismatch
from eventsync.mongodb.client import Client
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
    WriteResult,
)
from eventsync.nodestorage.idempotency import IdempotencyRecords
from eventsync.settings import Settings
from support.waiting import patience, within

KEY = Idempotency("key-1", "fingerprint")


def increment(document: Document) -> Document:
    return {**document, "n": document["n"] + 1}


def as_replayed(result: WriteResult) -> WriteResult:
    return replace(result, replayed=True, document=None, patch=[])


async def test_a_repeated_write_answers_the_first_answer(storage: NodeStorage, author: Author) -> None:
    odd = {"_id": 1, "n": Int64(1), "d": Decimal128("1.0"), "a.b": {"$x": [1.0]}}
    made = await storage.create("orders", odd, author=author, idempotency=KEY)
    again = await storage.create("orders", odd, author=author, idempotency=KEY)
    assert again == as_replayed(made)

    second = Idempotency("key-2", "fingerprint")
    changed = await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=second)
    await storage.find_one_and_update("orders", 1, increment, author=author)
    again = await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=second)
    assert again == as_replayed(changed)
    assert (again.version, again.created) == (2, False)

    third = Idempotency("key-3", "fingerprint")
    gone = await storage.delete("orders", 1, author=author, idempotency=third)
    assert await storage.delete("orders", 1, author=author, idempotency=third) == as_replayed(gone)
    assert await storage.create("orders", odd, author=author, idempotency=KEY) == as_replayed(made)
    assert await storage.get("orders", 1) is None


async def test_another_request_under_the_same_key_is_refused(storage: NodeStorage, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author, idempotency=KEY)
    with pytest.raises(Conflict, match="key-1"):
        await storage.find_one_and_update(
            "orders", 1, increment, author=author, idempotency=Idempotency("key-1", "another")
        )
    node = await storage.get("orders", 1)
    assert node is not None
    assert node.version == 1


async def test_an_operation_without_effect_is_recorded(storage: NodeStorage, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    merge = MergePatch({"n": 1})
    first = await storage.find_one_and_update("orders", 1, merge, author=author, idempotency=KEY)
    assert (first.version, first.patch) == (1, [])
    await storage.find_one_and_update("orders", 1, increment, author=author)
    again = await storage.find_one_and_update("orders", 1, merge, author=author, idempotency=KEY)
    assert again == as_replayed(first)
    node = await storage.get("orders", 1)
    assert node is not None
    assert node.document["n"] == 2


async def test_an_error_is_not_recorded(storage: NodeStorage, author: Author, outside: Any) -> None:
    with pytest.raises(NotFound):
        await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=KEY)
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    with pytest.raises(VersionMismatch):
        await storage.find_one_and_update(
            "orders", 1, increment, Condition.at_version(7), author=author, idempotency=KEY
        )
    with pytest.raises(Conflict):
        await storage.create("orders", {"_id": 1}, author=author, idempotency=KEY)
    assert await outside.operations.count_documents({}) == 0
    result = await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=KEY)
    assert (result.version, result.replayed) == (2, False)


@pytest.mark.parametrize("operation", ["update", "create", "create without id", "replace", "delete", "transact"])
async def test_one_of_several_concurrent_requests_writes(storage: NodeStorage, author: Author, operation: str) -> None:
    if operation in {"update", "delete"}:
        await storage.create("orders", {"_id": 1, "n": 0}, author=author)

    async def request() -> WriteResult:
        if operation == "update":
            return await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=KEY)
        if operation == "replace":
            return await storage.replace("orders", 1, {"n": 1}, upsert=True, author=author, idempotency=KEY)
        if operation == "delete":
            return await storage.delete("orders", 1, author=author, idempotency=KEY)
        if operation == "transact":
            listed: list[WriteOperation] = [Create("orders", {"_id": 1, "n": 0}), Update("orders", 1, increment)]
            return (await storage.transact(listed, author=author, idempotency=KEY))[1]
        document = {"n": 1} if operation == "create without id" else {"_id": 1, "n": 1}
        return await storage.create("orders", document, author=author, idempotency=KEY)

    results = await asyncio.gather(*(request() for _ in range(12)))
    assert sorted(result.replayed for result in results) == [False] + [True] * 11
    assert all(as_replayed(result) == as_replayed(results[0]) for result in results)
    nodes = await storage.find("orders", after=None, limit=10)
    assert [(node.document["n"], node.version) for node in nodes] == (
        [] if operation == "delete" else [(1, results[0].version)]
    )


@pytest.mark.parametrize("condition", [None, Condition.at_version(1)])
async def test_a_repeated_delete_succeeds_after_a_missed_record(
    storage: NodeStorage, author: Author, monkeypatch: pytest.MonkeyPatch, condition: Condition | None
) -> None:
    """As where a transaction looked for a record while there was no collection of them, and for the document later."""
    await storage.create("orders", {"_id": 1, "n": 0}, author=author)
    gone = await storage.delete("orders", 1, author=author, idempotency=KEY, condition=condition)
    find = IdempotencyRecords.find

    async def too_early(self: IdempotencyRecords, key: Idempotency, session: Any = None) -> Any:
        return None if session is not None else await find(self, key)

    monkeypatch.setattr(IdempotencyRecords, "find", too_early)
    again = await storage.delete("orders", 1, author=author, idempotency=KEY, condition=condition)
    assert again == as_replayed(gone)
    other = Idempotency("key-2", "fingerprint")
    with pytest.raises((NotFound, VersionMismatch)):
        await storage.delete("orders", 1, author=author, idempotency=other, condition=condition)


# The driver leaves the socket of a connection attempt that was cut off to the garbage collector.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_requests_cut_off_anywhere_and_repeated_write_once_each(storage: NodeStorage) -> None:
    await storage.create("orders", {"_id": 1, "n": 0}, author=Author.new("tester"))
    chance = random.Random(1)

    async def insist(number: int) -> WriteResult:
        key = Idempotency(f"key-{number}", "fingerprint")
        most = 0.02
        while True:
            most += 0.01  # on a slow machine each write takes longer than the first limits
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.001, most)):
                    return await storage.find_one_and_update(
                        "orders", 1, increment, author=Author("tester", key.key), idempotency=key
                    )

    for batch in range(8):
        await asyncio.gather(*(insist(batch * 3 + number) for number in range(3)))
    node = await storage.get("orders", 1)
    assert node is not None
    assert (node.document["n"], node.version) == (24, 25)
    gc.collect()


async def test_write_cut_off_in_a_thread_is_not_made_outside_of_its_transaction(
    mongodb_uri: str, database_name: str, author: Author, outside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of Motor's continues in its thread: here it takes its place in the transaction last."""
    held, loop = asyncio.Event(), asyncio.get_running_loop()
    released, ended = threading.Event(), threading.Event()
    take_place, end = ClientSession._apply_to, ClientSession._end_session

    def holding(self: ClientSession, command: Any, *rest: Any) -> None:
        if is_write(next(iter(command))) and not held.is_set():
            loop.call_soon_threadsafe(held.set)
            assert released.wait(patience(20))
        take_place(self, command, *rest)

    def ending(self: ClientSession, lock: bool) -> None:
        if not self._implicit:
            released.set()
            assert ended.wait(patience(20))
        end(self, lock)

    class Listener(CommandListener):
        def started(self, event: CommandStartedEvent) -> None:
            pass

        def succeeded(self, event: CommandSucceededEvent) -> None:
            self.failed(event)

        def failed(self, event: CommandSucceededEvent | CommandFailedEvent) -> None:
            if is_write(event.command_name):
                ended.set()

    await outside.orders.insert_one({"_id": 1, "n": 0})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="motor")
        from motor.motor_asyncio import AsyncIOMotorClient
    motor: Any = AsyncIOMotorClient(mongodb_uri, event_listeners=[Listener()])
    storage = NodeStorage(motor[database_name], motor[database_name].operations, WritePolicy())
    monkeypatch.setattr(ClientSession, "_apply_to", holding)
    monkeypatch.setattr(ClientSession, "_end_session", ending)
    async with within(20):
        writing = asyncio.create_task(
            storage.find_one_and_update("orders", 1, increment, author=author, idempotency=KEY)
        )
        await held.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        released.set()
        assert await asyncio.to_thread(ended.wait, patience(20))
    monkeypatch.undo()
    assert await outside.orders.find_one({"_id": 1}) == {"_id": 1, "n": 0}
    again = await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=KEY)
    assert (again.version, again.replayed) == (1, False)
    found = await outside.orders.find_one({"_id": 1})
    assert found is not None
    assert found["n"] == 1
    motor.close()


def is_write(command: str) -> bool:
    return command in {"update", "findAndModify"}


async def test_a_record_holds_no_document(plain: NodeStorage, author: Author, outside: Any) -> None:
    text = "x" * 9_000_000
    listed: list[WriteOperation] = [Create("orders", {"_id": n, "text": text + str(n)}) for n in range(2)]
    listed.append(Delete("orders", 1))
    first = await plain.transact(listed, author=author, idempotency=KEY)
    again = await plain.transact(listed, author=author, idempotency=KEY)
    assert again == [as_replayed(result) for result in first]
    [record] = await outside.operations.find({}).to_list()
    assert len(bson.encode(record)) < 500


async def test_records_with_whole_results_are_still_read(plain: NodeStorage, author: Author, outside: Any) -> None:
    whole = [
        WriteResult(IdText("1"), 2**40, {"_id": 1, "text": "x" * 100}, [{"op": "remove", "path": "/gone"}]),
        WriteResult(IdText("x"), 1, None, [], created=True),
    ]
    encoded = bson.encode({str(index): asdict(result) for index, result in enumerate(whole)}, codec_options=CODEC)
    now = datetime.now(UTC)
    record = {"_id": KEY.key, "fingerprint": KEY.fingerprint, "at": now, "parts": 2, "result": encoded[:70]}
    part = {"_id": {"key": KEY.key, "part": 1}, "at": now, "result": encoded[70:]}
    await outside.operations.insert_many([record, part])
    listed: list[WriteOperation] = [Delete("orders", 1), Create("orders", {"_id": "x"})]
    assert await plain.transact(listed, author=author, idempotency=KEY) == [as_replayed(result) for result in whole]


@pytest.mark.parametrize("bound", [{"operation_keys": 2}, {"operation_bytes": 200}])
async def test_no_key_is_forgotten_for_another(
    client: Client, database_name: str, author: Author, bound: dict[str, int]
) -> None:
    database = client[database_name]
    policy = WritePolicy(**bound)
    storage = NodeStorage(database, database.operations, policy)
    keys = [Idempotency(f"key-{number}", "fingerprint") for number in range(3)]
    for number, key in enumerate(keys[:2]):
        await storage.create("orders", {"_id": number}, author=author, idempotency=key)
    # As a process that has just started sees it.
    storage = NodeStorage(database, database.operations, policy)
    with pytest.raises(RateLimited):
        await storage.create("orders", {"_id": 2}, author=author, idempotency=keys[2])
    assert await storage.get("orders", 2) is None
    again = await storage.create("orders", {"_id": 0}, author=author, idempotency=keys[0])
    assert again.replayed
    assert not (await storage.create("orders", {"_id": 2}, author=author)).replayed


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with a key"])
async def test_a_transaction_over_large_documents_succeeds_or_is_refused_at_once(
    plain: NodeStorage, author: Author, key: Idempotency | None
) -> None:
    size, most = 10_000_000, WritePolicy().transaction_bytes
    for number in range(most // size + 1):
        await plain.create("orders", {"_id": number, "n": 0, "text": "x" * size}, author=author)
    listed: list[WriteOperation] = [Update("orders", n, MergePatch({"n": 1})) for n in range(most // size + 1)]
    with pytest.raises(TooLarge, match=str(most)):
        await plain.transact(listed, author=author, idempotency=key)
    results = await plain.transact(listed[:-1], author=author, idempotency=key)
    assert [result.version for result in results] == [2] * (most // size)


@pytest.mark.slow
async def test_a_transaction_counts_its_writes_and_its_reads(database: Any, author: Author) -> None:
    """MongoDB's cache holds both until the end, and takes too large a transaction for one that has lost a race."""
    size = 4_000_000
    policy = WritePolicy(transaction_bytes=4 * size)
    async with Offload.running(Settings(mongodb_uri="mongodb://unused")) as offload:
        storage = NodeStorage(database, database.operations, policy, offload)
        for number in range(3):
            await storage.create("orders", {"_id": number, "text": "x" * size}, author=author)
        move = JsonPatch([{"op": "move", "from": "/text", "path": "/moved"}])
        listed: list[WriteOperation] = [Update("orders", number, move) for number in range(3)]
        with pytest.raises(TooLarge, match="split it up"):
            await storage.transact(listed, author=author)
        small: list[WriteOperation] = [Update("orders", number, MergePatch({"n": 1})) for number in range(3)]
        assert len(await storage.transact(small, author=author)) == 3


async def test_keys_expire(database: Any, outside: Any) -> None:
    for ttl in (86400.0, 86400.0, 0.5):
        await NodeStorage(database, database.operations, WritePolicy(operation_ttl=ttl)).ensure_indexes()
    indexes = await outside.operations.index_information()
    assert indexes["at_1"]["expireAfterSeconds"] == 1
