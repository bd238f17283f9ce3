"""Idempotency keys: a write's results, recorded in the write's own transaction.

A record is `{_id: key, fingerprint, at, result, parts}`. `result` is the encoded results; what does not fit into one
document goes on in `{_id: {key, part}, at, result}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from app.domain.values import CODEC
from app.driver import translated
from app.errors import Conflict
from app.expiry import ensure_expiry
from app.nodestorage.result import WriteResult, decode_results, encode_results
from app.nodestorage.transactions import Session, durable

PART_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key that makes a repeated request write once, and the hash of the request that it stands for."""

    key: str
    fingerprint: str


class IdempotencyRecords:
    """The records in `collection`."""

    def __init__(self, collection: Any) -> None:
        self._collection = durable(collection, CODEC)

    async def ensure_indexes(self, ttl: float) -> None:
        """Have MongoDB delete records `ttl` seconds after their write."""
        with translated("the index of idempotency keys can't be made"):
            await ensure_expiry(self._collection, "at", ttl)

    async def find(self, idempotency: Idempotency, session: Session | None = None) -> list[WriteResult] | None:
        """The results under a key, None where it is new. Raises `Conflict` where it stands for another request."""
        record = await self._collection.find_one({"_id": {"$eq": idempotency.key}}, session=session)
        if record is None:
            return None
        if record["fingerprint"] != idempotency.fingerprint:
            raise Conflict(f"the idempotency key {idempotency.key!r} was used for another request")
        ids = [_part_id(idempotency, number) for number in range(1, record["parts"])]
        parts = {}
        if ids:
            cursor = self._collection.find({"_id": {"$in": ids}}, session=session)
            parts = {part["_id"]["part"]: part["result"] for part in await cursor.to_list(None)}
        return decode_results(record["result"] + b"".join(parts[number] for number in sorted(parts)))

    async def insert(self, idempotency: Idempotency, results: Sequence[WriteResult], session: Session) -> None:
        """Record the results of the transaction that `session` is in."""
        encoded = encode_results(results)
        parts = [encoded[start : start + PART_BYTES] for start in range(0, len(encoded), PART_BYTES)]
        now = datetime.now(UTC)
        record = {"_id": idempotency.key, "fingerprint": idempotency.fingerprint, "at": now}
        await self._collection.insert_one(record | {"parts": len(parts), "result": parts[0]}, session=session)
        for number, part in enumerate(parts[1:], start=1):
            # They outlive the record that needs them, whatever order MongoDB deletes in.
            rest = {"_id": _part_id(idempotency, number), "at": now + timedelta(hours=1), "result": part}
            await self._collection.insert_one(rest, session=session)


def _part_id(idempotency: Idempotency, number: int) -> dict[str, Any]:
    return {"key": idempotency.key, "part": number}
