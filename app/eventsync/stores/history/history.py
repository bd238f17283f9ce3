"""The event log with what its events say BSON-exact: for whoever replays it, not for clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

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
from eventsync.stores.archive.tiered_log import TieredEvents, sealed_event
from eventsync.stores.log.hot_tier import Find, HotRows, Moved
from eventsync.stores.log.tiers import Tiers, TierStore
from eventsync.stores.stats.counters import Counters

_BATCH = 500
"""Rows in one read: what the index gives is scattered, and each read has to end within the driver's timeout."""


class History:
    """Reads of the log, wherever its events are, while they are moved.

    All raise `BehindHorizon` for what is not kept any more, `Damaged` for what can't be read, and `Unavailable`.
    """

    def __init__(
        self, hot: HotRows, archive: Archive, tiered: TieredEvents, tiers: TierStore, counters: Counters
    ) -> None:
        self._counters = counters
        self._hot = hot
        self._archive = archive
        self._tiered = tiered
        self._tiers = tiers

    async def horizon(self, log: LogId) -> Seq:
        """The newest event that is not kept any more."""
        return (await self._tiers.read(log)).horizon

    async def max_documents(self, log: LogId, collection: str, head: Seq) -> int:
        """No fewer than the documents of the collection that have events up to `head` that are kept."""
        archived_up_to = (await self._tiers.read(log)).archived_up_to
        return await self._archive.touched.count(log, collection) + max(0, head - archived_up_to)

    async def check_segments(self, log: LogId) -> None:
        """Read every archived segment, byte for byte. Raises `Damaged` for the first that is not what was written."""
        tiers = await self._tiers.read(log)
        async with aclosing(self._archive.segments.covering(log, tiers.horizon, tiers.archived_up_to)) as segments:
            async for segment in segments:
                await self._archive.reader.check(segment)

    async def in_order(self, log: LogId, shape: Shape | None, *, after: Seq, up_to: Seq) -> AsyncGenerator[Change]:
        """What the events with `after < seq <= up_to` say, of everything or of one shape: by seq."""
        async with aclosing(self._tiered.read(log, after, up_to, shape)) as events:
            async for event in events:
                yield change_of(log, event)

    async def changes(
        self, log: LogId, collection: str, *, after: Seq, up_to: Seq, ids: Sequence[IdText]
    ) -> AsyncGenerator[Change]:
        """Yield the changes with `after < seq <= up_to` of these documents: for each of them by seq."""
        async with aclosing(self.sealed(log, collection, after=after, up_to=up_to, ids=ids)) as events:
            async for event in events:
                yield change_of(log, event)

    async def sealed(
        self, log: LogId, collection: str, *, after: Seq, up_to: Seq, ids: Sequence[IdText]
    ) -> AsyncGenerator[SealedEvent]:
        """Yield these events themselves.

        Nothing but MongoDB is asked where all of the collection's events of that range are still there.
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
            # They come by id and seq: up to where it broke off there is nothing left to tell.
            sealed = self._archive.reader.read(log, position, archived_up_to, Selection(collection, frozenset(ids)))
            async with aclosing(sealed) as events:
                async for event in events:
                    if (event.id, event.seq) > done:
                        yield event
            position = archived_up_to

    async def numbering(
        self, log: LogId, *, after: Seq, up_to: Seq
    ) -> AsyncGenerator[tuple[Seq, TransactionPart | None]]:
        """The numbers that are there with `after < seq <= up_to`, in order, and the transactions they belong to."""
        async with aclosing(self._tiered.read(log, after, up_to)) as events:
            async for event in events:
                yield event.seq, event.transaction

    async def _is_quiet(
        self, log: LogId, collection: str, after: Seq, tiers: Tiers, session: AsyncClientSession
    ) -> bool:
        """Whether none of the collection's events after `after` has left MongoDB.

        What was touched tells it from the squash floor on. Up to there the tallies do: it lies between their blocks.
        """
        if after < tiers.squash_floor and await self._counters.quiet_until(log, collection, after) < tiers.squash_floor:
            return False
        known = max(after, tiers.squash_floor)
        return not await self._archive.touched.any_after(log, collection, known, session)

    async def _from_hot(
        self, log: LogId, collection: str, after: Seq, up_to: Seq, ids: Sequence[IdText]
    ) -> AsyncGenerator[SealedEvent]:
        async def whole(tiers: Tiers, session: AsyncClientSession) -> bool:
            return tiers.archived_up_to <= after or await self._is_quiet(log, collection, after, tiers, session)

        find = _by_document(log, collection, after, up_to, ids)
        async with aclosing(self._hot.validated(log, find, whole, batch=_BATCH)) as batches:
            async for rows in batches:
                for row in rows:
                    yield sealed_event(row)
        await self._hot.gap_check.require(log, after, up_to)


def _by_document(log: LogId, collection: str, after: Seq, up_to: Seq, ids: Sequence[IdText]) -> Find:
    query = {
        "_id.l": log,
        "c": collection,
        "i": {"$in": list(ids)},
        "_id.n": {"$gt": Int64(after), "$lte": Int64(up_to)},
    }
    return Find(query, up_to, [("i", ASCENDING), ("_id.n", ASCENDING)], {"t": 0}, hint="by_document")
