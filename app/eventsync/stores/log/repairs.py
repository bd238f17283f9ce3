"""The history of the log's repairs: the collection `repairs`, the newest `KEPT` of them.

`{_id, log, kind, reason, after, began, up_to, ended, events, collections}`: the events of a repair are those behind
`after`, up to `up_to`. A repair that was interrupted has no end; the one that completes it is the next record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.clocks import NOW, literals
from eventsync.mongodb.errors import translated

KEPT: Final = 50
"""Repairs that are remembered, of all logs."""

_REASON: Final = 500
"""Most characters of a reason."""

_COLLECTIONS: Final = 50
"""Most collections of a repair that are named, those with the most events first."""

_NEWEST: Final = [("began", DESCENDING), ("_id", DESCENDING)]


@dataclass(frozen=True, slots=True)
class RecordedRepair:
    """A repair. `ended` and `up_to` are None for one that has not ended.

    `collections` has the number of events by collection, for those that had any; `events` is the number of all.
    """

    log: LogId
    kind: str
    reason: str
    after: Seq
    began: datetime
    up_to: Seq | None
    ended: datetime | None
    events: int
    collections: Mapping[str, int]


class RepairStore:
    """Records repairs. It is a history for operators: no repair depends on it. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._repairs: AsyncCollection[Any] = database["repairs"]

    async def begin(self, log: LogId, kind: str, reason: str, after: Seq) -> ObjectId:
        """Record that a repair begins behind `after`, and forget the oldest ones. Return its id."""
        id_ = ObjectId()
        row = {"log": log, "kind": kind, "reason": reason[:_REASON], "after": Int64(after)}
        with translated("the history of repairs can't be written"):
            # A pipeline, for the time by MongoDB's clock.
            await self._repairs.update_one({"_id": id_}, [{"$set": literals(row) | {"began": NOW}}], upsert=True)
            older = await self._repairs.find({}, {"_id": 1}, sort=_NEWEST, skip=KEPT).to_list(1000)
            if older:
                await self._repairs.delete_many({"_id": {"$in": [row["_id"] for row in older]}})
        return id_

    async def end(self, id_: ObjectId, up_to: Seq, events: Mapping[str, int]) -> None:
        """Record that a repair is complete. `events` is the number of its events by collection."""
        most = sorted((-count, name) for name, count in events.items() if count)[:_COLLECTIONS]
        # Names are no keys of the record: one may have a dot.
        listed = [{"name": name, "events": Int64(-count)} for count, name in most]
        row = {"up_to": Int64(up_to), "events": Int64(sum(events.values())), "collections": listed}
        with translated("the history of repairs can't be written"):
            await self._repairs.update_one({"_id": id_}, [{"$set": literals(row) | {"ended": NOW}}])

    async def newest(self) -> Sequence[RecordedRepair]:
        """Return the repairs, the newest first."""
        with translated("the history of repairs can't be read"):
            return [_repair(row) async for row in self._repairs.find({}, sort=_NEWEST, limit=KEPT)]


def _repair(row: Mapping[str, Any]) -> RecordedRepair:
    up_to = row.get("up_to")
    return RecordedRepair(
        LogId(row["log"]),
        row["kind"],
        row["reason"],
        Seq(row["after"]),
        row["began"],
        None if up_to is None else Seq(up_to),
        row.get("ended"),
        int(row.get("events", 0)),
        {item["name"]: int(item["events"]) for item in row.get("collections", ())},
    )
