"""Group commit: each writer of a group learns what became of its own write."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import bson
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import IndexModel

from eventsync.concurrency.offload import inline
from eventsync.domain.ids import IdText
from eventsync.domain.stamp import Stamp
from eventsync.domain.values.extended_json import CODEC, RAW_CODEC
from eventsync.errors import Conflict, Malformed, NotFound, PatchFailed, Unavailable, VersionMismatch
from eventsync.nodestorage import Author, Condition, JsonPatch, MergePatch, NodeStorage, WritePolicy, WriteResult
from eventsync.nodestorage.documents import Documents
from eventsync.nodestorage.grouped_write import GroupedWrite, write_group
from eventsync.nodestorage.intent import Modify
from eventsync.nodestorage.retry import Lost
from support.documents import joined
from support.guards import MINE, guard


def by(op_id: str) -> Author:
    return Author("tester", op_id)


async def together(*writes: Any) -> list[Any]:
    """The outcome of each, made at once."""
    return await asyncio.gather(*writes, return_exceptions=True)


async def test_each_writer_of_a_group_gets_its_own_outcome(storage: NodeStorage, outside: Any) -> None:
    await outside.create_collection("orders", validator={"$or": [{"n": {"$type": "int"}}, {"n": {"$exists": False}}]})
    await outside.orders.create_indexes([IndexModel("u", unique=True, sparse=True)])
    await together(*(storage.create("orders", {"_id": n, "n": n, "u": n}, author=by("c")) for n in range(8)))

    def broken(_: Any) -> Any:
        raise ZeroDivisionError

    outcomes = await together(
        storage.find_one_and_update("orders", 0, MergePatch({"n": 10}), author=by("0")),
        storage.find_one_and_update("orders", 1, MergePatch({"n": "no int"}), author=by("1")),
        storage.find_one_and_update("orders", 2, MergePatch({"u": 7}), author=by("2")),
        storage.find_one_and_update("orders", 3, MergePatch({"n": 1}), Condition.at_version(9), author=by("3")),
        storage.find_one_and_update("orders", 4, JsonPatch([{"op": "remove", "path": "/none"}]), author=by("4")),
        storage.find_one_and_update("orders", 99, MergePatch({"n": 1}), author=by("99")),
        storage.find_one_and_update("orders", 5, broken, author=by("5")),
        storage.create("orders", {"_id": 6}, author=by("6")),
        storage.create("orders", {"_id": 8, "n": 8}, author=by("8")),
        storage.replace("orders", 9, {"n": 9}, upsert=True, author=by("9")),
        storage.find_one_and_update("orders", 7, MergePatch({"n": 70}), author=by("7")),
    )
    expected = [WriteResult, Malformed, Conflict, VersionMismatch, PatchFailed, NotFound, ZeroDivisionError, Conflict]
    assert [type(outcome) for outcome in outcomes] == [*expected, WriteResult, WriteResult, WriteResult]
    stored = {row["_id"]: (row["_sync"]["v"], row["_sync"]["op"]) async for row in outside.orders.find()}
    assert stored == dict.fromkeys(range(1, 7), (1, "c")) | {0: (2, "0"), 7: (2, "7"), 8: (1, "8"), 9: (1, "9")}


async def test_writes_of_one_document_in_a_group_make_a_version_each(storage: NodeStorage) -> None:
    outcomes = await together(
        storage.create("orders", {"_id": 1, "n": 0}, author=by("0")),
        *(
            storage.find_one_and_update("orders", 1, lambda d: {**d, "n": d["n"] + 1}, author=by(str(n)))
            for n in range(1, 40)
        ),
    )
    assert [outcome.version for outcome in outcomes] == list(range(1, 41))
    assert [outcome.document["n"] for outcome in outcomes] == list(range(40))


async def test_a_later_write_of_the_group_sees_the_earlier_one(storage: NodeStorage) -> None:
    """A decision on a state that a write of the group makes is answered once that write is made."""
    await storage.create("orders", {"_id": 1, "n": 0}, author=by("0"))
    first, second, same = await together(
        storage.find_one_and_update("orders", 1, MergePatch({"n": 1}), author=by("1")),
        storage.find_one_and_update("orders", 1, MergePatch({"n": 2}), Condition.at_version(1), author=by("2")),
        storage.find_one_and_update("orders", 1, MergePatch({"n": 1}), author=by("3")),
    )
    assert (first.version, type(second), same.version, same.patch) == (2, VersionMismatch, 2, [])


async def test_a_later_write_of_the_group_sees_that_a_field_name_stands_twice(
    storage: NodeStorage, outside: Any
) -> None:
    """The state that the earlier write makes can't be computed, because the decoded document has one of the values."""
    await outside.orders.insert_one(joined({"_id": 1, "owner": "ada"}, {"owner": "bob"}))
    bob = Author("bob", "2", {"orders": guard("bob", {"read": MINE, "update": MINE}, "orders")})
    first, second, third = await together(
        storage.find_one_and_update("orders", 1, MergePatch({"n": 1}), author=by("1")),
        storage.find_one_and_update("orders", 1, MergePatch({"n": 1}), author=bob),
        storage.find_one_and_update("orders", 1, MergePatch({"owner": "eve"}), author=by("3")),
    )
    assert (first.version, type(second), type(third)) == (1, NotFound, Conflict)


@pytest.mark.parametrize("number", [Int64(5), 5.0, Decimal128("5"), 5], ids=repr)
@pytest.mark.parametrize("place", ["top", "deep", "list"])
async def test_a_foreign_change_of_a_number_s_type_is_seen(
    storage: NodeStorage, outside: Any, number: Any, place: str
) -> None:
    """`$eq` takes 5 and 5.0 for the same; the guess must not."""

    def holding(n: Any) -> dict[str, Any]:
        return {"top": {"n": n}, "deep": {"d": {"n": n}}, "list": {"d": [n]}}[place]

    def count(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "m": document.get("m", 0) + 1}

    await storage.create("orders", {"_id": 1, **holding(number)}, author=by("0"))
    for other in (5, Int64(5), 5.0, Decimal128("5")):
        await outside.orders.update_one({"_id": 1}, {"$set": holding(other)})
        result = await storage.find_one_and_update("orders", 1, count, author=by("1"))
        assert result.document.pop("m") == result.version - 1
        assert repr(result.document) == repr({"_id": 1, **holding(other)})


async def test_a_document_that_is_gone_is_noticed(storage: NodeStorage, outside: Any) -> None:
    """An update of a document that is gone fails silently in MongoDB."""
    await together(*(storage.create("orders", {"_id": n, "n": 0}, author=by("c")) for n in range(6)))
    await outside.orders.delete_many({"_id": {"$in": [1, 4]}})
    outcomes = await together(
        *(storage.find_one_and_update("orders", n, MergePatch({"n": 1}), author=by(str(n))) for n in range(6))
    )
    assert [type(outcome) for outcome in outcomes] == [NotFound if n in (1, 4) else WriteResult for n in range(6)]
    assert await outside.orders.count_documents({}) == 4


class Interrupted(Documents):
    """Another writer comes between the write and the look at its outcome."""

    def __init__(self, collection: Any, between: Any) -> None:
        super().__init__(collection, inline(), asyncio.Semaphore(4))
        self._between = between

    async def stamps(self, ids: Sequence[Any]) -> Any:
        await self._between()
        return await super().stamps(ids)


def raised(raw: RawBSONDocument, op_id: str) -> GroupedWrite:
    stamp = Stamp(2, op_id, "tester")
    return GroupedWrite(raw["_id"], raw["_id"], Modify({"$set": {"n": 1, "_sync": stamp.stored()}}), stamp, raw)


async def test_an_outcome_that_nobody_can_know_is_called_unknown(database: Any, outside: Any) -> None:
    """One document is gone before the write, and another is changed by somebody else right after it."""
    rows = [{"_id": name, "n": 0, "_sync": Stamp(1, "c", "tester").stored()} for name in "abc"]
    await outside.orders.insert_many(rows)
    raws = [RawBSONDocument(bson.encode(row, codec_options=CODEC), RAW_CODEC) for row in rows]
    await outside.orders.delete_one({"_id": "a"})

    async def change() -> None:
        await outside.orders.update_one({"_id": "b"}, {"$set": {"_sync": Stamp(3, "other", None).stored()}})

    outcomes = await write_group(Interrupted(database["orders"], change), [raised(raw, raw["_id"]) for raw in raws])
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable, type(None)]
    assert "the outcome is unknown" in str(outcomes[0])


async def test_a_write_that_is_followed_by_one_of_its_group_was_made(database: Any, outside: Any) -> None:
    rows = [{"_id": name, "n": 0, "_sync": Stamp(1, "c", "tester").stored()} for name in "ab"]
    await outside.orders.insert_many(rows)
    gone, first = (RawBSONDocument(bson.encode(row, codec_options=CODEC), RAW_CODEC) for row in rows)
    await outside.orders.delete_one({"_id": "a"})
    made = raised(first, "x")
    after = RawBSONDocument(
        bson.encode({"_id": "b", "n": 1, "_sync": made.stamp.stored()}, codec_options=CODEC), RAW_CODEC
    )
    stamp = Stamp(3, "y", "tester")
    second = GroupedWrite(after["_id"], "b", Modify({"$set": {"n": 2, "_sync": stamp.stored()}}), stamp, after)
    documents = Documents(database["orders"], inline(), asyncio.Semaphore(4))
    outcomes = await write_group(documents, [raised(gone, "z"), made, second])
    assert [type(outcome) for outcome in outcomes] == [Lost, type(None), type(None)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcz0129"), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "c", "Z", "_", "10", "9"]), VALUES, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FIELDS, st.lists(FIELDS, min_size=1, max_size=4), st.sampled_from([0, 100, 1000]))
async def test_the_state_after_a_write_is_the_stored_one(
    plain: NodeStorage, outside: Any, first: dict[str, Any], then: list[dict[str, Any]], size: int
) -> None:
    """Otherwise the next write of the document would fail, and read it again.

    `size` decides if a pipeline makes the change.
    """
    await outside.orders.delete_many({})
    rest = {"text": "x" * size}
    await plain.create("orders", {"_id": 1, **rest, **first}, author=by("c"))
    raw = outside.orders.with_options(codec_options=RAW_CODEC)
    for fields in then:
        await plain.replace("orders", 1, rest | fields, upsert=False, author=by("r"))
        guess = plain._recent.get("orders", IdText("int:1"))
        stored = await raw.find_one({"_id": 1})
        if guess is None:
            assert re.search(r'"\d+":', json.dumps([first, then])), "only new names of digits have an uncertain place"
        else:
            assert bytes(guess.raw) == bytes(stored.raw)


async def test_a_write_of_some_fields_is_an_update_whatever_the_size(storage: NodeStorage, outside: Any) -> None:
    """MongoDB turns the change of a pipeline into a replacement where most of the document is changed."""
    sizes = range(0, 600, 12)
    await together(*(storage.create("orders", {"_id": n, "n": 0, "t": "x" * n}, author=by("c")) for n in sizes))
    async with await outside.orders.watch() as stream:
        for patch in ({"n": 1}, {"o": {"a": 1, "b": [1, {"c": 2}]}}, {"o": {"a": None, "b": [2]}}, {"t": "y"}):
            outcomes = await together(
                *(storage.find_one_and_update("orders", n, MergePatch(patch), author=by("u")) for n in sizes)
            )
            assert [type(outcome) for outcome in outcomes] == [WriteResult] * len(sizes)
            changes = [await anext(stream) for _ in sizes]
            assert {change["operationType"] for change in changes} == {"update"}


async def test_large_documents_go_alone_and_keep_their_order(storage: NodeStorage) -> None:
    await storage.create("orders", {"_id": 1, "text": "x" * 20_000, "n": 0}, author=by("c"))
    await storage.create("orders", {"_id": 2, "n": 0}, author=by("c"))
    outcomes = await together(
        *(
            storage.find_one_and_update("orders", 1 + n % 2, lambda d: {**d, "n": d["n"] + 1}, author=by(str(n)))
            for n in range(12)
        )
    )
    assert [outcome.version for outcome in outcomes] == [2 + n // 2 for n in range(12)]


async def test_more_bytes_than_a_group_may_have_go_in_several(database: Any, author: Author) -> None:
    storage = NodeStorage(database, database.operations, WritePolicy(group_bytes=10_000))
    await together(*(storage.create("orders", {"_id": n, "t": "x" * 3000}, author=author) for n in range(20)))
    outcomes = await together(
        *(storage.find_one_and_update("orders", n, MergePatch({"n": n}), author=author) for n in range(20))
    )
    assert [outcome.version for outcome in outcomes] == [2] * 20


async def test_deletes_of_a_group_get_their_own_outcomes(storage: NodeStorage, outside: Any) -> None:
    await together(*(storage.create("orders", {"_id": n}, author=by("c")) for n in range(5)))
    outcomes = await together(
        storage.delete("orders", 0, author=by("0")),
        storage.delete("orders", 1, Condition.at_version(7), author=by("1")),
        storage.delete("orders", 99, author=by("99")),
        storage.delete("orders", 2, author=by("2")),
        storage.delete("orders", 2, author=by("3")),
    )
    assert [type(each) for each in outcomes] == [WriteResult, VersionMismatch, NotFound, WriteResult, NotFound]
    assert sorted([row["_id"] async for row in outside.orders.find()]) == [1, 3, 4]


async def test_a_delete_that_its_group_can_not_make_fails_no_other(storage: NodeStorage, outside: Any) -> None:
    """A strict schema refuses the stamp of one of them, which ends the transaction of all."""
    await outside.orders.insert_many([{"_id": n, "strict": n == 1} for n in range(4)])
    rule = {"$or": [{"strict": {"$ne": True}}, {"_sync": {"$exists": False}}]}
    await outside.command("collMod", "orders", validator=rule)
    outcomes = await together(*(storage.delete("orders", n, author=by(str(n))) for n in range(4)))
    assert [type(each) for each in outcomes] == [WriteResult, Malformed, WriteResult, WriteResult]
    assert [row["_id"] async for row in outside.orders.find()] == [1]


async def test_storages_that_race_lose_no_write(database: Any) -> None:
    storages = [NodeStorage(database, database.operations, WritePolicy()) for _ in range(3)]
    await storages[0].create("orders", {"_id": 1, "n": 0}, author=by("c"))

    async def increments(storage: NodeStorage) -> list[int]:
        writes = (
            storage.find_one_and_update("orders", 1, lambda d: {**d, "n": d["n"] + 1}, author=by("i"))
            for _ in range(20)
        )
        return [result.version for result in await asyncio.gather(*writes)]

    versions = await asyncio.gather(*map(increments, storages))
    assert sorted(version for some in versions for version in some) == list(range(2, 62))
    node = await storages[0].get("orders", 1)
    assert node is not None
    assert (node.version, node.document["n"]) == (61, 60)


async def test_a_duplicate_value_that_reads_like_our_guard_is_refused_for_good(storage: NodeStorage) -> None:
    """The text of a refused duplicate quotes the value."""
    one = {"_id": "eventsync: another state 1", "n": 1}
    await storage.create("docs", one, author=by("a"))
    made = await together(*(storage.create("docs", one, author=by(op)) for op in ("b", "c")))
    assert [(type(each), each.lasting) for each in made] == [(Conflict, True)] * 2
