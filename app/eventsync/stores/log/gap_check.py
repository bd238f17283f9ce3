"""The proof that no row of a range is missing.

A reader of one shape cannot distinguish a deleted row from an event of another shape. So it counts the rows of the
range that it has read. The count uses only the index and costs a fraction of the read.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from bson.int64 import Int64
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern

from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import DamagedEvents
from eventsync.mongodb.errors import translated
from eventsync.stores.log.tiers import TierStore

_AT_ONCE: Final = 50_000
"""Most rows in one count, so that each ends well within the driver's timeout."""

_SHARE: Final = 20.0
"""A count stays valid for this many times its duration, so counting takes at most a twentieth of the time."""

_SMALL: Final = 10_000
"""Ranges up to this size are always counted: they cost MongoDB 2 ms."""

_LINEARIZABLE_MS: Final = 5000
"""Longest wait for a majority to agree who is primary, in milliseconds."""

_NAMED: Final = 5
"""Most runs of missing events that a message names."""


@dataclass(slots=True)
class _Counted:
    """A range without gaps. The count is valid until `until` on the monotonic clock."""

    log: LogId
    after: Seq
    up_to: Seq
    until: float


class GapCheck:
    """Counts rows. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any], tiers: TierStore) -> None:
        self._events: AsyncCollection[Any] = database["events"]
        self._tiers = tiers
        self._known: _Counted | None = None

    async def require(self, log: LogId, after: Seq, up_to: Seq, *, fresh: bool = False) -> None:
        """Raise `DamagedEvents` if an event with `after < seq <= up_to` is neither archived nor in MongoDB.

        Without `fresh`, a recent count of the range is reused.
        """
        if after >= up_to or (not fresh and self._is_known(log, after, up_to)):
            return
        began = time.monotonic()
        while (start := max(after, (await self._tiers.read(log)).archived_up_to)) < up_to:
            if await self._count(log, start, up_to) == up_to - start:
                await self._check_collections(log, start, up_to)
                now = time.monotonic()
                # Counts of small ranges are not reused, so a hole there is noticed at once.
                if up_to - start > _SMALL:
                    self._known = _Counted(log, start, up_to, now + _SHARE * (now - began))
                return
            # The archiver may have removed some of them meanwhile. If so, it raised `archived_up_to` before.
            if (await self._tiers.read(log)).archived_up_to <= start:
                missing = await self._missing(log, start, up_to)
                # A member that has just become primary may not show the newest rows yet. A linearizable read does.
                if missing is not None and not await self.exists(log, missing.last):
                    raise missing

    def _is_known(self, log: LogId, after: Seq, up_to: Seq) -> bool:
        known = self._known
        return (
            known is not None
            and known.log == log
            and time.monotonic() < known.until
            and known.after <= max(after, self._tiers.seen(log).archived_up_to)
            and up_to <= known.up_to
        )

    async def _count(self, log: LogId, after: Seq, up_to: Seq) -> int:
        count = 0
        with translated("the events can't be counted"):
            for start in range(after, up_to, _AT_ONCE):
                query = {"_id": key_range(log, start, min(up_to, start + _AT_ONCE))}
                # Not `count_documents`, which runs an aggregation: this command scans only keys.
                answer = await self._events.database.command(
                    {"count": self._events.name, "query": query, "readConcern": {"level": "majority"}}
                )
                count += int(answer["n"])
        return count

    async def _check_collections(self, log: LogId, after: Seq, up_to: Seq) -> None:
        """Raise `DamagedEvents` for a row without a collection, because no reader of a shape finds it."""
        query = {"_id.l": log, "c": None, "_id.n": {"$gt": Int64(after), "$lte": Int64(up_to)}}
        with translated("the events can't be read"):
            row = await self._events.find_one(query, {"_id": 1}, sort=[("_id.n", -1)])
        if row is not None:
            raise without_collection(log, row["_id"]["n"])

    async def exists(self, log: LogId, seq: Seq) -> bool:
        """Return True if an event is in MongoDB.

        The read is linearizable: a new primary does not miss an event that its predecessor has returned, and a former
        primary cannot answer.
        """
        events = self._events.with_options(read_concern=ReadConcern("linearizable"))
        key = {"_id": event_key(log, seq)}
        with translated("the log can't be read"):
            return await events.find_one(key, {"_id": 1}, max_time_ms=_LINEARIZABLE_MS) is not None

    async def _missing(self, log: LogId, after: Seq, up_to: Seq) -> DamagedEvents | None:
        """Return an error that names at most `_NAMED` runs of missing events, or None if none is missing."""
        runs: list[tuple[int, int]] = []
        position = int(after)
        async with aclosing(self._numbers(log, after, up_to)) as numbers:
            async for number in numbers:
                if number > position + 1:
                    runs.append((position + 1, number - 1))
                position = number
        if position < up_to:
            runs.append((position + 1, up_to))
        if not runs:
            return None
        named = ", ".join(str(one) if one == last else f"{one} to {last}" for one, last in runs[:_NAMED])
        more = f" and {len(runs) - _NAMED} runs more" if len(runs) > _NAMED else ""
        single = len(runs) == 1 and runs[0][0] == runs[0][1]
        words = ("event", "is") if single else ("events", "are")
        return DamagedEvents(f"{words[0]} {named}{more} {words[1]} missing", Seq(runs[-1][1]))

    async def _numbers(self, log: LogId, after: Seq, up_to: Seq) -> AsyncGenerator[int]:
        with translated("the events can't be read"):
            cursor = self._events.find(
                {"_id": key_range(log, after, up_to)}, {"_id": 1}, sort=[("_id", 1)], batch_size=_AT_ONCE
            )
            async with cursor:
                async for row in cursor:
                    yield int(row["_id"]["n"])


def without_collection(log: LogId, seq: Seq) -> DamagedEvents:
    """Return the error for an event of no collection: no reader of a shape finds it."""
    return DamagedEvents(f"event {log}:{seq} can't be read: it names no collection", seq)
