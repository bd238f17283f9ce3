"""The documents touched by events that have left MongoDB: the collection `touched`.

A record has `_id: {l: log, c: collection, i: id}` and `n`, the seq of the document's newest archived event. Together
with the events in MongoDB it gives the documents that changed since any position from the squash floor on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bson.int64 import Int64
from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.errors import translated

_BATCH = 1000


class TouchedStore:
    """Writes and removes the records, which `snapshots.squashed` reads. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._touched: AsyncCollection[Any] = database["touched"]

    async def ensure_indexes(self) -> None:
        """Create the index by collection and seq, which finds the documents touched after a position."""
        keys = [("_id.l", ASCENDING), ("_id.c", ASCENDING), ("n", ASCENDING)]
        with translated("the index of touched documents can't be made"):
            await self._touched.create_indexes([IndexModel(keys, name="by_seq")])

    async def touch(self, log: LogId, documents: Iterable[tuple[str, IdText, Seq]]) -> None:
        """Record (collection, id, seq) of events. Repeats and any order are fine: the greatest seq stays."""
        newest: dict[tuple[str, IdText], Seq] = {}
        for collection, text, seq in documents:
            newest[collection, text] = max(seq, newest.get((collection, text), seq))
            if len(newest) == _BATCH:
                await self._write(log, newest)
                newest = {}
        if newest:
            await self._write(log, newest)

    async def any_after(
        self, log: LogId, collection: str, after: Seq, session: AsyncClientSession | None = None
    ) -> bool:
        """Return True if an event of the collection with `after < seq` has left MongoDB, or is about to."""
        query = {"_id.l": log, "_id.c": collection, "n": {"$gt": Int64(after)}}
        with translated("the touched documents can't be read"):
            return await self._touched.find_one(query, {"_id": 1}, session=session) is not None

    async def any(self, log: LogId) -> bool:
        """Return True if any document of the log is recorded."""
        with translated("the touched documents can't be read"):
            return await self._touched.find_one({"_id.l": log}, {"_id": 1}) is not None

    async def count(self, log: LogId, collection: str) -> int:
        """Return the number of recorded documents of a collection."""
        with translated("the touched documents can't be counted"):
            return await self._touched.count_documents({"_id.l": log, "_id.c": collection})

    async def remove_up_to(self, log: LogId, seq: Seq) -> int:
        """Remove the records up to `seq` and return how many. The squash floor must be raised before."""
        with translated("touched documents can't be removed"):
            names = await self._touched.distinct("_id.c", {"_id.l": log})
            counts = [await self._remove(log, name, seq) for name in names]
        return sum(counts)

    async def _remove(self, log: LogId, collection: str, seq: Seq) -> int:
        query = {"_id.l": log, "_id.c": collection, "n": {"$lte": Int64(seq)}}
        return (await self._touched.delete_many(query)).deleted_count

    async def _write(self, log: LogId, newest: dict[tuple[str, IdText], Seq]) -> None:
        writes: list[UpdateOne] = [
            UpdateOne({"_id": {"l": log, "c": collection, "i": text}}, {"$max": {"n": Int64(seq)}}, upsert=True)
            for (collection, text), seq in newest.items()
        ]
        with translated("touched documents can't be recorded"):
            await self._touched.bulk_write(writes, ordered=False)
