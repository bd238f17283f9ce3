from __future__ import annotations

import asyncio

import orjson
import pytest
from bson.int64 import Int64

from eventsync.domain.ids import IdText
from eventsync.domain.replay import Damaged
from eventsync.domain.values.extended_json import Document, to_json
from eventsync.domain.values.type_hints import type_hints_of
from eventsync.stores.snapshots.chunks import Chunk
from eventsync.sync.catch_up.chunk_cache import ChunkCache, without_hints


class Chunks:
    """Chunks of one row of 100 bytes; counts what is read of each."""

    def __init__(self) -> None:
        self.read: list[tuple[str, int]] = []
        self.damaged: set[int] = set()

    async def __call__(self, snapshot: str, number: int) -> Chunk:
        self.read.append((snapshot, number))
        await asyncio.sleep(0)
        if number in self.damaged:
            raise Damaged(f"chunk {number}")
        return Chunk([IdText("a")], [b'{"id":"a"}'.ljust(100)])


async def test_rows_of_concurrent_requests_share_one_read() -> None:
    chunks = Chunks()
    cache = ChunkCache(chunks, 10_000)
    await asyncio.gather(*(cache.rows("s", number) for number in (0, 1) for _ in range(20)))
    assert sorted(chunks.read) == [("s", 0), ("s", 1)]
    assert cache.reads == 2
    await cache.rows("t", 0)
    assert chunks.read[-1] == ("t", 0)


async def test_full_cache_evicts_the_least_recently_used_chunks() -> None:
    chunks = Chunks()
    cache = ChunkCache(chunks, 2 * 164)
    for number in (0, 1, 0, 2, 0, 1):
        await cache.rows("s", number)
        assert cache.bytes <= 2 * 164
    assert [number for _, number in chunks.read] == [0, 1, 2, 1]


async def test_rows_are_joined_into_runs_of_bounded_size() -> None:
    async def three(_: str, __: int) -> Chunk:
        return Chunk([IdText(key) for key in "abc"], [b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}'])

    cache = ChunkCache(three, 10_000)
    assert (await cache.rows("s", 0)).runs == [b'{"id":"a"}', b'{"id":"b"}', b'{"id":"c"}']
    joined = await cache.rows("s", 0, 21)
    assert (joined.count, joined.runs) == (3, [b'{"id":"a"},{"id":"b"}', b'{"id":"c"}'])
    assert (await cache.rows("s", 0, 1)).runs == (await cache.rows("s", 0)).runs


async def test_chunk_larger_than_the_cache_is_returned_and_not_cached() -> None:
    chunks = Chunks()
    cache = ChunkCache(chunks, 0)
    assert (await cache.rows("s", 0)).count == 1
    assert cache.bytes == 0
    await cache.rows("s", 0)
    assert len(chunks.read) == 2


async def test_damaged_chunk_is_not_cached() -> None:
    chunks = Chunks()
    chunks.damaged.add(0)
    cache = ChunkCache(chunks, 10_000)
    with pytest.raises(Damaged):
        await cache.rows("s", 0)
    chunks.damaged.clear()
    assert (await cache.rows("s", 0)).count == 1


@pytest.mark.parametrize(
    "document",
    [
        {"_id": 1},
        {"_id": 1, "marks": ["/a"]},
        {"_id": 1, "n": Int64(5)},
        {"_id": 1, "n": Int64(5), "marks": [',"marks":[']},
        {"_id": 1, ',"marks":[': Int64(5)},
        {"_id": 1, "last": [[]]},
        {"_id": 1, "last": [Int64(1)]},
    ],
)
def test_without_hints_removes_the_type_hints_of_a_row(document: Document) -> None:
    row = {"id": "int:1", "version": 3, "doc": document}
    type_hints = type_hints_of(document)
    stored = to_json(row | {"marks": type_hints} if type_hints else row)
    assert without_hints(stored) == to_json(row)
    assert set(orjson.loads(without_hints(stored))) == {"id", "version", "doc"}
