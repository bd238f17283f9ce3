"""The content of squashed answers: the documents with events after a position, and their present states.

The documents come from `touched`, for archived events, and from the events in MongoDB. Both are read at one cluster
time, at which the squash floor is not beyond the position, so none is missing. An extra document does no harm: its
present state is the one that the client has.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.event_key import key_range
from eventsync.domain.ids import IdText, filter_of, format_id, parse_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import EventsyncError, Malformed
from eventsync.mongodb.clocks import cluster_time
from eventsync.mongodb.errors import translated
from eventsync.stores.log.gap_check import GapCheck
from eventsync.stores.log.hot_tier import BY_ROUTE
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.snapshots.live_snapshots import SnapshotReader

BATCH = 500
"""Documents in one lookup."""


class Unsquashable(EventsyncError):
    """A document cannot be looked up by the text of its id, so a deletion cannot be detected."""

    code = "unsquashable"


class Squashed:
    """Reads touched documents."""

    def __init__(self, log: AsyncDatabase[Any], snapshots: SnapshotReader, gap_check: GapCheck) -> None:
        self._log = log
        self._snapshots = snapshots
        self._gap_check = gap_check

    async def touched(self, log: LogId, collection: str, *, after: Seq, up_to: Seq) -> AsyncGenerator[list[IdText]]:
        """Yield the documents with an event `after < seq <= up_to` once each, in batches. Others may be among them.

        Raises `BehindHorizon` if they are no longer known, `Damaged` if an event is missing, and `Unavailable`.
        """
        with translated(f"the touched documents of {collection} can't be read"):
            concern = {"level": "snapshot", "atClusterTime": await cluster_time(self._log)}
            squash_floor = await self._floor(log, "squash_floor", concern)
            if squash_floor > after:
                raise BehindHorizon(log, after, squash_floor)
            await self._gap_check.require(log, after, up_to)
            async with aclosing(self._ids({"pipeline": _pipeline(log, collection, after, up_to)}, concern)) as batches:
                async for batch in batches:
                    yield batch

    async def of_route(
        self, log: LogId, keys: frozenset[bytes], *, after: Seq, up_to: Seq
    ) -> AsyncGenerator[list[IdText]]:
        """Yield the documents of a route with an event `after < seq <= up_to` once each, in batches.

        Raises `BehindHorizon` if such events have left MongoDB, `Damaged` if an event is missing, and `Unavailable`.
        """
        with translated("the touched documents of a route can't be read"):
            concern = {"level": "snapshot", "atClusterTime": await cluster_time(self._log)}
            archived_up_to = await self._floor(log, "floor", concern)
            if archived_up_to > after:
                raise BehindHorizon(log, after, archived_up_to)
            await self._gap_check.require(log, after, up_to)
            within = {"$gt": Int64(after), "$lte": Int64(up_to)}
            query = {"_id.l": log, "k": {"$in": sorted(keys)}, "_id.n": within}
            command = {"pipeline": [{"$match": query}, {"$group": {"_id": "$i"}}], "hint": BY_ROUTE}
            async with aclosing(self._ids(command, concern)) as batches:
                async for batch in batches:
                    yield batch

    async def _ids(self, command: dict[str, Any], concern: dict[str, Any]) -> AsyncGenerator[list[IdText]]:
        """Yield the ids that an aggregation of events finds, in batches."""
        # MongoDB may group on disk, and finishes before it returns the first id. This process holds one batch.
        command = {"aggregate": "events"} | command | {"allowDiskUse": True, "readConcern": concern}
        cursor = await self._log.cursor_command(command | {"cursor": {"batchSize": BATCH}})
        async with cursor.batch_size(BATCH):
            batch: list[IdText] = []
            async for row in cursor:
                batch.append(IdText(row["_id"]))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
            if batch:
                yield batch

    async def _floor(self, log: LogId, name: str, concern: dict[str, Any]) -> Seq:
        command = {"find": "tiers", "filter": {"_id": log}, "readConcern": concern}
        cursor = await self._log.cursor_command(command)
        async with cursor:
            async for row in cursor:
                return Seq(row.get(name, 0))
        return Seq(0)

    async def rows(self, shape: Shape, ids: Sequence[IdText], time: Timestamp) -> AsyncGenerator[bytes]:
        """Yield the JSON of each of these documents at cluster time `time`.

        It is `{"id", "version", "doc"}`, or `{"id", "deleted": true}` for one that was not in the shape. Raises
        `Unsquashable`, and `Unavailable`, also if MongoDB no longer keeps that time.
        """
        missing = dict.fromkeys(ids)
        query = dict(filter_of(*map(_lookup, ids)))
        async with aclosing(self._snapshots.documents(shape, time, query)) as batches:
            async for batch in batches:
                for document in batch:
                    # MongoDB treats 5 and 5.0 as equal. A document that was not asked for has its own events.
                    if document.id in missing:
                        del missing[document.id]
                        yield document.row
        for text in missing:
            if _is_ambiguous(text):
                raise Unsquashable(f"{shape.collection}/{text} can't be told from another document by its text")
            yield to_json({"id": text, "deleted": True})


def _pipeline(log: LogId, collection: str, after: Seq, up_to: Seq) -> list[dict[str, Any]]:
    archived = {"_id.l": log, "_id.c": collection, "n": {"$gt": Int64(after)}}
    return [
        {"$match": {"_id": key_range(log, after, up_to), "c": collection}},
        {"$project": {"_id": 0, "i": 1}},
        {
            "$unionWith": {
                "coll": "touched",
                "pipeline": [{"$match": archived}, {"$project": {"_id": 0, "i": "$_id.i"}}],
            }
        },
        {"$group": {"_id": "$i"}},
    ]


def _lookup(text: IdText) -> Any:
    """Return the id to look up. Raises `Unsquashable` for an id that only MongoDB accepts (null, or too long)."""
    try:
        return parse_id(text)
    except Malformed as error:
        raise Unsquashable(f"a document can't be looked up by its id: {error.message}") from error


def _is_ambiguous(text: IdText) -> bool:
    """Return True if another id may have the same text, as earlier versions wrote ids that are not UTF-8."""
    return "\ufffd" in text or format_id(parse_id(text)) != text
