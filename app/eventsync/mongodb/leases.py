"""Leases by MongoDB's own clock: who may *try* to do a job. Safety never depends on them, but on the log's `_id`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync.mongodb.errors import translated

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a job and until when, by the server's clock. `live` is whether it had not run out when it was read."""

    job: str
    owner: str
    until: datetime
    live: bool


class LeaseStore:
    """The `leases` collection: `{_id: job, owner, until}`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._leases: AsyncCollection[Any] = database["leases"]

    async def acquire(self, job: str, owner: str, period: float) -> bool:
        """Take or renew the lease for `period` seconds. False when somebody else holds it."""
        # An upsert's filter can't say `$$NOW`, so every competitor writes, and only one of them changes anything.
        me = {"$literal": owner}
        unowned = {"$lt": [{"$ifNull": ["$until", _EPOCH]}, "$$NOW"]}
        free = {"$or": [unowned, {"$eq": ["$owner", me]}]}
        until = {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(period * 1000)}}
        fields = {"owner": {"$cond": [free, me, "$owner"]}, "until": {"$cond": [free, until, "$until"]}}
        with translated(f"the lease {job!r} can't be taken"):
            try:
                lease = await self._leases.find_one_and_update(
                    {"_id": job}, [{"$set": fields}], upsert=True, return_document=ReturnDocument.AFTER
                )
            except DuplicateKeyError:
                return False  # another one made the first lease just now
        return lease is not None and bool(lease["owner"] == owner)

    async def release(self, job: str, owner: str) -> None:
        """Give the lease back at once, if it is ours."""
        with translated(f"the lease {job!r} can't be released"):
            await self._leases.update_one({"_id": job, "owner": owner}, [{"$set": {"until": _EPOCH}}])

    async def any_is_held(self) -> bool:
        """Return whether a worker runs: whether anybody holds the lease of any job."""
        with translated("the leases can't be read"):
            return await self._leases.find_one({"$expr": {"$gte": ["$until", "$$NOW"]}}) is not None

    async def read(self, job: str) -> Lease | None:
        """The lease as it stands."""
        with translated(f"the lease {job!r} can't be read"):
            cursor = await self._leases.aggregate(
                [{"$match": {"_id": job}}, {"$set": {"live": {"$gte": ["$until", "$$NOW"]}}}], maxTimeMS=5000
            )
            found = await cursor.to_list(1)
        return Lease(job, found[0]["owner"], found[0]["until"], found[0]["live"]) if found else None
