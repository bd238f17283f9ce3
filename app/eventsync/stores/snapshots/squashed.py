"""What squashed answers are made of: the documents that have events after a position, and what they are now.

Read from `touched` (what was touched by events that are archived) and from the events that are still in MongoDB, both
as they were at one cluster time, and at that time the squash floor was not beyond the position: so none is missing.
A document too many does no harm, its present state is what the client has.
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
from eventsync.domain.values.extended_json import to_json
from eventsync.errors import EventsyncError, Malformed
from eventsync.mongodb.clocks import cluster_time
from eventsync.mongodb.errors import translated
from eventsync.stores.log.gap_check import GapCheck
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.snapshots.live_snapshots import SnapshotReader

BATCH = 500
"""Documents that are looked up at once."""


class Unsquashable(EventsyncError):
    """A document can't be looked up by the text of its id, so whether it was deleted can't be told."""

    code = "unsquashable"


class Squashed:
    """Reads touched documents."""

    def __init__(self, log: AsyncDatabase[Any], snapshots: SnapshotReader, gap_check: GapCheck) -> None:
        self._log = log
        self._snapshots = snapshots
        self._gap_check = gap_check

    async def touched(self, log: LogId, collection: str, *, after: Seq, up_to: Seq) -> AsyncGenerator[list[IdText]]:
        """The documents with an event of `after < seq <= up_to`, each once, in batches; some others may be among them.

        Raises `BehindHorizon` where that is not known any more, `Damaged` where an event is missing, and `Unavailable`.
        """
        with translated(f"the touched documents of {collection} can't be read"):
            concern = {"level": "snapshot", "atClusterTime": await cluster_time(self._log)}
            squash_floor = await self._squash_floor(log, concern)
            if squash_floor > after:
                raise BehindHorizon(log, after, squash_floor)
            await self._gap_check.require(log, after, up_to)
            pipeline = _pipeline(log, collection, after, up_to)
            # Grouping spills to disk, and is over before the first id comes: memory here is one batch.
            command = {"aggregate": "events", "pipeline": pipeline, "allowDiskUse": True, "readConcern": concern}
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

    async def _squash_floor(self, log: LogId, concern: dict[str, Any]) -> Seq:
        command = {"find": "tiers", "filter": {"_id": log}, "readConcern": concern}
        cursor = await self._log.cursor_command(command)
        async with cursor:
            async for row in cursor:
                return Seq(row.get("squash_floor", 0))
        return Seq(0)

    async def rows(self, collection: str, ids: Sequence[IdText], time: Timestamp) -> AsyncGenerator[bytes]:
        """What each of these documents was at cluster time `time`, in JSON: `{"id", "version", "doc"}`, or
        `{"id", "deleted": true}` where there was none.

        Raises `Unsquashable`, and `Unavailable`, also where MongoDB no longer keeps that time.
        """
        missing = dict.fromkeys(ids)
        query = dict(filter_of(*map(_lookup, ids)))
        async with aclosing(self._snapshots.documents(collection, time, query)) as batches:
            async for batch in batches:
                for document in batch:
                    # Equal to MongoDB are 5 and 5.0: what was not asked for is another document, with its own events.
                    if document.id in missing:
                        del missing[document.id]
                        yield document.row
        for text in missing:
            if _is_ambiguous(text):
                raise Unsquashable(f"{collection}/{text} can't be told from another document by its text")
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
    """The id to look for. Raises `Unsquashable` for one that only MongoDB itself takes (null, over-long)."""
    try:
        return parse_id(text)
    except Malformed as error:
        raise Unsquashable(f"a document can't be looked up by its id: {error.message}") from error


def _is_ambiguous(text: IdText) -> bool:
    """Tell whether another id may have the same text: earlier versions wrote text that is not UTF-8 like that."""
    return "\ufffd" in text or format_id(parse_id(text)) != text
