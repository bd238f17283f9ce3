"""Stored snapshots: shapes at positions of the log, in `snapshots` and `snapshot_chunks`.

A snapshot is written as a stream and becomes visible as a whole: its document in `snapshots` becomes `complete` after
its last chunk. Removal is the reverse: the snapshot is hidden first, and removed once no reader can hold it.

Of one that is not `complete`, `hidden` says the rest: it is missing while the snapshot is written, true while the
snapshot may be shown again, and false from the beginning of its removal on, which is final.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.concurrency.offload import Offload
from eventsync.domain.encoded_state import EncodedState
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import Document
from eventsync.errors import EventsyncError, Unavailable
from eventsync.mongodb.clocks import NOW, literals
from eventsync.mongodb.errors import translated
from eventsync.stores.snapshots.chunks import Chunk, ChunkStore
from eventsync.stores.snapshots.rows import EncodedRow, Row, StoredLine, cut, encoded_row, read_row


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A complete snapshot of a shape at `log:seq`, which is cluster time `time`.

    `bytes` is its compressed size, `raw_bytes` the uncompressed one. `at` is its completion by MongoDB's clock.
    """

    id: str
    log: LogId
    shape: str
    seq: Seq
    time: Timestamp
    chunks: int
    documents: int
    bytes: int
    raw_bytes: int
    at: datetime

    @property
    def collection(self) -> str:
        return self.shape.partition("/")[0]


@dataclass(frozen=True, slots=True)
class UnfinishedSnapshot:
    """The progress of a snapshot that is being written."""

    documents: int
    bytes: int


class SnapshotStore:
    """Writes, finds, reads and removes snapshots of whole collections and of single documents.

    A `shape` is passed as text. Queries for a collection do not find the snapshots of its single documents.
    """

    def __init__(self, database: AsyncDatabase[Any], *, chunk_bytes: int) -> None:
        self._snapshots: AsyncCollection[Any] = database["snapshots"]
        self._chunks = ChunkStore(database)
        self._chunk_bytes = chunk_bytes

    async def ensure_indexes(self) -> None:
        """Create the index by position, which finds the newest snapshot of a shape."""
        keys = [("l", ASCENDING), ("c", ASCENDING), ("n", DESCENDING)]
        with translated("the indexes of stored snapshots can't be made"):
            await self._snapshots.create_indexes([IndexModel(keys, name="by_position")])
        await self._chunks.ensure_indexes()

    # --- writing --------------------------------------------------------------------------------------------------

    async def write(
        self,
        log: LogId,
        shape: str,
        seq: Seq,
        time: Timestamp,
        documents: AsyncIterable[tuple[int, Document] | EncodedRow],
    ) -> StoredSnapshot:
        """Store `documents`, (version, document) in id order, as a snapshot. Holds one chunk at a time.

        An exception from `documents` ends the write and leaves nothing visible.
        """
        name = secrets.token_hex(8)
        row = {"_id": name, "l": log, "c": shape, "n": Int64(seq), "s": time, "complete": False}
        made = {"chunks": 0, "documents": 0, "bytes": Int64(0), "raw": Int64(0)}
        await self._update(name, row | made, upsert=True)
        try:
            async with aclosing(cut(documents, self._chunk_bytes)) as chunks:
                async for chunk in chunks:
                    # Before the chunk, so that a snapshot that was swept meanwhile gets no more chunks.
                    await self._update(name, made | {"chunks": made["chunks"] + 1})
                    size = await self._chunks.write(name, made["chunks"], chunk)
                    made = _grown(made, chunk, size)
            return _snapshot(await self._update(name, made | {"complete": True}))
        except EventsyncError:
            with suppress(Unavailable):  # then `sweep` removes it
                await self.remove(name)
            raise

    async def unfinished(self, log: LogId, shape: str) -> UnfinishedSnapshot | None:
        """Return the progress of the newest incomplete snapshot of a shape, or None."""
        query = {"l": log, "c": shape, "complete": False, "hidden": {"$exists": False}}
        with translated(f"the snapshots of {shape} can't be read"):
            row = await self._snapshots.find_one(query, sort=[("n", DESCENDING)])
        return UnfinishedSnapshot(int(row["documents"]), int(row["bytes"])) if row else None

    async def newest_of_collections(
        self, log: LogId, collection: str | None, limit: int
    ) -> list[tuple[StoredSnapshot, bool]]:
        """Return at most `limit` snapshots of whole collections, or of one, newest first, and which are complete."""
        shown = {"$or": [{"complete": True}, {"complete": False, "hidden": {"$exists": False}}]}
        query = {"l": log, "c": collection or {"$not": {"$regex": "/"}}} | shown
        with translated("stored snapshots can't be listed"):
            rows = self._snapshots.find(query, sort=[("n", DESCENDING), ("at", DESCENDING)], limit=limit)
            return [(_snapshot(row), bool(row["complete"])) async for row in rows]

    # --- finding --------------------------------------------------------------------------------------------------

    async def newest(self, log: LogId, shape: str, up_to: Seq | None = None) -> StoredSnapshot | None:
        """Return the newest complete snapshot at `up_to` or before, or None."""
        return await self._newest({"l": log, "c": shape}, up_to)

    async def oldest(self, log: LogId, shape: str, since: Seq) -> StoredSnapshot | None:
        """Return the oldest complete snapshot at `since` or after, or None."""
        query = {"l": log, "c": shape, "complete": True, "n": {"$gte": Int64(since)}}
        with translated(f"the snapshots of {shape} can't be read"):
            row = await self._snapshots.find_one(query, sort=[("n", ASCENDING)])
        return _snapshot(row) if row else None

    async def nearest(self, log: LogId, shape: Shape, up_to: Seq) -> StoredSnapshot | None:
        """Return the newest snapshot at `up_to` or before of the document `shape` or of its collection, or None."""
        return await self._newest({"l": log, "c": {"$in": [shape.collection, str(shape)]}}, up_to)

    async def find(self, name: str) -> StoredSnapshot | None:
        """Return the complete snapshot with this id, or None. If found after a read, it existed during the read."""
        with translated(f"snapshot {name} can't be read"):
            row = await self._snapshots.find_one({"_id": name, "complete": True})
        return _snapshot(row) if row else None

    async def listing(self, log: LogId) -> list[StoredSnapshot]:
        """Return all complete snapshots of a log, of all shapes, by seq."""
        return await self._list({"l": log, "complete": True})

    async def positions(self, log: LogId) -> dict[str, Seq]:
        """Return the seq of each shape's newest complete snapshot in `log`."""
        # The listing is by seq, so the newest snapshot of each shape remains.
        return {item.shape: item.seq for item in await self.listing(log)}

    # --- reading --------------------------------------------------------------------------------------------------

    async def check(self, snapshot: StoredSnapshot) -> None:
        """Raise `Damaged`, which names the chunk, if one is missing. `lines_of` would not notice it."""
        missing = set(range(snapshot.chunks)) - await self._chunks.numbers(snapshot.id)
        if missing:
            raise Damaged(f"chunk {min(missing)} of snapshot {snapshot.id} is missing, or a part of it")

    async def rows(self, snapshot: StoredSnapshot) -> AsyncGenerator[list[Row]]:
        """Yield all rows in id order, a chunk at a time. Raises `Damaged`, which names the chunk."""
        async with aclosing(self.lines(snapshot)) as chunks:
            async for lines in chunks:
                yield [read_row(snapshot.id, *line) for line in lines]

    async def lines(self, snapshot: StoredSnapshot) -> AsyncGenerator[list[StoredLine]]:
        """Yield all stored rows in id order, a chunk at a time. Raises `Damaged`, which names the chunk."""
        count = 0
        for number in range(snapshot.chunks):
            chunk = await self._chunks.read(snapshot.id, number)
            count += len(chunk.ids)
            yield [(number, *pair) for pair in zip(chunk.ids, chunk.lines, strict=True)]
        if count != snapshot.documents:
            raise Damaged(f"snapshot {snapshot.id} has {count} documents instead of {snapshot.documents}")

    async def ids(self, snapshot: StoredSnapshot, number: int) -> Sequence[IdText]:
        """Return the ids of a chunk, without its documents. Raises `Damaged` if it is missing."""
        return await self._chunks.ids(snapshot.id, number)

    async def lines_of(self, snapshot: StoredSnapshot, ids: Sequence[IdText]) -> AsyncGenerator[StoredLine]:
        """Yield the stored rows of those `ids` that are in the snapshot. Raises `Damaged`, which names the chunk."""
        wanted = frozenset(ids)
        async for number, _ in self._chunks.holding(snapshot.id, ids):
            chunk = await self._chunks.read(snapshot.id, number)
            for text, line in zip(chunk.ids, chunk.lines, strict=True):
                if text in wanted:
                    yield number, text, line

    async def state_of(self, snapshot: StoredSnapshot, text: IdText, offload: Offload) -> EncodedState:
        """Return the encoded state of one document in the snapshot. Raises `Damaged`, which names the chunk."""
        async with aclosing(self.lines_of(snapshot, [text])) as lines:
            async for line in lines:
                return await offload.call(len(line[2]), encoded_row, snapshot.id, *line)
        return None

    async def holds(self, snapshot: StoredSnapshot, ids: Sequence[IdText]) -> set[IdText]:
        """Return those of `ids` that are in the snapshot."""
        return {text async for _, held in self._chunks.holding(snapshot.id, ids) for text in held}

    # --- removing -------------------------------------------------------------------------------------------------

    async def sweep(self, older_than: float) -> int:
        """Remove incomplete snapshots without progress for `older_than` seconds, and those whose removal was
        interrupted. Return how many.
        """
        age = {"$dateDiff": {"startDate": "$at", "endDate": NOW, "unit": "millisecond"}}
        stale = {"complete": False, "hidden": {"$ne": True}, "$expr": {"$gte": [age, older_than * 1000]}}
        # Asked again with each removal: a writer that was only paused may have continued.
        return sum([await self._remove(stale | {"_id": name}) for name in await self._names(stale)])

    async def of_other_logs(self, collections: Sequence[str], log: LogId) -> list[str]:
        """Return the ids of the snapshots of these collections and their documents in all logs except `log`."""
        of = {"$in": [{"$first": {"$split": ["$c", "/"]}}, list(collections)]}
        return await self._names({"l": {"$ne": log}, "$expr": of})

    async def hide(self, names: Iterable[str]) -> None:
        """Hide snapshots: they are no longer found, but a reader that has found one can still read it."""
        await self._set_hidden(names, hidden=True)

    async def show(self, names: Iterable[str]) -> None:
        """Make hidden snapshots visible again."""
        await self._set_hidden(names, hidden=False)

    async def hidden(self, log: LogId) -> list[StoredSnapshot]:
        """Return the hidden snapshots, by seq."""
        return await self._list({"l": log, "complete": False, "hidden": True})

    async def remove(self, name: str) -> None:
        """Hide one snapshot for good, and remove its chunks and its document."""
        await self._remove({"_id": name})

    async def remove_hidden(self, name: str) -> bool:
        """Remove a snapshot, unless it was shown again. Return True if it is removed."""
        return await self._remove({"_id": name, "complete": False, "hidden": True})

    async def _remove(self, query: dict[str, Any]) -> bool:
        with translated(f"snapshot {query['_id']} can't be removed"):
            # First hidden: no reader may find a snapshot that has lost some of its chunks, nor may anybody show it.
            change = {"$set": {"complete": False, "hidden": False}}
            if not (await self._snapshots.update_one(query, change)).matched_count:
                return False
            await self._chunks.remove(query["_id"])
            await self._snapshots.delete_one({"_id": query["_id"]})
        return True

    async def _newest(self, query: dict[str, Any], up_to: Seq | None) -> StoredSnapshot | None:
        query |= {"complete": True} | ({"n": {"$lte": Int64(up_to)}} if up_to is not None else {})
        with translated(f"the snapshots of {query['c']} can't be read"):
            row = await self._snapshots.find_one(query, sort=[("n", DESCENDING), ("at", DESCENDING)])
        return _snapshot(row) if row else None

    async def _list(self, query: dict[str, Any]) -> list[StoredSnapshot]:
        with translated("stored snapshots can't be listed"):
            rows = self._snapshots.find(query, sort=[("n", ASCENDING), ("at", ASCENDING)])
            return [_snapshot(row) async for row in rows]

    async def _set_hidden(self, names: Iterable[str], *, hidden: bool) -> None:
        query = {"_id": {"$in": list(names)}, "complete": hidden} | ({} if hidden else {"hidden": True})
        with translated("stored snapshots can't be retired"):
            await self._snapshots.update_many(query, {"$set": {"complete": not hidden, "hidden": hidden}})

    async def _names(self, query: dict[str, Any]) -> list[str]:
        with translated("stored snapshots can't be listed"):
            return [row["_id"] async for row in self._snapshots.find(query, {"_id": 1})]

    async def _update(self, name: str, fields: dict[str, Any], *, upsert: bool = False) -> dict[str, Any]:
        """Set fields of a snapshot that is being written. `at` is the time of its last progress."""
        # Without `upsert`, a snapshot that was swept meanwhile is not made again.
        query = {"_id": name} | ({} if upsert else {"complete": False, "hidden": {"$exists": False}})
        change = [{"$set": literals(fields) | {"at": NOW}}]
        with translated(f"snapshot {name} can't be written"):
            row: dict[str, Any] | None = await self._snapshots.find_one_and_update(
                query, change, upsert=upsert, return_document=ReturnDocument.AFTER
            )
        if row is None:
            raise Unavailable(f"snapshot {name} was removed while it was being written")
        return row


def _grown(made: dict[str, int], chunk: Chunk, size: int) -> dict[str, int]:
    raw = sum(map(len, chunk.lines)) + len(chunk.lines)
    return {
        "chunks": made["chunks"] + 1,
        "documents": made["documents"] + len(chunk.ids),
        "bytes": Int64(made["bytes"] + size),
        "raw": Int64(made["raw"] + raw),
    }


def _snapshot(row: dict[str, Any]) -> StoredSnapshot:
    return StoredSnapshot(
        row["_id"],
        LogId(row["l"]),
        row["c"],
        Seq(row["n"]),
        row["s"],
        int(row["chunks"]),
        int(row["documents"]),
        int(row["bytes"]),
        int(row.get("raw", row["bytes"])),
        row["at"],
    )
