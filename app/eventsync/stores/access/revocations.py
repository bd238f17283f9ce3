"""Revocations: the collection `revocations`. The feed of every server follows it.

A revocation names a subject (`sub:ada`), a token (`jti:…`, `token:…`) or a service key (`key:…`). That of a subject is
for the credentials issued up to its time. Each is kept until no credential that it is for can be valid any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import DESCENDING, ReturnDocument
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.errors import RateLimited
from eventsync.mongodb.errors import translated
from eventsync.mongodb.ttl_index import ensure_expiry

COLLECTION: Final = "revocations"


def of_subject(sub: str) -> str:
    """Return the name of the revocation of a subject."""
    return f"sub:{sub}"


def of_key(id: str) -> str:  # noqa: A002 - as everybody calls it
    """Return the name of the revocation of a service key, which is also the key's name as a credential."""
    return f"key:{id}"


class RevocationStore:
    """Reads and writes revocations. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any], *, max_revocations: int) -> None:
        self._revocations = database[COLLECTION]
        self._max = max_revocations

    async def ensure_indexes(self) -> None:
        """Create the index that removes revocations when they are not needed any more. Raises `Unavailable`."""
        with translated("the index of the revocations can't be made"):
            await ensure_expiry(self._revocations, "until", 1)

    async def add(self, name: str, kept: float) -> datetime:
        """Revoke `name` now, by MongoDB's clock, and keep that for `kept` seconds. Return the time.

        Raises `RateLimited` if there are too many.
        """
        until = {"$dateAdd": {"startDate": "$$NOW", "unit": "second", "amount": int(kept) + 1}}
        # The later end: revoked again for a shorter time, it still covers what it was for before.
        change = [{"$set": {"at": "$$NOW", "until": {"$max": ["$until", until]}}}]
        with translated("the revocation can't be stored"):
            if await self._revocations.estimated_document_count() >= self._max:
                raise RateLimited(f"there are {self._max} revocations (EVENTSYNC_MAX_REVOCATIONS)")
            row: Any = await self._revocations.find_one_and_update(
                {"_id": name}, change, upsert=True, return_document=ReturnDocument.AFTER
            )
        return _time(row["at"])

    async def newest(self) -> datetime | None:
        """Return the time of the newest revocation; None without any."""
        with translated("the revocations can't be read"):
            row = await self._revocations.find_one({"at": {"$type": "date"}}, {"at": 1}, sort=[("at", DESCENDING)])
        return None if row is None else _time(row["at"])

    async def read(self, names: Iterable[str] | None = None) -> Mapping[str, float]:
        """Return the times of these revocations, or of all, in Unix seconds."""
        query = {} if names is None else {"_id": {"$in": list(names)}}
        with translated("the revocations can't be read"):
            rows = await self._revocations.find(query, {"at": 1}).to_list(None)
        return {str(row["_id"]): _time(row.get("at")).timestamp() for row in rows}


def _time(value: Any) -> datetime:
    """Return the time of a revocation. One that was written by hand, without a time, is for all credentials."""
    if not isinstance(value, datetime):
        return datetime.max.replace(tzinfo=UTC)
    return value if value.tzinfo else value.replace(tzinfo=UTC)
