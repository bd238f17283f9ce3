from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson
import pytest
from bson import Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.read_concern import ReadConcern

from eventsync.domain.ids import format_id
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.snapshots.live_snapshots import CollectionGone, SnapshotReader, TimeNotKept
from eventsync.stores.stores import Stores
from support.failpoints import keeping
from support.load import under_load
from support.replay import Replay, assert_complete, replayed, tracked
from support.replica import to_tree
from support.systems import running_worker
from support.waiting import within

LOG = LogId("k3f9ab2c")
DOCS = Shape("docs")


async def checkpoint_now(stores: Stores, seq: int = 0) -> None:
    """A checkpoint that says: `seq` is the collection as it is now."""
    async with watch(stores.data, []) as stream:
        await stores.logs.checkpoint(LOG, Seq(seq), stream.token, stream_time(stream.token))


def stream_time(token: str) -> Timestamp:
    return Timestamp(int(token[2:10], 16), int(token[10:18], 16))


async def rows(stores: Stores, shape: Shape, log: LogId = LOG) -> tuple[Position, list[dict[str, Any]]]:
    async with stores.snapshots.live.open(log, shape) as snapshot:
        found = [(document.id, orjson.loads(document.row)) async for batch in snapshot.batches for document in batch]
    assert [key for key, _ in found] == [row["id"] for _, row in found]
    return snapshot.position, [row for _, row in found]


async def test_a_snapshot_is_the_collection_at_the_checkpoint_whatever_came_later(stores: Stores) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": n, "a": 1, "_sync": {"v": Int64(n), "op": "o", "by": "b"}} for n in range(3)])
    await checkpoint_now(stores, 7)
    await docs.update_one({"_id": 1}, {"$set": {"a": 2}})
    await docs.delete_one({"_id": 2})
    await docs.insert_one({"_id": 3})
    position, found = await rows(stores, DOCS)
    assert str(position) == "k3f9ab2c:7"
    assert found == [{"id": f"int:{n}", "version": n, "doc": {"_id": n, "a": 1}} for n in range(3)]


async def test_a_snapshot_of_one_document(stores: Stores) -> None:
    await stores.data["docs"].insert_many([{"_id": key} for key in ("a", "b", 5, {"x": 1})])
    await checkpoint_now(stores)
    for text in ("b", "int:5", 'ejson:{"x":1}'):
        _, found = await rows(stores, Shape.parse(f"docs/{text}"))
        assert [row["id"] for row in found] == [text]
    _, none = await rows(stores, Shape.parse("docs/nobody"))
    assert none == []


async def test_a_collection_without_documents_is_empty(stores: Stores) -> None:
    await stores.data.create_collection("docs")
    await checkpoint_now(stores)
    assert (await rows(stores, DOCS))[1] == []


async def test_a_collection_dropped_since_the_checkpoint_is_not_read_as_empty(stores: Stores) -> None:
    """MongoDB before 7.0 finds nothing in it, at whatever time."""
    await stores.data["docs"].insert_many([{"_id": 1}, {"_id": 2}])
    await checkpoint_now(stores)
    await stores.data["docs"].drop()
    await _never_empty(stores, DOCS)
    await stores.data.create_collection("docs")
    await _never_empty(stores, DOCS)
    await _never_empty(stores, Shape.parse("docs/int:1"))


async def _never_empty(stores: Stores, shape: Shape) -> None:
    try:
        _, found = await rows(stores, shape)
    except (CollectionGone, TimeNotKept):
        return
    assert found


async def test_documents_come_in_id_order_over_many_reads(stores: Stores) -> None:
    numbers = list(range(1300))
    random.Random(1).shuffle(numbers)
    await stores.data["docs"].insert_many([{"_id": n} for n in numbers])
    await checkpoint_now(stores)
    _, found = await rows(stores, DOCS)
    assert [row["doc"]["_id"] for row in found] == sorted(numbers)


async def test_a_document_that_the_driver_cannot_decode_is_in_it(stores: Stores) -> None:
    raw = b"\x1a\0\0\0\x10_id\0\1\0\0\0\x02s\0\2\0\0\0\xff\0\0"
    raw = len(raw).to_bytes(4, "little") + raw[4:]
    await stores.data.command({"insert": "docs", "documents": [RawBSONDocument(raw)]})
    await checkpoint_now(stores)
    assert (await rows(stores, DOCS))[1] == [{"id": "int:1", "version": 0, "doc": {"_id": 1, "s": "\ufffd"}}]


async def test_without_a_checkpoint_there_is_no_snapshot(stores: Stores) -> None:
    with pytest.raises(Unavailable, match="no checkpoint"):
        await rows(stores, DOCS)


async def test_a_checkpoint_that_mongodb_no_longer_keeps(stores: Stores) -> None:
    await stores.data["docs"].insert_one({"_id": 1})
    await stores.logs.checkpoint(LOG, Seq(1), "82AA", Timestamp(1_600_000_000, 1))
    with pytest.raises(TimeNotKept, match="minSnapshotHistoryWindowInSeconds"):
        await rows(stores, DOCS)


async def test_a_snapshot_that_is_left_early_leaves_no_cursor(stores: Stores) -> None:
    await stores.data["docs"].insert_many([{"_id": n} for n in range(2500)])
    await checkpoint_now(stores)
    before = await _open_cursors(stores)
    async with stores.snapshots.live.open(LOG, DOCS) as snapshot:
        await anext(snapshot.batches)
        # While the next batch is on its way the cursor is not idle.
        async with within(10):
            while await _open_cursors(stores) != before + 1:  # noqa: ASYNC110 - the event is in MongoDB
                await asyncio.sleep(0.01)
    assert await _open_cursors(stores) == before


async def _open_cursors(stores: Stores) -> int:
    idle = {"$currentOp": {"idleCursors": True, "allUsers": True, "localOps": True}}
    match = {"$match": {"ns": f"{stores.data.name}.docs", "type": "idleCursor"}}
    admin = stores.data.client.get_database("admin", read_concern=ReadConcern("local"))
    cursor = await admin.aggregate([idle, match])
    return len(await cursor.to_list())


@pytest.mark.slow
async def test_a_snapshot_and_the_later_events_are_the_collection(stores: Stores, settings: Settings) -> None:
    docs, rng = stores.data["docs"], random.Random(7)

    async def write() -> None:
        key = rng.randrange(30)
        if rng.random() < 0.2:
            await docs.delete_one({"_id": key})
        else:
            await docs.update_one({"_id": key}, {"$inc": {"n": 1}, "$push": {"l": rng.random()}}, upsert=True)

    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        taken: list[tuple[Position, list[dict[str, Any]]]] = []
        async with under_load(write, write), watch(stores.log, [{"$match": {"ns.coll": "heads"}}]) as stream:
            while len({position.seq for position, _ in taken}) < 8:
                await stream.read(wait=1, limit=1000)
                taken.append(await rows(stores, DOCS, log))
        await assert_complete(stores, "docs")
        end = {format_id(document["_id"]): to_tree(document) async for document in docs.find()}
    for position, found in taken:
        replay = Replay(seq=position.seq)
        replay.rows = {("docs", row["id"]): (row["version"], row["doc"]) for row in found}
        await replayed(stores, log, replay)
        assert {key: document for key, (_, document) in replay.of("docs").items()} == end


async def test_a_time_that_mongodb_ceases_to_keep_while_it_is_read(client: Client, stores: Stores) -> None:
    await stores.data["docs"].insert_many([{"_id": n} for n in range(20_000)])
    now = (await stores.data.command("ping"))["operationTime"]
    read = 0

    async def slowly() -> None:
        nonlocal read
        async for _ in SnapshotReader(stores.data, stores.logs, batch=10).read("docs", now):
            read += 1
            if read % 10 == 0:
                await stores.data["elsewhere"].insert_one({})  # the time that is kept goes by the newest write

    async with keeping(client, 1):
        with pytest.raises(TimeNotKept, match="docs can't be read as it was at the checkpoint"):
            await slowly()
    assert read >= 10, "it had begun"
