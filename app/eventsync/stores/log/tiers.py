"""The borders between the tiers of a log: the collection `tiers`, one document a log.

Each border is a seq that only moves forward. It is raised, with majority concern, *before* events or records behind it
are removed. So a reader that has read a range, and then finds the border not beyond the start of the range, has read
all of it. The collection `horizons` records the times at which horizons were raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson.int64 import Int64
from pymongo import DESCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.event_key import event_key
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import START, LogId, Seq
from eventsync.errors import ResetRequired
from eventsync.mongodb.clocks import NOW, ago
from eventsync.mongodb.errors import translated


class BehindHorizon(ResetRequired):
    """Some events after a position are no longer kept."""

    def __init__(self, log: LogId, after: Seq, horizon: Seq) -> None:
        super().__init__(
            ResetReason.BEFORE_HORIZON.value, f"the events after {log}:{after} are only kept from {horizon + 1} on"
        )


@dataclass(frozen=True, slots=True)
class Tiers:
    """Events with `seq <= archived_up_to` have left MongoDB. Events with `seq <= horizon` are kept nowhere.

    For a position `>= squash_floor`, the documents that were touched since are known. It always holds that
    `squash_floor <= horizon <= archived_up_to`, and that the newest event is after `archived_up_to`.
    """

    archived_up_to: Seq = START
    horizon: Seq = START
    squash_floor: Seq = START


class TierStore:
    """Reads the borders and, for the archiver and the compactor, raises them. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._tiers: AsyncCollection[Any] = database["tiers"]
        self._horizons: AsyncCollection[Any] = database["horizons"]
        self._seen: dict[LogId, Tiers] = {}

    async def read(self, log: LogId, session: AsyncClientSession | None = None) -> Tiers:
        """Return the current borders. With `session`, they are no older than earlier reads in it."""
        with translated("the log's tiers can't be read"):
            row = await self._tiers.find_one({"_id": log}, session=session)
        tiers = _tiers(row) if row else Tiers()
        # Reads may end in another order than they began.
        if tiers.archived_up_to >= self.seen(log).archived_up_to:
            self._seen = {log: tiers}
        return tiers

    def seen(self, log: LogId) -> Tiers:
        """Return the borders as of the last read in this process. They are only a hint where to begin reading."""
        return self._seen.get(log, Tiers())

    async def raise_archived_up_to(self, log: LogId, seq: Seq) -> None:
        """Declare that events up to `seq` are no longer expected in MongoDB."""
        await self._raise(log, "floor", seq=seq)

    async def raise_horizon(self, log: LogId, seq: Seq) -> None:
        """Declare that events up to `seq` are no longer expected anywhere."""
        await self._raise(log, "horizon", seq=seq)

    async def raise_squash_floor(self, log: LogId, seq: Seq) -> None:
        """Declare that the documents touched up to `seq` are no longer known."""
        await self._raise(log, "squash_floor", seq=seq)

    async def give_up(self, log: LogId, seq: Seq) -> None:
        """Raise `archived_up_to` and the horizon to `seq` at once, for events that were never archived.

        (In two steps, the events between the two borders would seem lost.)
        """
        await self._raise(log, "floor", "horizon", seq=seq)

    async def record_horizon(self, log: LogId, seq: Seq, every: float) -> None:
        """Record that the events up to `seq` are gone from now on, unless a record is younger than `every` seconds."""
        recent = {"_id.l": log, "$expr": {"$gt": ["$at", ago(every)]}}
        with translated("the log's horizon can't be recorded"):
            if await self._horizons.find_one(recent) is None:
                key = {"_id": event_key(log, seq)}
                await self._horizons.update_one(key, [{"$set": {"at": {"$ifNull": ["$at", NOW]}}}], upsert=True)

    async def gone_for(self, log: LogId, seconds: float) -> Seq:
        """Return the newest seq up to which events have been gone for `seconds`, and remove older records."""
        gone = {"_id.l": log, "$expr": {"$lte": ["$at", ago(seconds)]}}
        with translated("the log's horizons can't be read"):
            row = await self._horizons.find_one(gone, sort=[("_id", DESCENDING)])
            if row is None:
                return START
            await self._horizons.delete_many({"_id": {"$gte": {"l": log}, "$lt": row["_id"]}})
        return Seq(row["_id"]["n"])

    async def forget(self, log: LogId) -> None:
        """Remove the records of a former log."""
        with translated("the tiers of a former log can't be removed"):
            await self._horizons.delete_many({"_id.l": log})
            await self._tiers.delete_one({"_id": log})

    async def _raise(self, log: LogId, *names: str, seq: Seq) -> None:
        with translated(f"the log's {' and '.join(names)} can't be raised"):
            # By `$max`: two jobs may hold the lease for a moment, and the later write may be that of the lower seq.
            await self._tiers.update_one({"_id": log}, {"$max": dict.fromkeys(names, Int64(seq))}, upsert=True)


def _tiers(row: dict[str, Any]) -> Tiers:
    # Stored names stay as they are: `floor` is `archived_up_to`.
    return Tiers(Seq(row.get("floor", 0)), Seq(row.get("horizon", 0)), Seq(row.get("squash_floor", 0)))
