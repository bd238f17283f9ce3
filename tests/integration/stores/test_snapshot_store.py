from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.domain.ids import IdText, format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.values.extended_json import Document, same
from eventsync.errors import NotFound, Unavailable
from eventsync.stores.snapshots.rows import Row, read_row
from eventsync.stores.snapshots.store import SnapshotStore, StoredSnapshot
from eventsync.stores.stores import Stores
from support.documents import LEAVES

LOG, OTHER = LogId("k3f9ab2c"), LogId("zzzzzzzz")
TIME = Timestamp(7, 1)


@pytest.fixture
async def stored(stores: Stores) -> SnapshotStore:
    """With chunks of 1 KiB."""
    store = SnapshotStore(stores.log, chunk_bytes=1024)
    await store.ensure_indexes()
    return store


async def told(documents: Iterable[Document], fails: Exception | None = None) -> AsyncGenerator[tuple[int, Document]]:
    for version, document in enumerate(documents):
        yield version, document
    if fails is not None:
        raise fails


async def rows(store: SnapshotStore, snapshot: StoredSnapshot) -> list[Row]:
    return [row async for chunk in store.rows(snapshot) for row in chunk]


async def test_collections_newest_snapshots_are_listed_also_while_written(stored: SnapshotStore) -> None:
    for log, shape, seq in ((LOG, "docs", 3), (LOG, "docs/int:1", 8), (OTHER, "docs", 9), (LOG, "a.b", 5)):
        await stored.write(log, shape, Seq(seq), TIME, told([{"_id": 1}]))
    (hidden, _) = (await stored.newest_of_collections(LOG, "a.b", 1))[0]

    async def listing() -> AsyncGenerator[tuple[int, Document]]:
        found.append(await stored.newest_of_collections(LOG, None, 10))
        yield 1, {"_id": 1}

    found: list[list[tuple[StoredSnapshot, bool]]] = []
    await stored.write(LOG, "docs", Seq(7), TIME, listing())
    assert [(each.shape, each.seq, complete) for each, complete in found[0]] == [
        ("docs", 7, False),
        ("a.b", 5, True),
        ("docs", 3, True),
    ]
    await stored.hide([hidden.id])
    listed = await stored.newest_of_collections(LOG, None, 10)
    assert [(each.seq, complete) for each, complete in listed] == [(7, True), (3, True)]
    assert [each.seq for each, _ in await stored.newest_of_collections(LOG, "docs", 1)] == [7]


async def count(stores: Stores) -> tuple[int, int]:
    log = stores.log
    return await log["snapshots"].count_documents({}), await log["snapshot_chunks"].count_documents({})


async def test_stored_snapshots_read_back_exactly_and_in_order(stored: SnapshotStore, stores: Stores) -> None:
    documents = [{"_id": n, "leaf": leaf, "n": Int64(n), "$x": {"a.b": [leaf]}} for n, leaf in enumerate(LEAVES * 3)]
    made = await stored.write(LOG, "docs", Seq(9), TIME, told(documents))
    assert await stored.newest(LOG, "docs") == made
    assert (made.documents, made.seq, made.time) == (len(documents), 9, TIME)
    assert await count(stores) == (1, made.chunks)
    assert made.chunks > 3
    found = await rows(stored, made)
    assert [row[:2] for row in found] == [(format_id(n), n) for n in range(len(documents))]
    assert all(same(row[2], document) for row, document in zip(found, documents, strict=True))


async def test_the_rows_of_some_documents(stored: SnapshotStore) -> None:
    made = await stored.write(LOG, "docs", Seq(9), TIME, told({"_id": n, "t": "x" * 40} for n in range(100)))
    ids = [IdText(text) for text in ("int:99", "int:0", "nobody", "int:50")]
    found = [read_row(made.id, *line) async for line in stored.lines_of(made, ids)]
    assert [(row[0], row[2]["_id"]) for row in found] == [("int:0", 0), ("int:50", 50), ("int:99", 99)]
    assert await stored.holds(made, ids) == {"int:0", "int:50", "int:99"}


async def test_a_document_larger_than_what_mongodb_stores_in_one_piece(stored: SnapshotStore, stores: Stores) -> None:
    documents = [{"_id": n, "data": os.urandom(size)} for n, size in enumerate((10, 15_900_000, 10))]
    made = await stored.write(LOG, "docs", Seq(9), TIME, told(documents))
    assert (await count(stores))[1] > made.chunks == 2
    assert [row[2] for row in await rows(stored, made)] == documents


async def test_the_snapshot_of_an_empty_collection(stored: SnapshotStore) -> None:
    made = await stored.write(LOG, "docs", Seq(0), TIME, told([]))
    assert (made.chunks, made.documents) == (0, 0)
    assert await rows(stored, made) == []
    assert await stored.newest(LOG, "docs") == made


async def test_the_newest_at_a_position(stored: SnapshotStore) -> None:
    made = {seq: await stored.write(LOG, "docs", Seq(seq), TIME, told([])) for seq in (5, 9, 7)}
    await stored.write(OTHER, "docs", Seq(8), TIME, told([]))
    await stored.write(LOG, "other", Seq(8), TIME, told([]))
    for up_to, seq in ((None, 9), (9, 9), (8, 7), (7, 7), (5, 5)):
        assert await stored.newest(LOG, "docs", Seq(up_to) if up_to else None) == made[seq]
    assert await stored.newest(LOG, "docs", Seq(4)) is None
    assert await stored.positions(LOG) == {"docs": 9, "other": 8}


async def test_one_that_fails_is_never_visible_and_leaves_nothing(stored: SnapshotStore, stores: Stores) -> None:
    documents = told(({"_id": n, "t": "x" * 100} for n in range(100)), NotFound("the source fails"))
    with pytest.raises(NotFound, match="the source fails"):
        await stored.write(LOG, "docs", Seq(9), TIME, documents)
    assert await stored.newest(LOG, "docs") is None
    assert await count(stores) == (0, 0)


async def test_one_that_is_interrupted_is_never_visible_and_is_swept(stored: SnapshotStore, stores: Stores) -> None:
    reached = asyncio.Event()

    async def documents() -> AsyncGenerator[tuple[int, Document]]:
        for n in range(50):
            yield 0, {"_id": n, "t": "x" * 100}
        reached.set()
        await asyncio.Event().wait()

    await stored.write(LOG, "docs", Seq(3), TIME, told([{"_id": 1}]))
    writing = asyncio.create_task(stored.write(LOG, "docs", Seq(9), TIME, documents()))
    await reached.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    newest = await stored.newest(LOG, "docs")
    assert newest is not None
    assert newest.seq == 3
    assert await stored.positions(LOG) == {"docs": 3}
    assert await stored.sweep(3600) == 0
    await _age(stores)
    assert await stored.sweep(3600) == 1
    assert await count(stores) == (1, 1)


async def test_one_that_is_swept_while_it_is_written_fails(stored: SnapshotStore, stores: Stores) -> None:
    async def documents() -> AsyncGenerator[tuple[int, Document]]:
        for n in range(50):
            if n == 30:
                await _age(stores)
                assert await stored.sweep(3600) == 1
            yield 0, {"_id": n, "t": "x" * 100}

    with pytest.raises(Unavailable, match="was removed while it was being written"):
        await stored.write(LOG, "docs", Seq(9), TIME, documents())
    assert await count(stores) == (0, 0)


async def test_one_that_grows_again_is_not_swept(
    stored: SnapshotStore, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer was only paused, and continues while others that count as abandoned are removed."""
    going, paused = asyncio.Event(), asyncio.Event()

    async def documents() -> AsyncGenerator[tuple[int, Document]]:
        for n in range(50):
            if n == 30:
                paused.set()
                await going.wait()
            yield 0, {"_id": n, "t": "x" * 100}

    writing = asyncio.create_task(stored.write(LOG, "docs", Seq(9), TIME, documents()))
    await paused.wait()
    await _age(stores)
    names = stored._names

    async def listed(query: dict[str, Any]) -> list[str]:
        found = await names(query)
        going.set()
        await writing
        return found

    monkeypatch.setattr(stored, "_names", listed)
    assert await stored.sweep(3600) == 0
    made = await stored.newest(LOG, "docs")
    assert made is not None
    assert len(await rows(stored, made)) == 50


async def test_one_whose_removal_has_begun_is_neither_shown_nor_finished(
    stored: SnapshotStore, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks may be gone. A worker that is killed in the middle leaves the rest to the sweep."""

    async def killed(_: str) -> None:
        raise Unavailable("killed")

    made = await stored.write(LOG, "docs", Seq(9), TIME, told([{"_id": 1}]))
    await stored.hide([made.id])
    monkeypatch.setattr(stored._chunks, "remove", killed)
    with pytest.raises(Unavailable):
        await stored.remove_hidden(made.id)
    assert await stored.hidden(LOG) == []
    await stored.show([made.id])
    assert await stored.newest(LOG, "docs") is None
    assert await stored.unfinished(LOG, "docs") is None
    with pytest.raises(Unavailable, match="was removed while it was being written"):
        await stored._update(made.id, {"complete": True})
    monkeypatch.undo()
    await _age(stores)
    assert await stored.sweep(3600) == 1
    assert await count(stores) == (0, 0)


async def _age(stores: Stores) -> None:
    old = {"$set": {"at": datetime(2020, 1, 1, tzinfo=UTC)}}
    await stores.log["snapshots"].update_many({"complete": False}, old)


async def test_snapshots_of_other_logs_are_found_and_removed(stored: SnapshotStore, stores: Stores) -> None:
    for log, name in ((LOG, "docs"), (OTHER, "docs"), (OTHER, "elsewhere")):
        await stored.write(log, name, Seq(1), TIME, told([{"_id": 1}]))
    (name,) = await stored.of_other_logs(["docs"], LOG)
    await stored.remove(name)
    assert await stored.newest(LOG, "docs") is not None
    assert await stored.newest(OTHER, "docs") is None
    assert await stored.newest(OTHER, "elsewhere") is not None
    assert await count(stores) == (2, 2)


DAMAGES: dict[str, tuple[Any, str]] = {
    "nonsense": ({"data": b"nonsense"}, "can't be unpacked"),
    "checksum": ({"sha256": b"x"}, "another checksum"),
    "parts": ({"parts": 2}, "is missing, or a part of it"),
    "ids": ({"ids": ["a"]}, "rows for 1 ids"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_chunk_is_named(stored: SnapshotStore, stores: Stores, damage: str) -> None:
    made = await stored.write(LOG, "docs", Seq(9), TIME, told({"_id": n, "t": "x" * 100} for n in range(50)))
    fields, said = DAMAGES[damage]
    await stores.log["snapshot_chunks"].update_one({"_id": {"s": made.id, "n": 2, "p": 0}}, {"$set": fields})
    with pytest.raises(Damaged, match=f"chunk 2 of snapshot {made.id} .*{said}"):
        await rows(stored, made)


async def test_a_chunk_that_is_missing_is_named(stored: SnapshotStore, stores: Stores) -> None:
    made = await stored.write(LOG, "docs", Seq(9), TIME, told({"_id": n, "t": "x" * 100} for n in range(50)))
    await stored.check(made)
    await stores.log["snapshot_chunks"].delete_one({"_id": {"s": made.id, "n": 3, "p": 0}})
    for reading in (stored.check(made), rows(stored, made)):
        with pytest.raises(Damaged, match=f"chunk 3 of snapshot {made.id} is missing"):
            await reading


async def test_an_id_that_is_not_its_rows(stored: SnapshotStore, stores: Stores) -> None:
    made = await stored.write(LOG, "docs", Seq(9), TIME, told([{"_id": "a"}, {"_id": "b"}]))
    await stores.log["snapshot_chunks"].update_one({}, {"$set": {"ids": ["a", "c"]}})
    with pytest.raises(Damaged, match="has the row of b for c"):
        [read_row(made.id, *line) async for line in stored.lines_of(made, [IdText("c")])]
