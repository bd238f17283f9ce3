"""The proof that a log is complete, and that it and the stored snapshots give exactly the collections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

from bson.timestamp import Timestamp

from eventsync.domain.log_checks import SequenceCheck, VersionChainCheck
from eventsync.domain.positions import START, LogId, Seq
from eventsync.domain.segments.document_index import document_hash
from eventsync.domain.shapes import Shape
from eventsync.stores.history.change_reader import ChangeReader
from eventsync.stores.history.comparison import Comparison, Difference
from eventsync.stores.log.tiers import BehindHorizon

Progress = Callable[[int], None]
"""Called with the number of events or documents that were checked since the last call."""

_STEP = 500

MAX_CHAINS: Final = 1_000_000
"""Most documents whose version chains are checked in one pass by default. Each takes about 200 bytes."""


@dataclass(frozen=True, slots=True)
class VerifiedPoint:
    """The collections at cluster time `time` are the log's state at `seq`; `head` is the newest event.

    With `settled`, no event can be in flight, so the last transaction has to be complete.
    """

    log: LogId
    seq: Seq
    time: Timestamp
    head: Seq
    settled: bool


class Verification:
    """Each check reads in bounded batches and returns the first fault, or None.

    Every check raises `Damaged` for unreadable data, and `Unavailable`.
    """

    def __init__(self, reader: ChangeReader, comparison: Comparison, *, max_chains: int = MAX_CHAINS) -> None:
        """`max_chains`: documents whose chains are held in memory. With more documents, the log is read again."""
        self._reader = reader
        self._comparison = comparison
        self._max_chains = max_chains

    async def numbers(self, point: VerifiedPoint, progress: Progress) -> str | None:
        """Check that seqs are dense from the horizon, or from 1, to the head, and that transactions are contiguous.

        Also check every byte of the archived segments.
        """
        await self._reader.check_segments(point.log, progress)
        count = _Count(progress)
        wrong = await self._kept(point, lambda horizon: self._numbers(point, count, horizon))
        count.report()
        return wrong

    async def _numbers(self, point: VerifiedPoint, count: _Count, horizon: Seq) -> str | None:
        numbers = SequenceCheck(horizon)
        async with aclosing(self._reader.numbering(point.log, after=horizon, up_to=point.head)) as events:
            async for seq, transaction in events:
                count.one()
                if wrong := numbers.take(seq, transaction):
                    return wrong
        return numbers.end(point.head, settled=point.settled)

    async def chains(
        self, point: VerifiedPoint, collection: str, progress: Progress, *, tracked_from: Seq = START
    ) -> str | None:
        """Check that the versions of each document form a chain, in the events after `tracked_from`."""
        documents = await self._reader.max_documents(point.log, collection, point.head)
        passes, count = 1 + documents // self._max_chains, _Count(progress)
        for number in range(passes):
            share = partial(self._chains, point, collection, count, tracked_from, number, passes)
            if wrong := await self._kept(point, share):
                return wrong
        count.report()
        return None

    async def _chains(
        self,
        point: VerifiedPoint,
        collection: str,
        count: _Count,
        tracked_from: Seq,
        number: int,
        passes: int,
        horizon: Seq,
    ) -> str | None:
        """Check one of `passes` shares of the documents, because the state of all chains may not fit into memory."""
        chains, after = VersionChainCheck(), max(tracked_from, horizon)
        changes = self._reader.in_order(point.log, Shape(collection), after=after, up_to=point.head)
        async with aclosing(changes):
            async for change in changes:
                if passes > 1 and document_hash(collection, change.id) % passes != number:
                    continue
                count.one()
                if wrong := chains.take(change):
                    return wrong
        return None

    async def _kept(self, point: VerifiedPoint, check: Callable[[Seq], Awaitable[str | None]]) -> str | None:
        """Return the result of a check that reads in order, from the horizon on.

        Where retention removes what it is about to read, it begins again at the new horizon, behind all that it has
        read.
        """
        horizon = await self._reader.horizon(point.log)
        while True:
            try:
                return await check(min(horizon, point.head))
            except BehindHorizon:
                before, horizon = horizon, await self._reader.horizon(point.log)
                if horizon <= before:
                    raise

    async def content(self, point: VerifiedPoint, collection: str, progress: Progress) -> Difference | None:
        """Check that the stored snapshot and the events after it give the collection. Also raises `NoBase`."""
        differences = self._comparison.differences(point.log, collection, point.seq, point.time, compared=progress)
        async with aclosing(differences):
            async for difference in differences:
                return difference
        return None


class _Count:
    """Reports progress in steps, because a call for each event would cost more than the check."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._count = 0

    def one(self) -> None:
        self._count += 1
        if self._count == _STEP:
            self.report()

    def report(self) -> None:
        self._progress(self._count)
        self._count = 0
