"""Leases by MongoDB's clock: permission to *try* a job. Safety never depends on them, but on the log's `_id`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync.mongodb.clocks import NOW, from_now
from eventsync.mongodb.errors import translated

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

RENEWALS_PER_PERIOD: Final = 4
"""A lease is renewed so often within its period, so that three renewals in a row may fail."""


class RenewalTimer:
    """Tells when a lease, or any other entry with a time to live, is due to be renewed."""

    __slots__ = ("_renewed", "_wait")

    def __init__(self, ttl: float) -> None:
        """Start now. `ttl` is in seconds."""
        self._wait = ttl / RENEWALS_PER_PERIOD
        self._renewed = time.monotonic()

    @property
    def is_due(self) -> bool:
        """True once a quarter of the time to live has passed."""
        return time.monotonic() - self._renewed >= self._wait

    def restart(self) -> None:
        """Count from now on. Call it when the renewal is sent or acknowledged."""
        self._renewed = time.monotonic()


@dataclass(frozen=True, slots=True)
class Lease:
    """The holder of a job, and the end of the lease by the server's clock. `live` is False once it has run out."""

    job: str
    owner: str
    until: datetime
    live: bool


class LeaseStore:
    """The collection `leases`: `{_id: job, owner, until}`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._leases: AsyncCollection[Any] = database["leases"]

    async def acquire(self, job: str, owner: str, period: float) -> bool:
        """Take or renew the lease for `period` seconds. Return False when another owner holds it."""
        # An upsert's filter can't refer to `$$NOW`, so every competitor writes, and only one of them changes anything.
        # An owner's name might begin with `$`, and would then be an expression.
        me = {"$literal": owner}
        expired = {"$lt": [{"$ifNull": ["$until", _EPOCH]}, NOW]}
        free = {"$or": [expired, {"$eq": ["$owner", me]}]}
        fields = {
            "owner": {"$cond": [free, me, "$owner"]},
            "until": {"$cond": [free, from_now(period), "$until"]},
        }
        with translated(f"the lease {job!r} can't be taken"):
            try:
                lease = await self._leases.find_one_and_update(
                    {"_id": job}, [{"$set": fields}], upsert=True, return_document=ReturnDocument.AFTER
                )
            except DuplicateKeyError:
                return False  # a competitor has just made the first lease
        return lease is not None and bool(lease["owner"] == owner)

    async def release(self, job: str, owner: str) -> None:
        """Give the lease back at once, if `owner` holds it."""
        with translated(f"the lease {job!r} can't be released"):
            await self._leases.update_one({"_id": job, "owner": owner}, [{"$set": {"until": _EPOCH}}])

    async def any_is_held(self) -> bool:
        """Return True if some worker runs, that is, if the lease of any job is held."""
        with translated("the leases can't be read"):
            return await self._leases.find_one({"$expr": {"$gte": ["$until", NOW]}}) is not None

    async def read(self, job: str) -> Lease | None:
        """Return the lease as it is now."""
        with translated(f"the lease {job!r} can't be read"):
            cursor = await self._leases.aggregate(
                [{"$match": {"_id": job}}, {"$set": {"live": {"$gte": ["$until", NOW]}}}], maxTimeMS=5000
            )
            rows = await cursor.to_list(1)
        return Lease(job, rows[0]["owner"], rows[0]["until"], rows[0]["live"]) if rows else None
