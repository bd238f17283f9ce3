"""How much a log holds, without counting it each time: the collection `counters`.

`_id: {l: log, c: collection, k: block}` sums up the collection's events with `seq // BLOCK == k`: how many, their bytes
as MongoDB stores them, and the `last` one's seq. `_id: {l: log}` says up to which seq the log is tallied; it moves in
the same transaction as the sums, so every event is in them exactly once. Who drops events tallies them first.
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
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.mongodb.errors import translated
from eventsync.stores.log.event_parts import PART_BYTES

BLOCK: Final = 10_000

_AT_ONCE: Final = 20_000
"""Events in one aggregation: each has to end well within the driver's timeout."""

_APART = {"$cond": [{"$eq": [{"$type": "$b"}, "object"]}, {"$multiply": ["$b.of", PART_BYTES]}, 0]}
"""About the bytes of a body that is not in the row itself."""


_NONE: Final = Seq(0)


@dataclass(frozen=True, slots=True)
class EventCount:
    """Events, their bytes, and the newest one's seq; 0 where there is none."""

    events: int = 0
    bytes: int = 0
    last: Seq = _NONE

    def __add__(self, other: EventCount) -> EventCount:
        return EventCount(self.events + other.events, self.bytes + other.bytes, max(self.last, other.last))


async def _no_step() -> None:
    """What nobody waits for has no steps."""


class Counters:
    """Counts what is appended, once, and answers from the sums. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._database = database
        self._events: AsyncCollection[Any] = database["events"]
        self._counters: AsyncCollection[Any] = database["tallies"]
        self._tiers: AsyncCollection[Any] = database["tiers"]

    async def counted_up_to(self, log: LogId) -> Seq:
        """The events up to this one are tallied."""
        with translated("the tallies can't be read"):
            row = await self._counters.find_one({"_id": {"l": log}})
        return Seq(row["upto"]) if row else Seq(0)

    async def add(self, log: LogId, up_to: Seq, step: Callable[[], Awaitable[None]] = _no_step) -> set[str]:
        """Tally what is not yet, up to `counted_up_to`, in pieces, with a `step` between them; which collections had
        events.

        Any number of callers at once: one of them does it. `counted_up_to` must be in MongoDB, and so all events before
        it.

        Raises `Damaged` where some have left MongoDB untallied: the tallies were dropped or emptied by somebody.
        """
        found: set[str] = set()
        while (after := await self.counted_up_to(log)) < up_to:
            piece = Seq(min(up_to, after + _AT_ONCE))
            sums = await self._sums(log, after, piece)
            if sum(row["events"] for row in sums) < piece - after:
                await self._check_floor(log, after)
            await self._move(log, after, piece, sums)
            found |= {row["_id"]["c"] for row in sums}
            await step()
        return found

    async def _check_floor(self, log: LogId, after: Seq) -> None:
        with translated("the log's tiers can't be read"):
            row = await self._tiers.find_one({"_id": log}, {"floor": 1})
        if row is not None and after < row.get("floor", 0) and await self.counted_up_to(log) == after:
            raise Damaged(f"the events of log {log} up to {row['floor']} are tallied up to {after} only")

    async def after(self, log: LogId, seq: Seq, collection: str | None = None) -> EventCount:
        """What was tallied after `seq`, of one collection or of all. Of the block that holds `seq` it is a share.

        `last` is exact, and where it is not beyond `seq`, so are the zeros.
        """
        up_to = await self.counted_up_to(log)
        of = {"$match": {"_id": _blocks(log, collection, seq // BLOCK)}} if collection else _of_log(log)
        newer = {"$match": {"last": {"$gt": Int64(seq)}}}
        with translated("the tallies can't be read"):
            cursor = await self._counters.aggregate([of, newer, *_summed(_weighed(seq, up_to), None)])
            rows = await cursor.to_list()
        return _tally(rows[0]) if rows else EventCount()

    async def quiet_until(self, log: LogId, collection: str, seq: Seq) -> Seq:
        """A seq up to which the collection has no event after `seq`, as far as is tallied: what it was, it still is.

        Exact where there is no event at all; else it may say less than is true, by up to a block.
        """
        up_to = await self.counted_up_to(log)
        query = {"_id": _blocks(log, collection, seq // BLOCK), "last": {"$gt": Int64(seq)}}
        with translated("the tallies can't be read"):
            row = await self._counters.find_one(query, sort=[("_id", 1)])
        return max(seq, up_to if row is None else Seq(row["_id"]["k"] * BLOCK - 1))

    async def sizes(self, log: LogId) -> dict[str, EventCount]:
        """All that was ever tallied, by collection."""
        whole = {"events": "$events", "bytes": "$bytes"}
        with translated("the tallies can't be read"):
            cursor = await self._counters.aggregate([_of_log(log), *_summed(whole, "$_id.c")])
            return {row["_id"]: _tally(row) for row in await cursor.to_list()}

    async def forget(self, log: LogId) -> None:
        """Remove what belongs to a former log."""
        with translated("the tallies of a former log can't be removed"):
            await self._counters.delete_many({"_id.l": log})

    async def _sums(self, log: LogId, after: Seq, up_to: Seq) -> list[dict[str, Any]]:
        block = {"$floor": {"$divide": ["$_id.n", BLOCK]}}
        size = {"$add": [{"$bsonSize": "$$ROOT"}, _APART]}
        sums = {"events": {"$sum": 1}, "bytes": {"$sum": size}, "last": {"$max": "$_id.n"}}
        group = {"$group": {"_id": {"c": "$c", "k": block}} | sums}
        with translated("the events can't be tallied"):
            cursor = await self._events.aggregate([{"$match": {"_id": key_range(log, after, up_to)}}, group])
            return await cursor.to_list()

    async def _move(self, log: LogId, after: Seq, up_to: Seq, sums: list[dict[str, Any]]) -> None:
        """Add `sums` and go on to `counted_up_to`, unless somebody else has done it."""
        writes: list[UpdateOne] = [
            UpdateOne(
                {"_id": {"l": log, "c": row["_id"]["c"], "k": Int64(row["_id"]["k"])}},
                {"$inc": {"events": Int64(row["events"]), "bytes": Int64(row["bytes"])}, "$max": {"last": row["last"]}},
                upsert=True,
            )
            for row in sums
        ]
        mark = {"_id": {"l": log}}
        with translated("the tallies can't be written"):
            await self._counters.update_one(mark, {"$setOnInsert": {"upto": Int64(0)}}, upsert=True)
            async with self._database.client.start_session() as session, await session.start_transaction():
                moved = await self._counters.update_one(
                    mark | {"upto": Int64(after)}, {"$set": {"upto": Int64(up_to)}}, session=session
                )
                if moved.matched_count and writes:
                    await self._counters.bulk_write(writes, ordered=False, session=session)


def _blocks(log: LogId, collection: str, first: int) -> dict[str, Any]:
    # MongoDB sorts strings behind all numbers.
    return {"$gte": {"l": log, "c": collection, "k": Int64(first)}, "$lt": {"l": log, "c": collection, "k": ""}}


def _of_log(log: LogId) -> dict[str, Any]:
    # And objects behind all strings. What has fewer fields comes first: the mark is not among these.
    return {"$match": {"_id": {"$gt": {"l": log}, "$lt": {"l": log, "c": {}}}}}


def _weighed(seq: Seq, up_to: Seq) -> dict[str, Any]:
    """A block's figures, of the block that holds `seq` only the share that lies after it; at least one event."""
    first = max(1, seq // BLOCK * BLOCK)
    last = min(up_to, seq // BLOCK * BLOCK + BLOCK - 1)
    share = (last - seq) / max(1, last - first + 1)
    holds = {"$eq": ["$_id.k", Int64(seq // BLOCK)]}

    def of(name: str) -> dict[str, Any]:
        return {"$cond": [holds, {"$max": [1, {"$round": {"$multiply": [f"${name}", share]}}]}, f"${name}"]}

    return {"events": of("events"), "bytes": of("bytes")}


def _summed(figures: dict[str, Any], by: str | None) -> list[dict[str, Any]]:
    sums = {name: {"$sum": figure} for name, figure in figures.items()}
    return [{"$group": {"_id": by, **sums, "last": {"$max": "$last"}}}]


def _tally(row: dict[str, Any]) -> EventCount:
    return EventCount(int(row["events"]), int(row["bytes"]), Seq(row["last"]))
