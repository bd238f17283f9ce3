"""BSON-exact reads of the event log, for replays."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress

from bson.int64 import Int64
from pymongo import ASCENDING
from pymongo.asynchronous.client_session import AsyncClientSession

from eventsync.domain.encoded_state import change_of
from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Change
from eventsync.domain.segments.format import SealedEvent, Selection
from eventsync.domain.shapes import Shape
from eventsync.stores.archive.archive import Archive
from eventsync.stores.archive.tiered_log import sealed_event
from eventsync.stores.log.hot_tier import HotRows, Moved, RowQuery
from eventsync.stores.log.tiers import BehindHorizon, Tiers
from eventsync.stores.stats.counters import Counters

_BATCH = 500
"""Rows in one read. The index leads to scattered rows, and each read has to end within the driver's timeout."""


class ChangeReader:
    """Reads the log in both tiers while the archiver moves events.

    Every method raises `BehindHorizon` for events that are no longer kept, `Damaged` for unreadable ones, and
    `Unavailable`.
    """

    def __init__(self, hot: HotRows, archive: Archive, counters: Counters) -> None:
        self._hot = hot
        self._archive = archive
        self._tiers = archive.tiers
        self._counters = counters

    async def horizon(self, log: LogId) -> Seq:
        """Return the seq up to which events are no longer kept."""
        return (await self._tiers.read(log)).horizon

    async def max_documents(self, log: LogId, collection: str, head: Seq) -> int:
        """Return an upper bound for the number of documents of the collection with events up to `head`."""
        archived_up_to = (await self._tiers.read(log)).archived_up_to
        return await self._archive.touched.count(log, collection) + max(0, head - archived_up_to)

    async def check_segments(self, log: LogId, progress: Callable[[int], None]) -> None:
        """Read every byte of every segment that is kept. Raises `Damaged` for the first one that differs from what was
        written.

        Before each of them `progress` is called with 0: it may raise an error.
        """
        tiers = await self._tiers.read(log)
        async with aclosing(self._archive.segments.covering(log, tiers.horizon, tiers.archived_up_to)) as segments:
            async for segment in segments:
                progress(0)
                with suppress(BehindHorizon):  # it has been removed since it was listed
                    await self._archive.reader.check(segment)

    async def in_order(self, log: LogId, shape: Shape | None, *, after: Seq, up_to: Seq) -> AsyncGenerator[Change]:
        """Yield the changes in the events with `after < seq <= up_to` by seq, of all shapes or of one."""
        async with aclosing(self._archive.tiered.read(log, after, up_to, shape)) as events:
            async for event in events:
                yield change_of(log, event)

    async def changes(
        self, log: LogId, collection: str, *, after: Seq, up_to: Seq, ids: Sequence[IdText]
    ) -> AsyncGenerator[Change]:
        """Yield the changes of these documents with `after < seq <= up_to`, for each document by seq."""
        async with aclosing(self.sealed(log, collection, after=after, up_to=up_to, ids=ids)) as events:
            async for event in events:
                yield change_of(log, event)

    async def sealed(
        self, log: LogId, collection: str, *, after: Seq, up_to: Seq, ids: Sequence[IdText]
    ) -> AsyncGenerator[SealedEvent]:
        """Yield the events of these documents with `after < seq <= up_to`, for each document by seq.

        The archive is not read if MongoDB still has all events of the collection in that range.
        """
        position, done = after, ("", 0)
        while position < up_to:
            try:
                async with aclosing(self._from_hot(log, collection, position, up_to, ids)) as events:
                    async for event in events:
                        if (event.id, event.seq) > done:
                            yield event
                            done = (event.id, event.seq)
                break
            except Moved:
                archived_up_to = Seq(min(self._tiers.seen(log).archived_up_to, up_to))
            # Events come by id and seq, so everything up to `done` was yielded already.
            sealed = self._archive.reader.read(log, position, archived_up_to, Selection(collection, frozenset(ids)))
            async with aclosing(sealed) as events:
                async for event in events:
                    if (event.id, event.seq) > done:
                        yield event
            position = archived_up_to

    async def numbering(
        self, log: LogId, *, after: Seq, up_to: Seq
    ) -> AsyncGenerator[tuple[Seq, TransactionPart | None]]:
        """Yield the existing seqs with `after < seq <= up_to`, in order, with their transactions."""
        async with aclosing(self._archive.tiered.read(log, after, up_to)) as events:
            async for event in events:
                yield event.seq, event.transaction

    async def _is_quiet(
        self, log: LogId, collection: str, after: Seq, tiers: Tiers, session: AsyncClientSession
    ) -> bool:
        """Return True if none of the collection's events after `after` has left MongoDB.

        The touched documents show this from the squash floor on, and the counters up to it: the squash floor lies on a
        border of their blocks.
        """
        if after < tiers.squash_floor and await self._counters.quiet_until(log, collection, after) < tiers.squash_floor:
            return False
        known = max(after, tiers.squash_floor)
        return not await self._archive.touched.any_after(log, collection, known, session)

    async def _from_hot(
        self, log: LogId, collection: str, after: Seq, up_to: Seq, ids: Sequence[IdText]
    ) -> AsyncGenerator[SealedEvent]:
        async def is_complete(tiers: Tiers, session: AsyncClientSession) -> bool:
            return tiers.archived_up_to <= after or await self._is_quiet(log, collection, after, tiers, session)

        find = _by_document(log, collection, after, up_to, ids)
        async with aclosing(self._hot.validated(log, find, is_complete, batch=_BATCH)) as batches:
            async for rows in batches:
                for row in rows:
                    yield sealed_event(row)
        await self._hot.gap_check.require(log, after, up_to)


def _by_document(log: LogId, collection: str, after: Seq, up_to: Seq, ids: Sequence[IdText]) -> RowQuery:
    query = {
        "_id.l": log,
        "c": collection,
        "i": {"$in": list(ids)},
        "_id.n": {"$gt": Int64(after), "$lte": Int64(up_to)},
    }
    return RowQuery(query, up_to, [("i", ASCENDING), ("_id.n", ASCENDING)], {"t": 0}, hint="by_document")
