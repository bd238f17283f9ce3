"""Stored snapshots: what a tracked collection was at a position of the log, in `snapshots` and `snapshot_chunks`.

A snapshot is written as a stream and becomes visible as a whole: its document in `snapshots` is `complete` only once
all of its chunks are there.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from app.domain.ids import IdText, format_id
from app.domain.marks import marks_of, read_marked
from app.domain.position import LogId, Seq
from app.domain.replay import Damaged
from app.domain.values import Document, to_json
from app.driver import translated
from app.errors import EventsyncError, Malformed, Unavailable
from app.stores.snapshot_chunks import Chunk, ChunkStore

Row = tuple[IdText, int, Document]
"""A document of a snapshot: its id, its version, and what it is, without `_sync`."""


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A complete snapshot of a collection at `log:seq`, which is cluster time `time`. `bytes` is compressed."""

    id: str
    log: LogId
    collection: str
    seq: Seq
    time: Timestamp
    chunks: int
    documents: int
    bytes: int


class SnapshotStore:
    """Writes, finds, reads and removes snapshots of whole collections."""

    def __init__(self, database: AsyncDatabase[Any], *, chunk_bytes: int) -> None:
        self._snapshots: AsyncCollection[Any] = database["snapshots"]
        self._chunks = ChunkStore(database)
        self._chunk_bytes = chunk_bytes

    async def ensure_indexes(self) -> None:
        """By position: the newest one of a collection."""
        keys = [("l", ASCENDING), ("c", ASCENDING), ("n", DESCENDING)]
        with translated("the indexes of stored snapshots can't be made"):
            await self._snapshots.create_indexes([IndexModel(keys, name="by_position")])
        await self._chunks.ensure_indexes()

    async def write(
        self, log: LogId, collection: str, seq: Seq, time: Timestamp, documents: AsyncIterable[tuple[int, Document]]
    ) -> StoredSnapshot:
        """Store the snapshot that `documents` are, (version, document) in id order; holds one chunk at a time.

        Whatever `documents` raises ends it, and leaves nothing that is visible.
        """
        name = secrets.token_hex(8)
        row = {"_id": name, "l": log, "c": collection, "n": Int64(seq), "s": time, "complete": False}
        await self._update(name, row | {"chunks": 0, "documents": 0, "bytes": 0}, upsert=True)
        chunks = count = size = 0
        try:
            async with aclosing(self._cut(documents)) as cut:
                async for chunk in cut:
                    # Before the chunk: a snapshot that was swept meanwhile is to get no more of them.
                    await self._update(name, {"chunks": chunks + 1})
                    size += await self._chunks.write(name, chunks, chunk)
                    chunks, count = chunks + 1, count + len(chunk.ids)
            done = {"chunks": chunks, "documents": count, "bytes": size, "complete": True}
            await self._update(name, done)
        except EventsyncError:
            with suppress(Unavailable):  # then `sweep` removes it
                await self.remove(name)
            raise
        return StoredSnapshot(name, log, collection, seq, time, chunks, count, size)

    async def newest(self, log: LogId, collection: str, upto: Seq | None = None) -> StoredSnapshot | None:
        """The newest complete snapshot, at `upto` or before; None where there is none."""
        query: dict[str, Any] = {"l": log, "c": collection, "complete": True}
        query |= {"n": {"$lte": Int64(upto)}} if upto is not None else {}
        with translated(f"the snapshots of {collection} can't be read"):
            row = await self._snapshots.find_one(query, sort=[("n", DESCENDING)])
        if row is None:
            return None
        return StoredSnapshot(
            row["_id"],
            log,
            collection,
            Seq(row["n"]),
            row["s"],
            int(row["chunks"]),
            int(row["documents"]),
            int(row["bytes"]),
        )

    async def positions(self, log: LogId) -> dict[str, Seq]:
        """Where each collection's newest complete snapshot in `log` is."""
        query = {"l": log, "complete": True}
        with translated("stored snapshots can't be listed"):
            # In the order of the seqs: of each collection the newest remains.
            found = self._snapshots.find(query, {"c": 1, "n": 1}, sort=[("n", ASCENDING)])
            return {row["c"]: Seq(row["n"]) async for row in found}

    async def check(self, snapshot: StoredSnapshot) -> None:
        """Raises `Damaged`, which names the chunk, where one is missing: to `rows_of` it would seem to be empty."""
        missing = set(range(snapshot.chunks)) - await self._chunks.numbers(snapshot.id)
        if missing:
            raise Damaged(f"chunk {min(missing)} of snapshot {snapshot.id} is missing, or a part of it")

    async def rows(self, snapshot: StoredSnapshot) -> AsyncGenerator[list[Row]]:
        """All rows in id order, a chunk at a time. Raises `Damaged`, which names the chunk."""
        count = 0
        for number in range(snapshot.chunks):
            chunk = await self._chunks.read(snapshot.id, number)
            count += len(chunk.ids)
            yield [_row(snapshot, number, *pair) for pair in zip(chunk.ids, chunk.lines, strict=True)]
        if count != snapshot.documents:
            raise Damaged(f"snapshot {snapshot.id} has {count} documents instead of {snapshot.documents}")

    async def rows_of(self, snapshot: StoredSnapshot, ids: Sequence[IdText]) -> AsyncGenerator[Row]:
        """The rows of those of `ids` that are in the snapshot. Raises `Damaged`, which names the chunk."""
        wanted = frozenset(ids)
        async for number, _ in self._chunks.holding(snapshot.id, ids):
            chunk = await self._chunks.read(snapshot.id, number)
            for text, line in zip(chunk.ids, chunk.lines, strict=True):
                if text in wanted:
                    yield _row(snapshot, number, text, line)

    async def holds(self, snapshot: StoredSnapshot, ids: Sequence[IdText]) -> set[IdText]:
        """Those of `ids` that are in the snapshot."""
        return {text async for _, found in self._chunks.holding(snapshot.id, ids) for text in found}

    async def sweep(self, older_than: float) -> int:
        """Remove snapshots that were begun and not gone on with for `older_than` seconds; returns how many."""
        age = {"$dateDiff": {"startDate": "$at", "endDate": "$$NOW", "unit": "millisecond"}}
        return await self._remove_all({"complete": False, "$expr": {"$gte": [age, older_than * 1000]}})

    async def retire(self, collections: Sequence[str], log: LogId) -> int:
        """Remove the snapshots of these collections in every log but `log`; returns how many."""
        return await self._remove_all({"c": {"$in": list(collections)}, "l": {"$ne": log}})

    async def remove(self, name: str) -> None:
        """Remove one snapshot: from now on it is not found; then its chunks."""
        with translated(f"snapshot {name} can't be removed"):
            await self._snapshots.update_one({"_id": name}, {"$set": {"complete": False}})
            await self._chunks.remove(name)
            await self._snapshots.delete_one({"_id": name})

    async def _remove_all(self, query: dict[str, Any]) -> int:
        with translated("stored snapshots can't be listed"):
            names = [row["_id"] async for row in self._snapshots.find(query, {"_id": 1})]
        for name in names:
            await self.remove(name)
        return len(names)

    async def _update(self, name: str, fields: dict[str, Any], *, upsert: bool = False) -> None:
        """Set fields of a snapshot that is being written. `at` is when that was last gone on with."""
        query = {"_id": name} | ({} if upsert else {"complete": False})
        literal = {key: {"$literal": value} for key, value in fields.items()}
        with translated(f"snapshot {name} can't be written"):
            result = await self._snapshots.update_one(query, [{"$set": literal | {"at": "$$NOW"}}], upsert=upsert)
        if not upsert and not result.matched_count:
            raise Unavailable(f"snapshot {name} was removed while it was being written")

    async def _cut(self, documents: AsyncIterable[tuple[int, Document]]) -> AsyncGenerator[Chunk]:
        ids: list[IdText] = []
        lines: list[bytes] = []
        size = 0
        async for version, document in documents:
            text = format_id(document["_id"])
            line = _line(text, version, document)
            ids.append(text)
            lines.append(line)
            size += len(line) + 1
            if size >= self._chunk_bytes:
                yield Chunk(ids, lines)
                ids, lines, size = [], [], 0
        if ids:
            yield Chunk(ids, lines)


def _line(text: IdText, version: int, document: Document) -> bytes:
    marks = marks_of(document)
    row = {"id": text, "version": version, "doc": document}
    return to_json(row | {"marks": marks} if marks else row)


def _row(snapshot: StoredSnapshot, number: int, text: IdText, line: bytes) -> Row:
    try:
        tree = orjson.loads(line)
        document: Document = read_marked(tree["doc"], tree.get("marks", ()))
        found = tree["id"], int(tree["version"]), document
    except (Malformed, LookupError, TypeError, ValueError) as error:
        raise Damaged(f"chunk {number} of snapshot {snapshot.id}: the row of {text} can't be read: {error}") from error
    if found[0] != text:
        raise Damaged(f"chunk {number} of snapshot {snapshot.id} has the row of {found[0]} for {text}")
    return found
