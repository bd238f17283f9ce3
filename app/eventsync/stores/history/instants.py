"""The position of an instant in the log: the newest event at that time.

Events are in the order of their cluster times, each of which is a second and a counter. So bisection over the seqs,
which have no gaps, finds the second. Within it the wall-clock times of the events decide.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bson.timestamp import Timestamp
from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.events import timestamp
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import DamagedEvents
from eventsync.mongodb.errors import translated
from eventsync.stores.archive.segment_reader import SegmentReader
from eventsync.stores.log.events import EventStore
from eventsync.stores.log.hot_tier import Moved
from eventsync.stores.log.stored_event import body_member
from eventsync.stores.log.tiers import BehindHorizon, TierStore

_BATCH = 100


class Instants:
    """Finds past instants. A search takes about thirty reads of one row each, even in a very long log."""

    def __init__(
        self, database: AsyncDatabase[Any], events: EventStore, tiers: TierStore, segments: SegmentReader
    ) -> None:
        self._rows: AsyncCollection[Any] = database["events"]
        self._events = events
        self._tiers = tiers
        self._segments = segments

    async def newest(self, log: LogId, at: datetime, head: Seq) -> Seq:
        """Return the newest event up to `head` whose cluster time, in seconds, and commit time are not after `at`.

        Returns 0 if there is none that is kept. Raises `Damaged` for a missing event, and `Unavailable`.
        """
        archived_up_to = (await self._tiers.read(log)).archived_up_to
        while True:
            try:
                newest = await self._within(log, at, archived_up_to, head)
            except Moved:
                newest = None
            if newest is not None:
                return newest
            before, archived_up_to = archived_up_to, (await self._tiers.read(log)).archived_up_to
            if archived_up_to == before:
                try:
                    return (await self._segments.newest_at(log, at) if archived_up_to else None) or Seq(0)
                except BehindHorizon:  # older segments than a removed one are gone, too
                    return Seq(0)

    async def _within(self, log: LogId, at: datetime, low: Seq, high: Seq) -> Seq | None:
        """Search the events in MongoDB with `low < seq <= high`."""
        second, archived_up_to = int(at.timestamp()), low
        while low < high:
            middle = Seq((low + high + 1) // 2)
            if (await self._time(log, middle)).time <= second:
                low = middle
            else:
                high = Seq(middle - 1)
        # Wall clocks differ between servers and may be set back, so their order is not assumed.
        return await self._committed(log, at, archived_up_to, low)

    async def _time(self, log: LogId, seq: Seq) -> Timestamp:
        with translated(f"event {log}:{seq} can't be read"):
            row = await self._rows.find_one({"_id": event_key(log, seq)}, {"s": 1})
        if row is None:
            if seq <= (await self._tiers.read(log)).archived_up_to:
                raise Moved(f"event {log}:{seq} has left MongoDB")
            raise DamagedEvents(f"event {log}:{seq} is missing", seq)
        time = row.get("s")
        if not isinstance(time, Timestamp):
            raise DamagedEvents(f"event {log}:{seq} can't be read: it has no time", seq)
        return time

    async def _committed(self, log: LogId, at: datetime, after: Seq, up_to: Seq) -> Seq | None:
        """Return the newest event with `after < seq <= up_to` committed by `at`. It is nearly always the first one."""
        wall, query = timestamp(at), {"_id": key_range(log, after, up_to)}
        with translated("events can't be read"):
            cursor = self._rows.find(query, {"t": 0, "w": 0}, sort=[("_id", DESCENDING)], batch_size=_BATCH)
            async with cursor:
                async for row in cursor:
                    event = await self._events.whole(row)
                    # These texts have one length and are in UTC, so they sort by time.
                    if body_member(event, "at") <= wall:
                        return event.seq
        return None
