from __future__ import annotations

import uuid
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.timestamp import Timestamp

from eventsync.domain.ids import MAX_READ_BYTES, IdText, format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import define
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.shapes import Shape
from eventsync.stores.archive.touched import TouchedStore
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.snapshots.squashed import BATCH, Unsquashable
from eventsync.stores.stores import Stores

LOG, OLD = LogId("k3f9ab2c"), LogId("old00000")


async def log_of(stores: Stores, *events: tuple[int, str, str], log: LogId = LOG) -> None:
    """Events by hand: (seq, collection, id)."""
    rows = [{"_id": {"l": log, "n": Int64(seq)}, "c": name, "i": text} for seq, name, text in events]
    await stores.log["events"].insert_many(rows)


async def touched(stores: Stores, after: int, up_to: int) -> set[str]:
    found: list[str] = []
    async with aclosing(stores.snapshots.squashed.touched(LOG, "docs", after=Seq(after), up_to=Seq(up_to))) as batches:
        async for ids in batches:
            assert 1 <= len(ids) <= BATCH
            found += ids
    assert len(found) == len(set(found)), "each once"
    return set(found)


async def test_each_document_with_an_event_since_once(stores: Stores) -> None:
    await log_of(stores, (1, "docs", "a"), (2, "docs", "b"), (3, "other", "c"), (4, "docs", "a"), (5, "docs", "d"))
    await log_of(stores, (3, "docs", "elsewhere"), log=OLD)
    assert await touched(stores, 0, 5) == {"a", "b", "d"}
    assert await touched(stores, 1, 4) == {"a", "b"}
    assert await touched(stores, 2, 4) == {"a"}
    assert await touched(stores, 4, 4) == set()


async def test_none_is_missed_at_any_step_of_the_archiver(stores: Stores) -> None:
    store = TouchedStore(stores.log)
    events = [(n, "docs", f"d{n % 7}") for n in range(1, 21)] + [(21, "other", "x")]
    await log_of(stores, *events)
    wanted = {after: {text for seq, name, text in events if after < seq <= 20} for after in range(20)}
    rows = [(name, IdText(text), Seq(seq)) for seq, name, text in events if seq <= 10]

    async def check() -> None:
        for after, ids in wanted.items():
            assert await touched(stores, after, 20) >= ids
        assert await touched(stores, 12, 20) == wanted[12]

    await check()
    await store.touch(LOG, rows)
    await check()
    await stores.tiers.raise_archived_up_to(LOG, Seq(10))
    await check()
    for up_to in (4, 10):
        await stores.log["events"].delete_many({"_id": {"$lte": {"l": LOG, "n": Int64(up_to)}}})
        await check()
    assert await touched(stores, 8, 20) == wanted[8]


async def test_behind_the_squash_floor_there_is_no_answer(stores: Stores) -> None:
    await log_of(stores, (9, "docs", "a"))
    await stores.tiers.raise_squash_floor(LOG, Seq(8))
    assert await touched(stores, 8, 9) == {"a"}
    with pytest.raises(BehindHorizon):
        await touched(stores, 7, 9)


async def test_many_documents_come_in_batches(stores: Stores) -> None:
    await log_of(stores, *((n, "docs", f"d{n}") for n in range(1, 1202)))
    assert len(await touched(stores, 0, 1201)) == 1201


async def now(stores: Stores) -> Timestamp:
    time: Timestamp = (await stores.data.command("ping"))["operationTime"]
    return time


async def rows(stores: Stores, time: Timestamp, *ids: str) -> dict[str, Any]:
    async with aclosing(stores.snapshots.squashed.rows(Shape("docs"), [IdText(text) for text in ids], time)) as found:
        listed = [orjson.loads(row) async for row in found]
    assert len(listed) == len({row["id"] for row in listed})
    return {row["id"]: row for row in listed}


async def test_rows_say_what_documents_were_at_a_time(stores: Stores) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": 1, "a": 1, "_sync": {"v": Int64(4), "op": "o", "by": "b"}}, {"_id": "x"}])
    time = await now(stores)
    await docs.update_one({"_id": 1}, {"$set": {"a": 2}})
    await docs.delete_one({"_id": "x"})
    await docs.insert_one({"_id": "y"})
    assert await rows(stores, time, "int:1", "x", "y") == {
        "int:1": {"id": "int:1", "version": 4, "doc": {"_id": 1, "a": 1}},
        "x": {"id": "x", "version": 0, "doc": {"_id": "x"}},
        "y": {"id": "y", "deleted": True},
    }


async def test_ids_that_mongodb_takes_for_equal_are_distinguished(stores: Stores) -> None:
    await stores.data["docs"].insert_one({"_id": 5.0})
    time = await now(stores)
    assert await rows(stores, time, "int:5") == {"int:5": {"id": "int:5", "deleted": True}}
    assert set(await rows(stores, time, "int:5", "ejson:5.0")) == {"int:5", "ejson:5.0"}
    assert (await rows(stores, time, "ejson:5.0"))["ejson:5.0"]["doc"] == {"_id": 5.0}


async def test_ids_of_every_type_are_found(stores: Stores) -> None:
    ids: list[Any] = [datetime(2026, 1, 1, tzinfo=UTC), {"at": datetime(2026, 1, 1, tzinfo=UTC), "n": Int64(1)}, b"x"]
    ids += [ObjectId(), Decimal128("1.50"), uuid.uuid4(), True, 2**40, 2.5, "int:5", {"a": "$x"}]
    await stores.data["docs"].insert_many([{"_id": value} for value in ids])
    texts = [format_id(value) for value in ids]
    found = await rows(stores, await now(stores), *texts)
    assert {text: "doc" in row for text, row in found.items()} == dict.fromkeys(texts, True)
    await stores.data["docs"].delete_many({})
    found = await rows(stores, await now(stores), *texts)
    assert all(row == {"id": text, "deleted": True} for text, row in found.items())


@pytest.mark.parametrize("text", ["x" * (MAX_READ_BYTES + 1), "ejson:[1]"])
async def test_a_document_that_may_be_another_is_not_said_to_be_deleted(stores: Stores, text: str) -> None:
    await stores.data.create_collection("docs")
    with pytest.raises(Unsquashable):
        await rows(stores, await now(stores), text)


@pytest.mark.parametrize("collation", [None, {"locale": "en", "strength": 2}])
async def test_documents_of_a_route_are_looked_up_by_the_index_on_the_id(
    stores: Stores, collation: dict[str, Any] | None
) -> None:
    docs = await stores.data.create_collection("docs", collation=collation)
    # Under this collation, `a1` and `A1` are one id, and "Ada" is "ada".
    names = [f"{letter}{n}" for n in range(300) for letter in ("a" if collation else "aA")]
    await docs.insert_many([{"_id": name, "who": "ada" if int(name[1:]) % 2 else "Ada"} for name in names])
    mine = define("mine", "docs", {"who": "$who"}, {"who": ["text"]})
    declared = RoutedShape.of("mine", {"who": ["ada"]})
    shape = Shape("mine", None, declared, mine.bind_shape(declared))
    time = await now(stores)
    await stores.data.command({"profile": 2})
    found = [orjson.loads(row) async for row in stores.snapshots.squashed.rows(shape, names_of("a1", "a2", "B1"), time)]
    await stores.data.command({"profile": 0})
    by_id = {row["id"]: row.get("doc") for row in found}
    assert by_id == {"a1": {"_id": "a1", "who": "ada"}, "a2": None, "B1": None}
    (read,) = await stores.data["system.profile"].find({"op": "query", "ns": docs.full_name}).to_list()
    assert (read["planSummary"], read["docsExamined"]) == ("IXSCAN { _id: 1 }", 2)


def names_of(*texts: str) -> list[IdText]:
    return [IdText(text) for text in texts]
