"""The acknowledged state vectors of clients: the collection `state_vectors`, one document a client.

`{_id: client id, v: {shape: {g: number of the log, n: seq, l: log id}}, transport, at}`. A position only moves forward,
even if writes arrive out of order: `$max` compares these objects field by field, so a newer log wins over any seq of an
older one. Scopes of one log have no order: there the later write wins, at worst at the cost of a reset. Of the
positions, the furthest ones are kept: at most `max_shapes`, and at most `MAX_BYTES`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from bson import encode
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, UpdateMany, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, OperationFailure

from eventsync.concurrency.slices import Slices
from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain.access.principal import scope_in
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import CODEC
from eventsync.errors import Malformed
from eventsync.logging import Alarms
from eventsync.mongodb.capacity import Capacity
from eventsync.mongodb.errors import is_lasting, short, translated
from eventsync.mongodb.ttl_index import ensure_expiry

_alarms = Alarms(logging.getLogger(__name__))

MAX_BYTES: Final = 1024 * 1024
"""Size of the positions of a record, and of an update (see `VectorUpdate.size`).

A shape's id may have 16 KiB, and three times as many in the name of its field: without a bound, a thousand of them
exceed the size of a document.
"""

_ENTRY_SIZE: Final = 64
"""Bytes of a position without the name of its field, at most."""

_CHANGE_WORK: Final = 256
"""Cost of encoding the change of a position, in bytes of work, besides the name of its field."""

_ENTRY_WORK: Final = 512
"""Cost of reading a position, in bytes of work, besides the name of its field."""

_READ_AT_ONCE: Final = 32
"""Clients in one read. Each has up to `client_shapes` positions, whose shapes may have long ids."""

_OWN_AGE: Final = 5.0
"""Seconds between two counts of the clients of a principal."""

_OWN_KEPT: Final = 10_000
"""Principals whose count is kept, and refused clients."""

POLLING: Final = "http"
"""The transport of a client that has used no other."""


@dataclass(frozen=True, slots=True, order=True)
class NumberedPosition:
    """A position that is comparable across logs, because the logs of a stream are numbered in order."""

    log_number: int
    seq: Seq
    log: LogId

    def replacing(self, known: NumberedPosition) -> NumberedPosition:
        """Return which of two positions counts, if this one was acknowledged after `known`. `_change` does the same."""
        is_of_other_scope = self.log_number == known.log_number and self.log != known.log
        return self if is_of_other_scope else max(known, self)


@dataclass(frozen=True, slots=True)
class VectorUpdate:
    """An update of a client's record. Without positions, it only records that the client was seen.

    `transport` is that of its connection, or None if the client only reported its vector.
    """

    client_id: str
    transport: str | None
    vector: Mapping[Shape, NumberedPosition] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The largest size of its positions in MongoDB, in bytes."""
        return sum(map(_size, self.vector))


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A client's record. `seen` is by MongoDB's clock."""

    client_id: str
    vector: dict[Shape, Position]
    transport: str
    seen: datetime


@dataclass(frozen=True, slots=True)
class KnownClients:
    """The number of recorded clients, and the id and seq of the one furthest behind in a log; None without any."""

    count: int
    oldest: str | None
    seq: Seq | None


class VectorStore:
    """Reads and writes the records. Raises `Unavailable`."""

    def __init__(
        self,
        database: AsyncDatabase[Any],
        *,
        max_shapes: int,
        max_clients: int = sys.maxsize,
        max_bytes: int = sys.maxsize,
        max_own: int = 0,
    ) -> None:
        """`max_shapes` limits the positions of a client, as `MAX_BYTES` does; the furthest ones are kept.

        New clients are not recorded once there are `max_clients` of them, their records have `max_bytes`, or their
        principal has `max_own` (0: no limit). (If new clients replaced others, an attacker could remove real clients
        by inventing ids.)
        """
        self._vectors: AsyncCollection[Any] = database.get_collection("state_vectors", codec_options=CODEC)
        self._capacity = Capacity(self._vectors, documents=max_clients, size=max_bytes)
        self._max_shapes = max_shapes
        self._max_own = max_own
        self._full: TTLCache[bool] = TTLCache(ttl=_OWN_AGE, max_entries=_OWN_KEPT)
        """By scope: True if the principal has as many clients as it may."""
        self._unrecorded: dict[str, None] = {}
        """The newest clients that were refused for that reason. Their acknowledgements create no record."""
        self.refused = 0
        """The number of times that a new client was not recorded."""

    async def ensure_indexes(self, ttl: float) -> None:
        """Create the TTL index that removes a client `ttl` seconds after it was last seen."""
        with translated("the index of state vectors can't be made"):
            await ensure_expiry(self._vectors, "at", ttl)

    async def remembers(self, client_id: str, *, known: bool | None = None) -> bool:
        """Return True if a client is recorded or can be. `known` says if it is recorded, if the caller knows."""
        scope = scope_in(client_id) if self._max_own else ""
        with translated("state vectors can't be read"):
            full = await self._capacity.is_full()
            if not full and not scope:
                return True
            if known is None:
                known = await self.read(client_id) is not None
            if known or (not full and not await self._full.get(scope, lambda: self._is_full(scope))):
                self._unrecorded.pop(client_id, None)
                return True
        self.refused += 1
        if scope:
            self._unrecorded[client_id] = None
            if len(self._unrecorded) > _OWN_KEPT:
                del self._unrecorded[next(iter(self._unrecorded))]
        return False

    async def _is_full(self, scope: str) -> bool:
        """Return True if a principal has as many clients as it may."""
        own = {"_id": {"$gte": scope, "$lt": scope + "\x7f"}}  # ids are printable ASCII
        return await self._vectors.count_documents(own, limit=self._max_own) >= self._max_own

    def bounded(self, update: VectorUpdate) -> VectorUpdate:
        """Return the update with its furthest positions, as many as a record may have."""
        if len(update.vector) <= self._max_shapes and update.size <= MAX_BYTES:
            return update
        kept, size = {}, 0
        furthest = sorted(update.vector.items(), key=lambda entry: (entry[1].log_number, entry[1].seq), reverse=True)
        for shape, item in furthest[: self._max_shapes]:
            size += _size(shape)
            if size > MAX_BYTES:
                break
            kept[shape] = item
        return replace(update, vector=kept)

    async def record(self, updates: Sequence[VectorUpdate]) -> frozenset[str]:
        """Record updates of different clients in one bulk write. Recorded or older positions change nothing.

        Updates of unknown clients are skipped while no more clients can be recorded. Return the ids of the clients
        whose update MongoDB refuses for a reason of its own, which it would do again.
        """
        with translated("state vectors can't be recorded"):
            room = not await self._capacity.is_full()
            slices = Slices()
            writes: list[UpdateOne | UpdateMany] = [
                UpdateOne(
                    {"_id": {"$eq": update.client_id}},
                    await _change(self.bounded(update), slices),
                    upsert=room and update.client_id not in self._unrecorded,
                )
                for update in updates
            ]
            # In the same bulk, after the updates: a client that sends ever new shapes must not grow its record.
            writes.append(_shortening([update.client_id for update in updates if update.vector], self._max_shapes))
            try:
                # Not ordered: a refused update stops no other, and its record is shortened all the same.
                added = (await self._vectors.bulk_write(writes, ordered=False)).upserted_count
            except BulkWriteError as error:
                self._capacity.add(error.details["nUpserted"])
                return _refused(error, updates)
        self._capacity.add(added)
        return frozenset()

    async def read(self, client_id: str) -> StoredVector | None:
        """Return a client's record, or None."""
        with translated("a state vector can't be read"):
            row = await self._vectors.find_one({"_id": {"$eq": client_id}})
        return await _stored(row, Slices()) if row else None

    async def listing(self, after: str, limit: int) -> AsyncGenerator[StoredVector]:
        """Yield at most `limit` clients with ids greater than `after`, by id."""
        slices = Slices()
        with translated("the state vectors can't be read"):
            cursor = self._vectors.find({"_id": {"$gt": after}}, sort=[("_id", ASCENDING)], limit=limit)
            async for row in cursor.batch_size(_READ_AT_ONCE):
                yield await _stored(row, slices)

    async def known(self, log: LogId) -> KnownClients:
        """Return the clients recorded in a log. Reads every record, so it is not for frequent calls."""
        own = {"$filter": {"input": _ENTRIES, "cond": _is_of(log, "$$this.v.l")}}
        pipeline: list[dict[str, Any]] = [
            {"$project": {"n": {"$min": {"$map": {"input": own, "in": "$$this.v.n"}}}}},
            {"$match": {"n": {"$ne": None}}},
            {"$sort": {"n": 1, "_id": 1}},
            {"$limit": 1},
        ]
        with translated("the state vectors can't be read"):
            count = await self._vectors.estimated_document_count()
            furthest_behind = await (await self._vectors.aggregate(pipeline)).to_list()
        return (
            KnownClients(count, furthest_behind[0]["_id"], Seq(furthest_behind[0]["n"]))
            if furthest_behind
            else KnownClients(count, None, None)
        )

    async def furthest(self, log: LogId) -> Seq:
        """Return the furthest seq in a log that any client has acknowledged, or 0. Reads every record."""
        positions = {"$map": {"input": _ENTRIES, "in": "$$this.v"}}
        here = {"$filter": {"input": positions, "cond": _is_of(log, "$$this.l")}}
        furthest = {"$max": {"$map": {"input": here, "in": "$$this.n"}}}
        with translated("the state vectors can't be read"):
            cursor = await self._vectors.aggregate([{"$group": {"_id": None, "n": {"$max": furthest}}}])
            rows = await cursor.to_list(1)
        return Seq(rows[0]["n"] or 0) if rows else Seq(0)

    async def delete(self, client_id: str) -> bool:
        """Remove a client's record. Return True if there was one."""
        with translated("a state vector can't be deleted"):
            return bool((await self._vectors.delete_one({"_id": {"$eq": client_id}})).deleted_count)


async def _change(update: VectorUpdate, slices: Slices) -> list[dict[str, Any]]:
    transport = {"$literal": update.transport} if update.transport else {"$ifNull": ["$transport", POLLING]}
    changed: dict[str, Any] = {"at": "$$NOW", "transport": transport}
    for shape, item in update.vector.items():
        key = _key(shape)
        # In this order: `$max` compares the log's number before the seq.
        later = {"g": Int64(item.log_number), "n": Int64(item.seq), "l": item.log}
        changed[f"v.{key}"] = {"$let": {"vars": {"known": f"$v.{key}", "later": later}, "in": _REPLACING}}
        await slices.did(2 * len(key) + _CHANGE_WORK)
    return [{"$set": changed}]


_REPLACING: Final = RawBSONDocument(
    encode(
        {
            "$cond": [
                {"$or": [{"$eq": ["$$known.l", "$$later.l"]}, {"$gt": ["$$known.g", "$$later.g"]}]},
                {"$max": ["$$known", "$$later"]},
                "$$later",
            ]
        }
    )
)
"""Which of a stored position, if there is one, and a later one counts: as `NumberedPosition.replacing` says.

It is encoded once, not with each position.
"""


def _refused(error: BulkWriteError, updates: Sequence[VectorUpdate]) -> frozenset[str]:
    """Return the clients whose updates would be refused again. Raises `error` if a retry may help one of them."""
    refusals = [
        (item["index"], OperationFailure(item["errmsg"], item["code"])) for item in error.details["writeErrors"]
    ]
    if error.details["writeConcernErrors"] or not all(is_lasting(failure) for _, failure in refusals):
        raise error
    # The write behind those of the updates is `_shortening`, which is of no client.
    ids = [updates[index].client_id for index, _ in refusals if index < len(updates)]
    _alarms.log(f"MongoDB refuses the state vectors of {len(ids)} clients, as of {ids[:1]}: {short(refusals[0][1])}")
    return frozenset(ids)


_POSITIONS: Final = {"$cond": [{"$eq": [{"$type": "$v"}, "object"]}, "$v", {}]}
_ENTRIES: Final = {"$objectToArray": _POSITIONS}
"""The positions of a record, as `{k: name of the field, v: position}`."""


def _shortening(client_ids: list[str], max_entries: int) -> UpdateMany:
    """Return a write that keeps the newest positions of each of these clients, so many and `MAX_BYTES` of them."""
    is_larger = {"$gt": [{"$bsonSize": _POSITIONS}, MAX_BYTES]}
    newest = {"$slice": [{"$sortArray": {"input": _ENTRIES, "sortBy": {"v.g": -1, "v.n": -1, "k": 1}}}, max_entries]}
    # The number of those that fit: the size of a pair is a little more than that of its field.
    size = {"$add": ["$$value.size", {"$bsonSize": "$$this"}]}
    fitting = {"$add": ["$$value.fitting", {"$cond": [{"$lte": [size, MAX_BYTES]}, 1, 0]}]}
    start = {"size": 0, "fitting": 0}
    fit = {"$reduce": {"input": "$$newest", "initialValue": start, "in": {"size": size, "fitting": fitting}}}
    kept = {"$let": {"vars": {"fit": fit}, "in": {"$slice": ["$$newest", "$$fit.fitting"]}}}
    kept = {"$let": {"vars": {"newest": newest}, "in": kept}}
    return UpdateMany(
        {"_id": {"$in": client_ids}, "$expr": {"$or": [{"$gt": [{"$size": _ENTRIES}, max_entries]}, is_larger]}},
        [{"$set": {"v": {"$arrayToObject": kept}}}],
    )


def _is_of(log: LogId, stored: str) -> dict[str, Any]:
    """Return the expression that is true for a stored log id that is `log`, with or without a scope."""
    return {"$eq": [{"$first": {"$split": [stored, "."]}}, {"$literal": log}]}


def _key(shape: Shape) -> str:
    """Return a shape as a field name without dots and `$`."""
    return quote(str(shape), safe="").replace(".", "%2E")


def _size(shape: Shape) -> int:
    # Each byte may have three in the name of a field.
    return 3 * len(str(shape).encode()) + _ENTRY_SIZE


async def _stored(row: Mapping[str, Any], slices: Slices) -> StoredVector:
    vector = {}
    for key, entry in row.get("v", {}).items():
        # An earlier version accepted some names that are invalid now. No client can ask for those shapes.
        with suppress(Malformed):
            vector[Shape.parse(unquote(key))] = Position(LogId(entry["l"]), Seq(entry["n"]))
        await slices.did(len(key) + _ENTRY_WORK)
    return StoredVector(row["_id"], vector, row.get("transport", ""), row["at"])
