"""Counters of a log's events and bytes, so that no reader has to count them: the collection `tallies`.

The record `_id: {l: log, c: collection, k: block}` sums up the collection's events with `seq // BLOCK == k`: their
number, their bytes as MongoDB stores them, how many are `unrouted`, and the `last` seq. The record `_id: {l: log}` has
the seq up to which the log is counted. It changes in the same transaction as the sums, so they include every event
exactly once. Events are counted before they are removed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from bson.int64 import Int64
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.event_key import key_range
from eventsync.domain.positions import START, LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.mongodb.errors import translated
from eventsync.stores.log.event_parts import PART_BYTES
from eventsync.stores.log.gap_check import without_collection
from eventsync.stores.log.tiers import TierStore

BLOCK: Final = 10_000

_AT_ONCE: Final = 20_000
"""Most events in one aggregation. Where it fails, the next try has half of them: they may be large, the disk slow."""

_MORE: Final = 1000
"""Number of events by which the next aggregation is larger again."""

_PARTS_SIZE = {"$cond": [{"$eq": [{"$type": "$b"}, "object"]}, {"$multiply": ["$b.of", PART_BYTES]}, 0]}
"""The approximate bytes of a body that is in parts."""


@dataclass(frozen=True, slots=True)
class EventCount:
    """The number of events, their bytes, and the seq of the newest one; 0 without events."""

    events: int = 0
    bytes: int = 0
    last: Seq = START

    def __add__(self, other: EventCount) -> EventCount:
        return EventCount(self.events + other.events, self.bytes + other.bytes, max(self.last, other.last))


async def _do_nothing() -> None:
    """Do nothing between two steps."""


class Counters:
    """Counts each appended event once, and answers from the sums. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._database = database
        self._events: AsyncCollection[Any] = database["events"]
        self._counters: AsyncCollection[Any] = database["tallies"]
        self._tiers = TierStore(database)
        self._at_once = _AT_ONCE

    async def counted_up_to(self, log: LogId) -> Seq:
        """Return the seq up to which the log is counted."""
        with translated("the counters can't be read"):
            row = await self._counters.find_one({"_id": {"l": log}})
        return Seq(row["upto"]) if row else Seq(0)

    async def add(self, log: LogId, up_to: Seq, step: Callable[[], Awaitable[None]] = _do_nothing) -> set[str]:
        """Count the events up to `up_to`, with a call of `step` after each part. Return the collections with new
        events.

        Concurrent callers are safe: each event is counted once. Event `up_to` and all uncounted events before it must
        be in MongoDB. Raises `Damaged` if uncounted events have left it, because the counters were dropped or emptied,
        and for an event of no collection.
        """
        changed: set[str] = set()
        while (after := await self.counted_up_to(log)) < up_to:
            part = Seq(min(up_to, after + self._at_once))
            try:
                sums = await self._sums(log, after, part)
            except Unavailable:
                self._at_once = max(1, self._at_once // 2)
                raise
            self._at_once = min(_AT_ONCE, self._at_once + _MORE)
            if damaged := [row["last"] for row in sums if "c" not in row["_id"]]:
                raise without_collection(log, Seq(max(damaged)))
            if sum(row["events"] for row in sums) < part - after:
                await self._check_archived(log, after)
            await self._move(log, after, part, sums)
            changed |= {row["_id"]["c"] for row in sums}
            await step()
        return changed

    async def _check_archived(self, log: LogId, after: Seq) -> None:
        archived_up_to = (await self._tiers.read(log)).archived_up_to
        # Another caller may have counted these events before they left MongoDB.
        if after < archived_up_to and await self.counted_up_to(log) == after:
            raise Damaged(f"the events of log {log} up to {archived_up_to} are counted up to {after} only")

    async def after(self, log: LogId, seq: Seq, collection: str | None = None) -> EventCount:
        """Return the counts after `seq`, of one collection or of all. The block with `seq` contributes a share.

        `last` is exact. If no event after `seq` is counted, the result is exactly zero.
        """
        up_to = await self.counted_up_to(log)
        of = {"$match": {"_id": _blocks(log, collection, seq // BLOCK)}} if collection else _of_log(log)
        newer = {"$match": {"last": {"$gt": Int64(seq)}}}
        with translated("the counters can't be read"):
            cursor = await self._counters.aggregate([of, newer, *_summed(_weighed(seq, up_to), None)])
            rows = await cursor.to_list()
        return _event_count(rows[0]) if rows else EventCount()

    async def quiet_until(self, log: LogId, collection: str, seq: Seq) -> Seq:
        """Return a seq up to which the collection has no event after `seq`, as far as events are counted.

        So its state at `seq` is its state there. The result is exact if there is no event at all. Otherwise it may be
        too low by up to a block.
        """
        up_to = await self.counted_up_to(log)
        query = {"_id": _blocks(log, collection, seq // BLOCK), "last": {"$gt": Int64(seq)}}
        with translated("the counters can't be read"):
            row = await self._counters.find_one(query, sort=[("_id", 1)])
        return max(seq, up_to if row is None else Seq(row["_id"]["k"] * BLOCK - 1))

    async def sizes(self, log: LogId) -> dict[str, EventCount]:
        """Return all events that were ever counted, by collection."""
        whole = {"events": "$events", "bytes": "$bytes"}
        with translated("the counters can't be read"):
            cursor = await self._counters.aggregate([_of_log(log), *_summed(whole, "$_id.c")])
            return {row["_id"]: _event_count(row) for row in await cursor.to_list()}

    async def unrouted(self, log: LogId) -> dict[str, int]:
        """Return how many counted events left their document in no route of some definition, by collection."""
        pipeline = [
            _of_log(log),
            {"$match": {"unrouted": {"$gt": 0}}},
            {"$group": {"_id": "$_id.c", "n": {"$sum": "$unrouted"}}},
        ]
        with translated("the counters can't be read"):
            cursor = await self._counters.aggregate(pipeline)
            return {row["_id"]: int(row["n"]) for row in await cursor.to_list()}

    async def forget(self, log: LogId) -> None:
        """Remove the counters of a former log."""
        with translated("the counters of a former log can't be removed"):
            await self._counters.delete_many({"_id.l": log})

    async def _sums(self, log: LogId, after: Seq, up_to: Seq) -> list[dict[str, Any]]:
        block = {"$floor": {"$divide": ["$_id.n", BLOCK]}}
        size = {"$add": [{"$bsonSize": "$$ROOT"}, _PARTS_SIZE]}
        sums = {
            "events": {"$sum": 1},
            "bytes": {"$sum": size},
            "unrouted": {"$sum": {"$cond": ["$u", 1, 0]}},
            "last": {"$max": "$_id.n"},
        }
        group = {"$group": {"_id": {"c": "$c", "k": block}} | sums}
        with translated("the events can't be counted"):
            cursor = await self._events.aggregate([{"$match": {"_id": key_range(log, after, up_to)}}, group])
            return await cursor.to_list()

    async def _move(self, log: LogId, after: Seq, up_to: Seq, sums: list[dict[str, Any]]) -> None:
        """Add `sums` and advance to `up_to`, unless another caller has done so."""
        writes: list[UpdateOne] = [
            UpdateOne(
                {"_id": {"l": log, "c": row["_id"]["c"], "k": Int64(row["_id"]["k"])}},
                {"$inc": _counts(row), "$max": {"last": row["last"]}},
                upsert=True,
            )
            for row in sums
        ]
        progress = {"_id": {"l": log}}
        with translated("the counters can't be written"):
            # Made before the transaction, which then only compares and sets it.
            await self._counters.update_one(progress, {"$setOnInsert": {"upto": Int64(0)}}, upsert=True)
            async with self._database.client.start_session() as session, await session.start_transaction():
                moved = await self._counters.update_one(
                    progress | {"upto": Int64(after)}, {"$set": {"upto": Int64(up_to)}}, session=session
                )
                # Otherwise another caller has counted these events.
                if moved.matched_count and writes:
                    await self._counters.bulk_write(writes, ordered=False, session=session)


def _blocks(log: LogId, collection: str, first: int) -> dict[str, Any]:
    # MongoDB sorts strings after all numbers.
    return {"$gte": {"l": log, "c": collection, "k": Int64(first)}, "$lt": {"l": log, "c": collection, "k": ""}}


def _of_log(log: LogId) -> dict[str, Any]:
    # MongoDB sorts objects after all strings, and a key with fewer fields first. So this excludes `{l: log}` itself.
    return {"$match": {"_id": {"$gt": {"l": log}, "$lt": {"l": log, "c": {}}}}}


def _weighed(seq: Seq, up_to: Seq) -> dict[str, Any]:
    """Return expressions for a block's sums. The block with `seq` counts with its share after `seq`, at least 1."""
    first = max(1, seq // BLOCK * BLOCK)
    last = min(up_to, seq // BLOCK * BLOCK + BLOCK - 1)
    share = (last - seq) / max(1, last - first + 1)
    holds = {"$eq": ["$_id.k", Int64(seq // BLOCK)]}

    def of(name: str) -> dict[str, Any]:
        return {"$cond": [holds, {"$max": [1, {"$round": {"$multiply": [f"${name}", share]}}]}, f"${name}"]}

    return {"events": of("events"), "bytes": of("bytes")}


def _summed(expressions: dict[str, Any], by: str | None) -> list[dict[str, Any]]:
    sums = {name: {"$sum": expression} for name, expression in expressions.items()}
    return [{"$group": {"_id": by, **sums, "last": {"$max": "$last"}}}]


def _counts(row: dict[str, Any]) -> dict[str, Int64]:
    counts = {name: Int64(row[name]) for name in ("events", "bytes")}
    return counts | ({"unrouted": Int64(row["unrouted"])} if row["unrouted"] else {})


def _event_count(row: dict[str, Any]) -> EventCount:
    return EventCount(int(row["events"]), int(row["bytes"]), Seq(row["last"]))
