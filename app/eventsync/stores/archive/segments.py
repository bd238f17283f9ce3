"""The registry of segments: `segments`, one MongoDB document a segment, `_id: {l: log, n: first seq}`.

Each segment begins where the previous one ends. So if two archivers seal the same events, only one can register its
segment, and the object of the other is an orphan. An unregistered object is not part of the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.format import Span
from eventsync.mongodb.errors import translated

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Segment:
    """A registered segment. `size` is that of the object, and `raw` that of its uncompressed events, in bytes.

    The footer begins at the offset `tail`. `sha256` is the checksum of the whole object.
    """

    log: LogId
    span: Span
    path: str
    size: int
    raw: int
    tail: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class SegmentTotals:
    """The sums over the registered segments of a log."""

    segments: int
    events: int
    bytes: int
    raw: int


class SegmentStore:
    """Registers, finds and forgets segments. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._segments: AsyncCollection[Any] = database["segments"]
        self._quarantined: AsyncCollection[Any] = database["condemned_segments"]

    async def ensure_indexes(self) -> None:
        """Create the index by path: every object in the archive is looked up by its path again and again."""
        with translated("the segments' index can't be made"):
            await self._segments.create_indexes([IndexModel([("path", ASCENDING)], name="by_path")])

    async def register(self, segment: Segment) -> bool:
        """Make a segment part of its log. Return False if another one already begins with the same event."""
        with translated(f"segment {segment.path} can't be registered"):
            try:
                await self._segments.insert_one(_row(segment))
            except DuplicateKeyError:
                return False
        return True

    async def newest(self, log: LogId) -> Segment | None:
        """Return the segment with the newest events, or None."""
        with translated("the segments can't be read"):
            row = await self._segments.find_one({"_id": key_range(log)}, sort=[("_id", DESCENDING)])
        return _segment(row) if row else None

    async def newest_before(self, log: LogId, before: Seq | None, limit: int) -> list[Segment]:
        """Return at most `limit` segments that begin before this event, or the newest ones, the newest first."""
        query = {"_id": key_range(log, up_to=None if before is None else before - 1)}
        with translated("the segments can't be read"):
            rows = self._segments.find(query, sort=[("_id", DESCENDING)], limit=limit)
            return [_segment(row) async for row in rows]

    async def holding(self, log: LogId, seq: Seq) -> Segment | None:
        """Return the segment that contains this event, or None."""
        before = await self._before(log, seq)
        return before if before is not None and before.span.last >= seq else None

    async def starting(self, log: LogId, first: Seq) -> Segment | None:
        """Return the segment whose first event is `first`, or None."""
        with translated("the segments can't be read"):
            row = await self._segments.find_one({"_id": event_key(log, first)})
        return _segment(row) if row else None

    async def covering(self, log: LogId, after: Seq, up_to: Seq) -> AsyncGenerator[Segment]:
        """Yield the segments that have events with `after < seq <= up_to`, in order. Pages are listed on demand."""
        position = after
        while position < up_to:
            page = await self._page(log, position, up_to)
            for segment in page:
                position = max(position, segment.span.last)
                yield segment
            if len(page) < _PAGE:
                return

    async def _page(self, log: LogId, after: Seq, up_to: Seq) -> list[Segment]:
        # The segment that contains the first requested event may begin before it.
        before = await self._before(log, Seq(after + 1))
        first = before.span.first if before and before.span.last > after else after + 1
        with translated("the segments can't be read"):
            cursor = self._segments.find(
                {"_id": key_range(log, first - 1, up_to)}, sort=[("_id", ASCENDING)], limit=_PAGE
            )
            return [_segment(row) async for row in cursor]

    async def _before(self, log: LogId, seq: Seq) -> Segment | None:
        with translated("the segments can't be read"):
            row = await self._segments.find_one({"_id": key_range(log, up_to=seq)}, sort=[("_id", DESCENDING)])
        return _segment(row) if row else None

    async def until(self, log: LogId, time: Timestamp) -> AsyncGenerator[Segment]:
        """Yield the segments that begin at cluster time `time` or before, newest first."""
        with translated("the segments can't be read"):
            query = {"_id": key_range(log), "first_time": {"$lte": time}}
            async for row in self._segments.find(query, sort=[("_id", DESCENDING)]):
                yield _segment(row)

    async def totals(self, log: LogId) -> SegmentTotals:
        """Return the totals of a log's segments."""
        sums: dict[str, Any] = {"_id": None, "segments": {"$sum": 1}}
        sums |= {name: {"$sum": f"${name}"} for name in ("events", "bytes", "raw")}
        with translated("the segments can't be counted"):
            cursor = await self._segments.aggregate([{"$match": {"_id": key_range(log)}}, {"$group": sums}])
            rows = await cursor.to_list()
        row = rows[0] if rows else dict.fromkeys(("segments", "events", "bytes", "raw"), 0)
        return SegmentTotals(row["segments"], int(row["events"]), int(row["bytes"]), int(row["raw"]))

    async def is_registered(self, path: str) -> bool:
        """Return True if an object is a registered segment of any log."""
        with translated("the segments can't be read"):
            return await self._segments.find_one({"path": path}, {"path": 1}) is not None

    async def any_path(self) -> str | None:
        """Return the path of a registered segment of any log, or None."""
        with translated("the segments can't be read"):
            row = await self._segments.find_one({}, {"path": 1})
        return str(row["path"]) if row else None

    async def quarantine(self, path: str) -> bool:
        """Quarantine an object. Return False if it is a registered segment.

        A worker that checks `is_quarantined` after `register` never keeps a quarantined one registered.
        """
        with translated("orphans can't be quarantined"):
            await self._quarantined.update_one({"_id": path}, {"$set": {"at": datetime.now(UTC)}}, upsert=True)
        # First quarantine, then look up. A registering worker does the opposite, so one of the two sees the other.
        return not await self.is_registered(path)

    async def is_quarantined(self, segment: Segment) -> bool:
        """Return True if a segment that was just registered was taken for an orphan. Its object may be gone."""
        with translated("the orphans can't be read"):
            return await self._quarantined.find_one({"_id": segment.path}) is not None

    async def forget(self, segment: Segment) -> None:
        """Remove a segment from the registry. Its object must be removed before."""
        key = event_key(segment.log, segment.span.first)
        with translated(f"segment {segment.path} can't be forgotten"):
            await self._segments.delete_one({"_id": key, "path": segment.path})


def _row(segment: Segment) -> dict[str, Any]:
    span = segment.span
    return {
        "_id": event_key(segment.log, span.first),
        "last": Int64(span.last),
        "events": Int64(span.count),
        "bytes": Int64(segment.size),
        "raw": Int64(segment.raw),
        "tail": Int64(segment.tail),
        "first_time": span.first_time,
        "last_time": span.last_time,
        "earliest": span.earliest,
        "latest": span.latest,
        "path": segment.path,
        "sha256": Binary(segment.sha256),
    }


def _segment(row: dict[str, Any]) -> Segment:
    span = Span(
        Seq(row["_id"]["n"]), Seq(row["last"]), row["first_time"], row["last_time"], row["earliest"], row["latest"]
    )
    return Segment(
        LogId(row["_id"]["l"]), span, row["path"], row["bytes"], row["raw"], row["tail"], bytes(row["sha256"])
    )
