"""Squashed catch-up: the present state of each document touched between a position and the newest checkpoint."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from eventsync.concurrency.admission import Admission
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Position, unscoped
from eventsync.domain.shapes import Shape
from eventsync.stores.log.logs import Checkpoint
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.planner import NotAhead
from eventsync.sync.live.continuity import Continuity


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Rows that bring `shape` from `start` to `end`: `{"id", "version", "doc"}` or `{"id", "deleted": true}`.

    Reading them raises `Unavailable`, and `BehindHorizon` or `Unsquashable` if `start` does not allow this answer.
    """

    shape: Shape
    start: Position
    end: Position
    rows: AsyncIterator[Iterable[bytes]]


class CatchUps:
    """Opens a bounded number of squashed catch-ups at a time."""

    def __init__(self, stores: Stores, continuity: Continuity, admission: Admission) -> None:
        self._stores = stores
        self._continuity = continuity
        self._admission = admission

    @asynccontextmanager
    async def open(self, shape: Shape, start: Position) -> AsyncIterator[CatchUp]:
        """Open the catch-up from `start`. Raises `NotAhead` if there is no later checkpoint yet, and `Unavailable`."""
        term = await self._continuity.begin()
        async with self._admission.admitted():
            # Read after the wait for a place, so that MongoDB keeps its cluster time for as long as possible.
            checkpoint = await self._stores.logs.read_checkpoint(unscoped(start.log))
            if checkpoint is None or checkpoint.seq <= start.seq:
                raise NotAhead(f"there is no checkpoint after {start} yet: is a worker running?")
            end = Position(start.log, checkpoint.seq)
            async with (
                aclosing(self._rows(shape, start, checkpoint)) as found,
                aclosing(self._continuity.confirmed(term, found)) as rows,
            ):
                yield CatchUp(shape, start, end, rows)

    async def _rows(self, shape: Shape, start: Position, checkpoint: Checkpoint) -> AsyncGenerator[Iterable[bytes]]:
        """Yield the documents as of the checkpoint's cluster time, when they are in their state at its seq."""
        async with aclosing(self._touched(shape, start, checkpoint)) as touched:
            async for ids in touched:
                async with aclosing(self._stores.snapshots.squashed.rows(shape, ids, checkpoint.time)) as rows:
                    async for row in rows:
                        yield (row,)

    async def _touched(self, shape: Shape, start: Position, checkpoint: Checkpoint) -> AsyncGenerator[list[IdText]]:
        if shape.id is not None:
            yield [shape.id]
            return
        touched, log = self._stores.snapshots.squashed, unscoped(start.log)
        if (keys := shape.keys) is not None:
            found = touched.of_route(log, keys, after=start.seq, up_to=checkpoint.seq)
        else:
            found = touched.touched(log, shape.collection, after=start.seq, up_to=checkpoint.seq)
        async with aclosing(found) as batches:
            async for ids in batches:
                yield ids
