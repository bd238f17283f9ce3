"""Idempotency keys: the results of a write, recorded in the write's own transaction.

A record is `{_id: key, fingerprint, at, results: [{id, version, created, digest}]}`. It has all that a repeat needs,
and no document. Up to version 0.1, records held whole results, encoded, in `{…, result, parts}` and
`{_id: {key, part}, at, result}`. Those are still read until they expire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from eventsync.domain.ids import IdText
from eventsync.domain.values.extended_json import CODEC, RAW_CODEC
from eventsync.errors import Conflict, RateLimited
from eventsync.mongodb.capacity import Capacity
from eventsync.mongodb.errors import translated
from eventsync.mongodb.ttl_index import ensure_expiry
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.transactions import Session, durable


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key with which a repeated request writes once, and the hash of that request.

    Keys of different scopes have nothing to do with each other.
    """

    key: str
    fingerprint: str
    scope: str = ""

    @property
    def id(self) -> str:
        """The id of the record."""
        return self.scope + self.key


class IdempotencyRecords:
    """The records in `collection`."""

    def __init__(self, collection: Any, policy: WritePolicy) -> None:
        self._collection = durable(collection, CODEC)
        self._capacity = Capacity(collection, documents=policy.operation_keys, size=policy.operation_bytes)
        self._ttl = policy.operation_ttl

    async def ensure_indexes(self) -> None:
        """Create the TTL index that removes each record after the policy's `operation_ttl`."""
        with translated("the index of idempotency keys can't be made"):
            await ensure_expiry(self._collection, "at", self._ttl)

    async def find(self, idempotency: Idempotency, session: Session | None = None) -> list[WriteResult] | None:
        """Return the results under a key, or None if it is new. Raises `Conflict` for the key of another request."""
        record = await self._collection.find_one({"_id": {"$eq": idempotency.id}}, session=session)
        if record is None:
            return None
        if record["fingerprint"] != idempotency.fingerprint:
            raise Conflict(f"the idempotency key {idempotency.key!r} was used for another request", lasting=True)
        rows = record["results"] if "results" in record else await self._whole(record, session)
        return [_repeated(row) for row in rows]

    async def check_room(self) -> None:
        """Raise `RateLimited` if no further key can be recorded."""
        if await self._capacity.is_full():
            # Removing another key instead would let its request write twice.
            raise RateLimited("no more idempotency keys can be remembered until older ones expire")

    async def insert(self, idempotency: Idempotency, results: Sequence[WriteResult], session: Session) -> None:
        """Record the results in the transaction of `session`."""
        record = {"_id": idempotency.id, "fingerprint": idempotency.fingerprint, "at": datetime.now(UTC)}
        await self._collection.insert_one(record | {"results": [_row(result) for result in results]}, session=session)
        self._capacity.add()

    async def _whole(self, record: Mapping[str, Any], session: Session | None) -> list[Mapping[str, Any]]:
        """Return the results in a record of version 0.1, without decoding their documents."""
        ids = [{"key": record["_id"], "part": number} for number in range(1, record["parts"])]
        cursor = self._collection.find({"_id": {"$in": ids}}, session=session)
        parts = {part["_id"]["part"]: part["result"] for part in await cursor.to_list(None)} if ids else {}
        encoded = record["result"] + b"".join(parts[number] for number in sorted(parts))
        return list(RawBSONDocument(encoded, RAW_CODEC).values())


def _row(result: WriteResult) -> dict[str, Any]:
    row = {"id": result.id, "version": Int64(result.version), "created": result.created}
    return row | {"digest": result.digest}


def _repeated(row: Mapping[str, Any]) -> WriteResult:
    done = WriteResult(IdText(row["id"]), int(row["version"]), None, [], bool(row["created"]), replayed=True)
    return replace(done, known_digest=str(row.get("digest", "")))
