"""Reads of a log across its tiers: segments up to `archived_up_to`, MongoDB after it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.block import Block
from eventsync.domain.segments.format import SealedEvent, Selection
from eventsync.domain.shapes import Shape
from eventsync.domain.values.type_hints import unpack_type_hints
from eventsync.errors import Malformed
from eventsync.stores.archive.segment_reader import SegmentReader
from eventsync.stores.log.event_batch import EventBatch, batch_of_block
from eventsync.stores.log.hot_tier import PASSED_ON, WHOLE, HotRows, Moved, RowQuery, in_order
from eventsync.stores.log.stored_event import (
    UNREADABLE,
    StoredEvent,
    body_of,
    stored_event,
    transaction_part,
    unreadable,
)
from eventsync.stores.log.tiers import TierStore

E = TypeVar("E", SealedEvent, StoredEvent)
B = TypeVar("B")


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
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape | None = None, *, above: int = 0, batch: int = 1000
    ) -> AsyncGenerator[SealedEvent]:
        """Yield events with `after < seq <= up_to`, of all shapes or of one, with a version above `above`.

        Holds one batch of rows, or one read of a segment.
        """
        batches = self._batches(log, after, up_to, shape, above, batch, _SEALED)
        async with aclosing(batches):
            async for events in batches:
                for event in events:
                    yield event

    async def passed_on(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape | None = None, *, above: int = 0, batch: int = 1000
    ) -> AsyncGenerator[Sequence[StoredEvent]]:
        """Yield the same events in the form for clients, in batches from MongoDB and in blocks from segments."""
        batches = self._batches(log, after, up_to, shape, above, batch, _PASSED_ON)
        async with aclosing(batches):
            async for events in batches:
                yield events

    def event_batches(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape, *, batch: int = 1000
    ) -> AsyncGenerator[EventBatch]:
        """Yield the events of one shape for forwarding."""

        def hot(position: Seq) -> AsyncGenerator[EventBatch]:
            return self._hot.event_batches(log, position, up_to, shape, batch=batch)

        async def cold(position: Seq, archived_up_to: Seq) -> AsyncGenerator[EventBatch]:
            async with aclosing(self._cold.blocks(log, position, archived_up_to, Selection.of(shape))) as blocks:
                async for block, numbers in blocks:
                    if numbers:
                        yield batch_of_block(block, numbers)

        return self._across(log, after, up_to, hot, cold, lambda event_batch: event_batch.last)

    def _batches(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape | None, above: int, batch: int, form: _Form[E]
    ) -> AsyncGenerator[Sequence[E]]:
        def hot(position: Seq) -> AsyncGenerator[Sequence[E]]:
            find = in_order(log, position, up_to, shape, above=above, fields=form.fields)
            return self._from_hot(log, find, position, batch, form)

        def cold(position: Seq, archived_up_to: Seq) -> AsyncGenerator[Sequence[E]]:
            return self._from_cold(log, position, archived_up_to, shape, above, form)

        return self._across(log, after, up_to, hot, cold, lambda events: events[-1].seq)

    async def _across(
        self,
        log: LogId,
        after: Seq,
        up_to: Seq,
        hot: Callable[[Seq], AsyncGenerator[B]],
        cold: Callable[[Seq, Seq], AsyncGenerator[B]],
        last: Callable[[B], Seq],
    ) -> AsyncGenerator[B]:
        """Yield batches from both tiers. `hot` reads on from a position, `cold` from one position to another."""
        position = after
        while position < up_to:
            # The last known border is only a hint for the tier to begin with. The reads check the current one.
            archived_up_to = min(self._tiers.seen(log).archived_up_to, up_to)
            source, end = (
                (cold(position, archived_up_to), archived_up_to)
                if position < archived_up_to
                else (hot(position), up_to)
            )
            try:
                async with aclosing(source) as batches:
                    async for batch in batches:
                        yield batch
                        position = last(batch)
            except Moved:
                continue  # the check has updated the known border
            position = end

    async def hot(self, log: LogId, after: Seq, up_to: Seq, *, batch: int = 1000) -> AsyncGenerator[SealedEvent]:
        """Yield events from MongoDB only. Raises `Moved` if some have left it."""
        async with aclosing(self._from_hot(log, in_order(log, after, up_to), after, batch, _SEALED)) as batches:
            async for events in batches:
                for event in events:
                    yield event

    async def _from_hot(
        self, log: LogId, find: RowQuery, position: Seq, batch: int, form: _Form[E]
    ) -> AsyncGenerator[Sequence[E]]:
        async with aclosing(self._hot.after(log, find, position, batch=batch)) as batches:
            async for rows in batches:
                yield [form.of_row(row) for row in rows]

    async def _from_cold(
        self, log: LogId, after: Seq, up_to: Seq, shape: Shape | None, above: int, form: _Form[E]
    ) -> AsyncGenerator[Sequence[E]]:
        async with aclosing(self._cold.blocks(log, after, up_to, Selection.of(shape))) as blocks:
            async for block, numbers in blocks:
                wanted = [n for n in numbers if block.versions[n] > above] if above > 0 else numbers
                if wanted:
                    yield [form.of_block(block, n) for n in wanted]


def _stored(row: dict[str, Any]) -> StoredEvent:
    try:
        return stored_event(row)
    except UNREADABLE as error:
        raise unreadable(row, error) from error


def _stored_in(block: Block, n: int) -> StoredEvent:
    return StoredEvent(
        block.seq(n), block.collections[n], IdText(block.ids[n]), block.body(n), block.transactions.get(n)
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
        )
    except (Malformed, *UNREADABLE) as error:
        raise unreadable(row, error) from error


@dataclass(frozen=True, slots=True)
class _Form(Generic[E]):
    """A form of events, with the fields of a row that it needs."""

    fields: Mapping[str, int]
    of_row: Callable[[dict[str, Any]], E]
    of_block: Callable[[Block, int], E]


_SEALED: Final = _Form(WHOLE, sealed_event, Block.event)
_PASSED_ON: Final = _Form(PASSED_ON, _stored, _stored_in)
