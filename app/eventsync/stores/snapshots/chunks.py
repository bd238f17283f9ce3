"""The chunks of stored snapshots: `snapshot_chunks`, NDJSON compressed with zstd, each with a checksum.

A chunk is `{_id: {s: snapshot id, n, p}, data}`, in several parts if it is too large for one MongoDB document. Its
first part also has `ids`, the ids of its rows in order, `parts`, and `sha256` of the uncompressed bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import zstandard
from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.ids import IdText
from eventsync.domain.replay import Damaged
from eventsync.mongodb.errors import translated

_PART_BYTES = 8 * 1024 * 1024
_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of a snapshot: their ids, and a line of JSON for each."""

    ids: Sequence[IdText]
    lines: Sequence[bytes]


class ChunkStore:
    """Reads and writes chunks. `SnapshotStore` knows which chunks make a snapshot."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._chunks: AsyncCollection[Any] = database["snapshot_chunks"]

    async def ensure_indexes(self) -> None:
        """Create the index by document, which finds the chunk of a document."""
        keys = [("_id.s", ASCENDING), ("ids", ASCENDING)]
        with translated("the indexes of stored snapshots can't be made"):
            await self._chunks.create_indexes([IndexModel(keys, name="by_document")])

    async def write(self, snapshot: str, number: int, chunk: Chunk) -> int:
        """Store one chunk. Return its compressed size."""
        # In a thread, because compression would block the event loop for milliseconds.
        data, digest = await asyncio.to_thread(_compressed, chunk.lines)
        parts = [data[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES)]
        first = {"ids": list(chunk.ids), "parts": len(parts), "sha256": digest}
        with translated(f"chunk {number} of snapshot {snapshot} can't be written"):
            for part, piece in enumerate(parts):
                row = {"_id": {"s": snapshot, "n": number, "p": part}, "data": piece}
                await self._chunks.insert_one(row | first if part == 0 else row)
        return len(data)

    async def read(self, snapshot: str, number: int) -> Chunk:
        """Read and check one chunk. Raises `Damaged` if it differs from what was written."""
        name = f"chunk {number} of snapshot {snapshot}"
        bounds = {"$gte": {"s": snapshot, "n": number}, "$lt": {"s": snapshot, "n": number + 1}}
        with translated(f"{name} can't be read"):
            rows = await self._chunks.find({"_id": bounds}, sort=[("_id", ASCENDING)]).to_list()
        if not rows or len(rows) != rows[0].get("parts"):
            raise Damaged(f"{name} is missing, or a part of it")
        data = b"".join(row["data"] for row in rows)
        lines = await asyncio.to_thread(_lines, name, data, rows[0]["sha256"])
        if len(lines) != len(rows[0]["ids"]):
            raise Damaged(f"{name} has {len(lines)} rows for {len(rows[0]['ids'])} ids")
        return Chunk([IdText(text) for text in rows[0]["ids"]], lines)

    async def ids(self, snapshot: str, number: int) -> Sequence[IdText]:
        """Return the ids of one chunk. Raises `Damaged` if it is missing."""
        name = f"chunk {number} of snapshot {snapshot}"
        with translated(f"{name} can't be read"):
            row = await self._chunks.find_one({"_id": {"s": snapshot, "n": number, "p": 0}}, {"ids": 1})
        if row is None:
            raise Damaged(f"{name} is missing")
        return [IdText(text) for text in row["ids"]]

    async def numbers(self, snapshot: str) -> set[int]:
        """Return the numbers of all chunks that exist, complete or not."""
        with translated(f"the chunks of snapshot {snapshot} can't be listed"):
            return {row["_id"]["n"] async for row in self._chunks.find(_all(snapshot), {"_id": 1})}

    async def holding(self, snapshot: str, ids: Sequence[IdText]) -> AsyncGenerator[tuple[int, list[IdText]]]:
        """Yield the numbers of the chunks with any of these documents, each with the `ids` that it contains."""
        match = {"$match": {"_id.s": snapshot, "ids": {"$in": list(ids)}}}
        matching = {"$project": {"ids": {"$setIntersection": ["$ids", list(ids)]}}}
        with translated(f"the chunks of snapshot {snapshot} can't be found"):
            cursor = await self._chunks.aggregate([match, matching, {"$sort": {"_id": 1}}])
            async with cursor:
                async for row in cursor:
                    yield row["_id"]["n"], row["ids"]

    async def remove(self, snapshot: str) -> None:
        """Remove all chunks of a snapshot."""
        with translated(f"snapshot {snapshot} can't be removed"):
            await self._chunks.delete_many(_all(snapshot))


def _all(snapshot: str) -> dict[str, Any]:
    # MongoDB sorts strings behind all numbers.
    return {"_id": {"$gte": {"s": snapshot}, "$lt": {"s": snapshot, "n": ""}}}


def _compressed(lines: Sequence[bytes]) -> tuple[bytes, bytes]:
    text = b"\n".join(lines)
    return zstandard.ZstdCompressor(level=_LEVEL).compress(text), hashlib.sha256(text).digest()


def _lines(name: str, data: bytes, digest: bytes) -> list[bytes]:
    try:
        text = zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise Damaged(f"{name} can't be unpacked: {error}") from error
    if hashlib.sha256(text).digest() != digest:
        raise Damaged(f"{name} has another checksum than what was written")
    return text.split(b"\n")
