"""Restores that are at work: the collection `restores`, `{_id: the collection that is being built, into, until}`.

Who is killed leaves its entry, and what it was building. Both are removed once the entry has run out, by MongoDB's
clock.
"""

from __future__ import annotations

import secrets
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.shapes import check_collection
from eventsync.errors import Unavailable
from eventsync.mongodb.clocks import from_now, is_past
from eventsync.mongodb.errors import translated
from eventsync.mongodb.leases import RenewalTimer


class Restores:
    """Keeps the entries. `data` is the user's database, `log` the log's."""

    def __init__(self, data: AsyncDatabase[Any], log: AsyncDatabase[Any], ttl: float) -> None:
        """`ttl` is in seconds: how long an entry outlives a restore that has died."""
        self._data = data
        self._entries: AsyncCollection[Any] = log["restores"]
        self._ttl = ttl
        self._renewals: dict[str, RenewalTimer] = {}

    async def begin(self, into: str) -> str:
        """Enter a restore into `into`; the name to build it under. Raises `Malformed` where `into` can't be a name."""
        name = f"{check_collection(into)}.restoring-{secrets.token_hex(4)}"
        check_collection(name)
        with translated("the restore can't be recorded"):
            fields = {"into": {"$literal": into}} | self._until()
            await self._entries.update_one({"_id": name}, [{"$set": fields}], upsert=True)
        self._renewals[name] = RenewalTimer(self._ttl)
        return name

    async def keep(self, name: str, *, now: bool = False) -> None:
        """Call it as the work goes on: nearly free, until a quarter of the time to live has passed; or `now`.

        Raises `Unavailable` where another one has taken this restore for dead.
        """
        if not now and not self._renewals[name].is_due:
            return
        with translated("the restore can't be recorded"):
            result = await self._entries.update_one({"_id": name}, [{"$set": self._until()}])
        if not result.matched_count:
            raise Unavailable(f"{name} was removed: this restore was idle for too long")
        self._renewals[name].restart()

    async def sweep(self) -> list[str]:
        """Remove what has run out; returns the names of what is still being built, or was until a moment ago."""
        dead = is_past("until")
        with translated("restores that were broken off can't be removed"):
            for row in await self._entries.find(dead, {"_id": 1}).to_list():
                # Renewed meanwhile, it is left alone; removed, its owner can no longer make a collection of it.
                if (await self._entries.delete_one(dead | {"_id": row["_id"]})).deleted_count:
                    await self._data[row["_id"]].drop()
            return [row["_id"] async for row in self._entries.find({}, {"_id": 1}, sort=[("_id", 1)])]

    async def end(self, name: str) -> None:
        """It is done, or given up: what is still there under that name is removed."""
        with translated(f"{name} can't be removed"):
            await self._data[name].drop()
            await self._entries.delete_one({"_id": name})

    def _until(self) -> dict[str, Any]:
        return {"until": from_now(self._ttl)}
