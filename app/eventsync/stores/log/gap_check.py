"""The proof that no row of a range is missing.

A reader of one shape cannot distinguish a deleted row from an event of another shape. So it counts the rows of the
range that it has read. The count uses only the index and costs a fraction of the read.

A client that comes back to one route reads a dozen events among a million, and counting the million would take a
hundred times as long. So long ranges are counted in blocks, which all readers of a process share, and `keep` counts
them again before they are too old, and the newest ones before anybody asks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, nullcontext
from typing import Any, Final

from bson.int64 import Int64
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.read_concern import ReadConcern

from eventsync.concurrency.waiting import set_within
from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import DamagedEvents
from eventsync.errors import Unavailable
from eventsync.mongodb.errors import translated
from eventsync.stores.log.tiers import TierStore

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 50_000
"""Most rows in one count, so that each ends well within the driver's timeout."""

_BLOCK: Final = 4096
"""Events in a block. The ends of a range that are no whole blocks are counted each time: they cost MongoDB 2 ms."""

_SMALL: Final = 10_000
"""Ranges up to this size are always counted: they cost MongoDB 2 ms."""

_VALID: Final = 60.0
"""Seconds for which the count of a block is valid, if all of them can be counted in that time."""

_SHARE: Final = 50.0
"""Counting takes at most a fiftieth of the time: with more blocks, counts are valid for longer."""

_PAUSE: Final = 1.0
"""Seconds between two looks for blocks to count."""

_LINEARIZABLE_MS: Final = 5000
"""Longest wait for a majority to agree who is primary, in milliseconds."""

_NAMED: Final = 5
"""Most runs of missing events that a message names."""


class _Blocks:
    """The blocks of one log that were counted: block n has the events after `n * _BLOCK`."""

    def __init__(self, log: LogId) -> None:
        self.log = log
        self._counted: dict[int, float] = {}
        self._seconds = 0.0
        """Seconds that it takes to count a block, about."""
        self._run = (0, 0, -math.inf)
        """The blocks that were asked for last, and the oldest count of them. There may be thousands."""

    @property
    def valid_for(self) -> float:
        """Seconds for which counts are valid."""
        return max(_VALID, _SHARE * self._seconds * len(self._counted))

    def missing(self, after: Seq, up_to: Seq, *, valid_for: float | None = None) -> list[tuple[Seq, Seq]]:
        """Return the parts of a range that have no valid count, in order. Adjacent blocks are one part."""
        valid_for = self.valid_for if valid_for is None else valid_for
        first, last = -(-after // _BLOCK), up_to // _BLOCK
        if first >= last:
            return [(after, up_to)]
        parts = [(int(after), first * _BLOCK)]
        parts += [(block * _BLOCK, (block + 1) * _BLOCK) for block in self._stale(first, last, valid_for)]
        parts.append((last * _BLOCK, up_to))
        joined: list[tuple[Seq, Seq]] = []
        for start, end in parts:
            if joined and joined[-1][1] == start:
                joined[-1] = joined[-1][0], Seq(end)
            elif start < end:
                joined.append((Seq(start), Seq(end)))
        return joined

    def _stale(self, first: int, last: int, valid_for: float) -> list[int]:
        """Return the blocks of a range that were not counted for `valid_for` seconds."""
        valid_since = time.monotonic() - valid_for
        begin, end, oldest = self._run
        if begin <= first and last <= end and oldest >= valid_since:
            return []
        times = [self._counted.get(block, -math.inf) for block in range(first, last)]
        self._run = first, last, min(times)
        return [block for block, counted in enumerate(times, start=first) if counted < valid_since]

    def counted(self, after: Seq, up_to: Seq, began: float) -> None:
        """Note that a range has no gaps, by a count that began at `began`."""
        blocks = range(-(-after // _BLOCK), up_to // _BLOCK)
        self._counted.update(dict.fromkeys(blocks, began))
        self._run = (0, 0, -math.inf)
        if blocks:
            self._seconds = (time.monotonic() - began) / len(blocks)

    def forget(self, up_to: Seq) -> None:
        """Forget the blocks of events that have left MongoDB."""
        for block in [block for block in self._counted if (block + 1) * _BLOCK <= up_to]:
            del self._counted[block]


class GapCheck:
    """Counts rows. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any], tiers: TierStore) -> None:
        self._events: AsyncCollection[Any] = database["events"]
        self._tiers = tiers
        self._blocks = _Blocks(LogId(""))
        self._counting = asyncio.Lock()

    async def require(self, log: LogId, after: Seq, up_to: Seq, *, fresh: bool = False) -> None:
        """Raise `DamagedEvents` if an event with `after < seq <= up_to` is neither archived nor in MongoDB.

        Without `fresh`, recent counts of long ranges are reused.
        """
        # The border as of the last read suffices: a later one shows as rows that are missing.
        while after < up_to and (start := max(after, self._tiers.seen(log).archived_up_to)) < up_to:
            if fresh or up_to - start <= _SMALL:
                is_whole = await self._count(log, start, up_to) == up_to - start
            else:
                is_whole = await self._count_blocks(log, start, up_to)
            if is_whole:
                await self._check_collections(log, start, up_to)
                return
            # The archiver may have removed some of them meanwhile. If so, it raised `archived_up_to` before.
            if (await self._tiers.read(log)).archived_up_to <= start:
                missing = await self._missing(log, start, up_to)
                # A member that has just become primary may not show the newest rows yet. A linearizable read does.
                if missing is not None and not await self.exists(log, missing.last):
                    raise missing

    async def keep(self, log: Callable[[], LogId | None], head: Callable[[], Seq], stop: asyncio.Event) -> None:
        """Count the blocks of the log in force again and again until `stop`, so that readers need not."""
        while not await set_within(stop, _PAUSE):
            current = log()
            if current is None:
                continue
            try:
                await self._refresh(current, head(), stop)
            except Unavailable as error:
                logger.debug("the events of log %s can't be counted: %s", current, error.diagnosis)

    async def _refresh(self, log: LogId, up_to: Seq, stop: asyncio.Event) -> None:
        after = (await self._tiers.read(log)).archived_up_to
        blocks = self._of(log)
        blocks.forget(after)
        if up_to - after <= _SMALL:
            return
        first, last = Seq(-(-after // _BLOCK) * _BLOCK), Seq(up_to // _BLOCK * _BLOCK)
        # The newest first, which most clients come back to.
        for start, end in reversed(blocks.missing(first, last, valid_for=blocks.valid_for / 2)):
            position = end
            while position > start and not stop.is_set():
                begin = max(start, Seq(position - _AT_ONCE // _BLOCK * _BLOCK))
                began = time.monotonic()
                # A reader finds out what is missing, and says so.
                if await self._count(log, begin, position) == position - begin:
                    blocks.counted(begin, position, began)
                position = begin
                await asyncio.sleep(time.monotonic() - began)

    def _of(self, log: LogId) -> _Blocks:
        if self._blocks.log != log:
            self._blocks = _Blocks(log)
        return self._blocks

    async def _count_blocks(self, log: LogId, after: Seq, up_to: Seq) -> bool:
        """Return True if no row of a long range is missing, by counts of which the blocks' may be recent ones."""
        blocks = self._of(log)
        is_long = any(end - start > 2 * _BLOCK for start, end in blocks.missing(after, up_to))
        # Many clients come back at once. The first of them counts for all.
        async with self._counting if is_long else nullcontext():
            for start, end in blocks.missing(after, up_to):
                for begin in range(start, end, _AT_ONCE):
                    last, began = Seq(min(end, begin + _AT_ONCE)), time.monotonic()
                    if await self._count(log, Seq(begin), last) != last - begin:
                        return False
                    blocks.counted(Seq(begin), last, began)
        return True

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
