"""Reads of a log across its tiers: segments up to `archived_up_to`, MongoDB after it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.block import Block
from eventsync.domain.segments.format import SealedEvent, Selection
from eventsync.domain.shapes import Shape
from eventsync.domain.values.type_hints import unpack_type_hints
from eventsync.errors import Malformed
from eventsync.stores.archive.segment_reader import SegmentReader
from eventsync.stores.log.event_batch import EventBatch, batch_of_block
from eventsync.stores.log.hot_tier import FOR_CLIENTS, HotRows, Moved, RowBatch, in_order
from eventsync.stores.log.stored_event import (
    UNREADABLE,
    StoredEvent,
    body_of,
    routes_of,
    stored_event,
    transaction_part,
    unreadable,
)
from eventsync.stores.log.tiers import TierStore

H = TypeVar("H", RowBatch, EventBatch)


class BlockBatch(NamedTuple):
    """One or more events of a block, by index."""

    block: Block
    indexes: Sequence[int]

    @property
    def last(self) -> Seq:
        """The number of the last event."""
        return self.block.seq(self.indexes[-1])


class TieredEvents:
    """Reads events by seq, across the tiers, while the archiver moves them.

    An event that is in neither tier is never skipped silently. Every method raises `BehindHorizon` for events that are
    no longer kept, `Damaged` for missing ones, and `Unavailable`.
    """

    def __init__(self, hot: HotRows, cold: SegmentReader, tiers: TierStore) -> None:
        self._hot = hot
        self._cold = cold
        self._tiers = tiers
        self.gap_check = hot.gap_check

    async def read(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape | None = None, *, batch: int = 1000
    ) -> AsyncGenerator[SealedEvent]:
        """Yield events with `after < seq <= up_to` with all that outlives their rows, of all shapes or of one.

        Holds one batch of rows, or one read of a segment.
        """

        def hot(position: Seq) -> AsyncGenerator[RowBatch]:
            return self._hot.after(log, in_order(log, position, up_to, shape), position, batch=batch)

        async with aclosing(self._batches(log, after, up_to, shape, hot)) as batches:
            async for events in batches:
                if isinstance(events, BlockBatch):
                    for index in events.indexes:
                        yield events.block.event(index)
                else:
                    for row in events.rows:
                        yield sealed_event(row)

    async def for_clients(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape | None = None, *, above: int = 0, batch: int = 1000
    ) -> AsyncGenerator[Sequence[StoredEvent]]:
        """Yield the events in the form for clients, in batches from MongoDB and in blocks from segments.

        With `above`, yields only events that left their document at a version greater than that.
        """

        def hot(position: Seq) -> AsyncGenerator[RowBatch]:
            query = in_order(log, position, up_to, shape, above=above, fields=FOR_CLIENTS)
            return self._hot.after(log, query, position, batch=batch)

        async with aclosing(self._batches(log, after, up_to, shape, hot, above)) as batches:
            async for events in batches:
                if isinstance(events, BlockBatch):
                    yield [_stored_in(events.block, index) for index in events.indexes]
                else:
                    yield [_stored(row) for row in events.rows]

    async def event_batches(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape, *, batch: int = 1000
    ) -> AsyncGenerator[EventBatch]:
        """Yield the events of one shape for forwarding."""

        def hot(position: Seq) -> AsyncGenerator[EventBatch]:
            return self._hot.event_batches(log, position, up_to, shape, batch=batch)

        async with aclosing(self._batches(log, after, up_to, shape, hot)) as batches:
            async for events in batches:
                yield batch_of_block(events.block, events.indexes) if isinstance(events, BlockBatch) else events

    async def is_archived(self, log: LogId, seq: Seq) -> bool:
        """Return True if an event has left MongoDB, or may leave it at any moment."""
        return seq <= (await self._tiers.read(log)).archived_up_to

    async def hot(self, log: LogId, after: Seq, up_to: Seq, *, batch: int = 1000) -> AsyncGenerator[SealedEvent]:
        """Yield events from MongoDB only. Raises `Moved` if some have left it."""
        async with aclosing(self._hot.after(log, in_order(log, after, up_to), after, batch=batch)) as batches:
            async for events in batches:
                for row in events.rows:
                    yield sealed_event(row)

    async def _batches(
        self,
        log: LogId,
        after: Seq,
        up_to: Seq,
        shape: Shape | None,
        hot: Callable[[Seq], AsyncGenerator[H]],
        above: int = 0,
    ) -> AsyncGenerator[H | BlockBatch]:
        """Yield batches from both tiers. `hot` reads MongoDB from a position on."""
        position = after
        while position < up_to:
            # The last known border is only a hint for the tier to begin with. The reads check the current one.
            archived_up_to = min(self._tiers.seen(log).archived_up_to, up_to)
            is_archived = position < archived_up_to
            source: AsyncGenerator[H | BlockBatch] = (
                self._blocks(log, position, archived_up_to, shape, above) if is_archived else hot(position)
            )
            try:
                async with aclosing(source) as batches:
                    async for batch in batches:
                        yield batch
                        # Only once it was taken: after `Moved`, the other tier continues behind it.
                        position = batch.last
            except Moved:
                continue  # the check has updated the known border
            position = archived_up_to if is_archived else up_to

    async def _blocks(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape | None, above: int
    ) -> AsyncGenerator[BlockBatch]:
        async with aclosing(self._cold.blocks(log, after, up_to, Selection.of(shape))) as blocks:
            async for block, indexes in blocks:
                selected = [index for index in indexes if block.versions[index] > above] if above > 0 else indexes
                if selected:
                    yield BlockBatch(block, selected)


def _stored(row: dict[str, Any]) -> StoredEvent:
    try:
        return stored_event(row)
    except UNREADABLE as error:
        raise unreadable(row, error) from error


def _stored_in(block: Block, n: int) -> StoredEvent:
    return StoredEvent(
        block.seq(n),
        block.collections[n],
        IdText(block.ids[n]),
        block.body(n),
        block.transactions.get(n),
        block.routes.get(n),
    )


def sealed_event(row: dict[str, Any]) -> SealedEvent:
    """Decode a whole row of `events`. Raises `Damaged`."""
    try:
        return SealedEvent(
            Seq(row["_id"]["n"]),
            row["c"],
            IdText(row["i"]),
            int(row["v"]),
            row["s"],
            body_of(row),
            tuple(unpack_type_hints(row.get("w"))),
            transaction_part(row),
            routes_of(row),
        )
    except (Malformed, *UNREADABLE) as error:
        raise unreadable(row, error) from error
