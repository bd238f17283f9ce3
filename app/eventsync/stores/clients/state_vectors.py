"""State vectors of the clients, as they acknowledged them: the collection `state_vectors`, one document a client.

`{_id: client id, v: {shape: {g: number of the log, n: seq, l: log id}}, transport, at}`. A position only moves forward,
whoever writes late: `$max` compares such objects field by field, so a newer log outranks any seq of an older one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from bson.int64 import Int64
from pymongo import ASCENDING, UpdateMany, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import CODEC
from eventsync.errors import Malformed
from eventsync.mongodb.capacity import Capacity
from eventsync.mongodb.errors import translated
from eventsync.mongodb.ttl_index import ensure_expiry

_READ_AT_ONCE: Final = 32
"""Clients that are read at a time: of each up to `client_shapes` positions, with ids as long as there are."""

POLLING: Final = "http"
"""The transport of a client that has never been connected by another."""


@dataclass(frozen=True, slots=True, order=True)
class Numbered:
    """A position that can be compared with those of other logs: a stream's logs are numbered in their order."""

    log_number: int
    seq: Seq
    log: LogId


@dataclass(frozen=True, slots=True)
class VectorUpdate:
    """What to record of a client. Without positions: that it was seen.

    `transport` is how it is connected; None where it is not, but has only told its vector.
    """

    client_id: str
    transport: str | None
    vector: Mapping[Shape, Numbered] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A client as it is recorded. `seen` is by MongoDB's clock."""

    client_id: str
    vector: dict[Shape, Position]
    transport: str
    seen: datetime


@dataclass(frozen=True, slots=True)
class KnownClients:
    """How many clients are recorded, and which of them is furthest behind in a log, and where; None without any."""

    count: int
    oldest: str | None
    seq: Seq | None


class VectorStore:
    """Raises `Unavailable`."""

    def __init__(
        self,
        database: AsyncDatabase[Any],
        *,
        max_shapes: int,
        max_clients: int = sys.maxsize,
        max_bytes: int = sys.maxsize,
    ) -> None:
        """`max_shapes` are kept of a client: those that it acknowledged furthest on.

        Of new clients nothing is recorded where there are `max_clients`, or their records have `max_bytes`. (Whoever
        makes up ids could have real clients forgotten, if others gave way.)
        """
        self._vectors: AsyncCollection[Any] = database.get_collection("state_vectors", codec_options=CODEC)
        self._capacity = Capacity(self._vectors, documents=max_clients, size=max_bytes)
        self._max_shapes = max_shapes
        self.refused = 0
        """New clients that were not remembered, counted each time."""

    async def ensure_indexes(self, ttl: float) -> None:
        """MongoDB itself forgets a client `ttl` seconds after it was last seen."""
        with translated("the index of state vectors can't be made"):
            await ensure_expiry(self._vectors, "at", ttl)

    async def remembers(self, client_id: str, *, known: bool | None = None) -> bool:
        """Tell whether a client is recorded, or can be. `known`: it is, or is not, where that was looked up already."""
        with translated("state vectors can't be read"):
            if not await self._capacity.is_full():
                return True
        if known is None:
            known = await self.read(client_id) is not None
        self.refused += not known
        return known

    async def record(self, updates: Sequence[VectorUpdate]) -> None:
        """Record them, in one bulk write. Positions that are recorded already, or older ones, change nothing.

        Where no more clients can be remembered, updates of unknown ones are left out.
        """
        with translated("state vectors can't be recorded"):
            room = not await self._capacity.is_full()
            writes: list[UpdateOne | UpdateMany] = [
                UpdateOne({"_id": {"$eq": update.client_id}}, _change(update), upsert=room) for update in updates
            ]
            writes.append(_shortening([update.client_id for update in updates if update.vector], self._max_shapes))
            made = await self._vectors.bulk_write(writes)
        self._capacity.add(made.upserted_count)

    async def read(self, client_id: str) -> StoredVector | None:
        """One client, if it is known."""
        with translated("a state vector can't be read"):
            row = await self._vectors.find_one({"_id": {"$eq": client_id}})
        return _stored(row) if row else None

    async def listing(self, after: str, limit: int) -> AsyncGenerator[StoredVector]:
        """At most `limit` clients whose id comes behind `after`, by id."""
        with translated("the state vectors can't be read"):
            found = self._vectors.find({"_id": {"$gt": after}}, sort=[("_id", ASCENDING)], limit=limit)
            async for row in found.batch_size(_READ_AT_ONCE):
                yield _stored(row)

    async def known(self, log: LogId) -> KnownClients:
        """Looks at every client: for people who ask, and not for every scrape."""
        entries = {"$objectToArray": {"$ifNull": ["$v", {}]}}
        own = {"$filter": {"input": entries, "cond": {"$eq": ["$$this.v.l", log]}}}
        pipeline: list[dict[str, Any]] = [
            {"$project": {"n": {"$min": {"$map": {"input": own, "in": "$$this.v.n"}}}}},
            {"$match": {"n": {"$ne": None}}},
            {"$sort": {"n": 1, "_id": 1}},
            {"$limit": 1},
        ]
        with translated("the state vectors can't be read"):
            count = await self._vectors.estimated_document_count()
            found = await (await self._vectors.aggregate(pipeline)).to_list()
        return KnownClients(count, found[0]["_id"], Seq(found[0]["n"])) if found else KnownClients(count, None, None)

    async def furthest(self, log: LogId) -> Seq:
        """The furthest position in a log that any client has acknowledged; 0 where none has. Reads all of them."""
        positions = {"$map": {"input": {"$objectToArray": {"$ifNull": ["$v", {}]}}, "in": "$$this.v"}}
        here = {"$filter": {"input": positions, "cond": {"$eq": ["$$this.l", {"$literal": log}]}}}
        furthest = {"$max": {"$map": {"input": here, "in": "$$this.n"}}}
        with translated("the state vectors can't be read"):
            cursor = await self._vectors.aggregate([{"$group": {"_id": None, "n": {"$max": furthest}}}])
            found = await cursor.to_list(1)
        return Seq(found[0]["n"] or 0) if found else Seq(0)

    async def delete(self, client_id: str) -> bool:
        """Forget a client. Whether it was known."""
        with translated("a state vector can't be deleted"):
            return bool((await self._vectors.delete_one({"_id": {"$eq": client_id}})).deleted_count)


def _change(update: VectorUpdate) -> dict[str, Any]:
    named = {"$set": {"transport": update.transport}} if update.transport else {"$setOnInsert": {"transport": POLLING}}
    seen: dict[str, Any] = {"$currentDate": {"at": True}} | named
    if not update.vector:
        return seen
    return seen | {"$max": {f"v.{_key(shape)}": _entry(item) for shape, item in update.vector.items()}}


def _shortening(client_ids: list[str], max_entries: int) -> UpdateMany:
    """A write that leaves these clients `max_entries` entries each."""
    entries = {"$objectToArray": {"$ifNull": ["$v", {}]}}
    newest = {"$slice": [{"$sortArray": {"input": entries, "sortBy": {"v.g": -1, "v.n": -1, "k": 1}}}, max_entries]}
    return UpdateMany(
        {"_id": {"$in": client_ids}, "$expr": {"$gt": [{"$size": entries}, max_entries]}},
        [{"$set": {"v": {"$arrayToObject": newest}}}],
    )


def _entry(item: Numbered) -> dict[str, Any]:
    return {"g": Int64(item.log_number), "n": Int64(item.seq), "l": item.log}


def _key(shape: Shape) -> str:
    """A shape as a field's name: without dots, and without `$`."""
    return quote(str(shape), safe="").replace(".", "%2E")


def _stored(row: Mapping[str, Any]) -> StoredVector:
    vector = {}
    for key, entry in row.get("v", {}).items():
        # A shape of a name that an earlier version took: nobody can ask for it any more.
        with suppress(Malformed):
            vector[Shape.parse(unquote(key))] = Position(LogId(entry["l"]), Seq(entry["n"]))
    return StoredVector(row["_id"], vector, row.get("transport", ""), row["at"])
