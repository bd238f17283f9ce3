"""The proof that a log is whole, and with the stored snapshots says exactly what the collections are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from bson.timestamp import Timestamp

from eventsync.domain.log_checks import SequenceCheck, VersionChainCheck
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.document_index import document_hash
from eventsync.domain.shapes import Shape
from eventsync.stores.history.comparison import Comparison, Difference
from eventsync.stores.history.history import History

Progress = Callable[[int], None]
"""Called with the number of events or documents that were looked at since the last call."""

_STEP = 500

_CHAINS = 1_000_000
"""Documents whose chains are looked at in one pass; each takes about 200 bytes."""


@dataclass(frozen=True, slots=True)
class Point:
    """The collections at cluster time `time` are the log's state at `seq`; `head` is the newest event.

    `settled` is whether nothing may be on its way into the log: its last transaction has to be whole.
    """

    log: LogId
    seq: Seq
    time: Timestamp
    head: Seq
    settled: bool


class Verification:
    """Each check goes through its part in bounded batches and answers with the first thing that is wrong, or None.

    All raise `Damaged` for what can't be read, and `Unavailable`.
    """

    def __init__(self, history: History, comparison: Comparison) -> None:
        self._history = history
        self._comparison = comparison

    async def numbers(self, point: Point, progress: Progress) -> str | None:
        """Seqs are dense from the horizon, or from 1, to the head, and transactions stand together.

        The segments that are archived are what was written, every byte.
        """
        await self._history.check_segments(point.log)
        horizon = await self._history.horizon(point.log)
        numbers, count = SequenceCheck(horizon), _Count(progress)
        async with aclosing(self._history.numbering(point.log, after=horizon, up_to=point.head)) as events:
            async for seq, transaction in events:
                count.one()
                if wrong := numbers.take(seq, transaction):
                    return wrong
        count.report()
        return numbers.end(point.head, settled=point.settled)

    async def chains(self, point: Point, collection: str, progress: Progress) -> str | None:
        """Each document's versions follow on each other."""
        documents = await self._history.max_documents(point.log, collection, point.head)
        passes, count = 1 + documents // _CHAINS, _Count(progress)
        for number in range(passes):
            if wrong := await self._chains(point, collection, count, number, passes):
                return wrong
        count.report()
        return None

    async def _chains(self, point: Point, collection: str, count: _Count, number: int, passes: int) -> str | None:
        """Look at one of `passes` shares of the documents: what all of them were at is too much to hold at once."""
        chains, horizon = VersionChainCheck(), await self._history.horizon(point.log)
        changes = self._history.in_order(point.log, Shape(collection), after=horizon, up_to=point.head)
        async with aclosing(changes):
            async for change in changes:
                if passes > 1 and document_hash(collection, change.id) % passes != number:
                    continue
                count.one()
                if wrong := chains.take(change):
                    return wrong
        return None

    async def content(self, point: Point, collection: str, progress: Progress) -> Difference | None:
        """The stored snapshot and the events after it are the collection. Raises `NoBase` too."""
        found = self._comparison.differences(point.log, collection, point.seq, point.time, compared=progress)
        async with aclosing(found):
            async for difference in found:
                return difference
        return None


class _Count:
    """Reports in steps: a call for each event would cost more than the check."""

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
