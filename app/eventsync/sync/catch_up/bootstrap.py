"""How a client begins: with a stored snapshot, whose chunks all clients share, or with a reading of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from eventsync.concurrency.admission import Admission
from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain.positions import START, Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.stores.snapshots.live_snapshots import SnapshotDocument
from eventsync.stores.snapshots.pins import Pin
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.chunk_cache import ChunkCache
from eventsync.sync.catch_up.planner import NotAhead, Planner

logger = logging.getLogger(__name__)

_WISH_AGE = 300.0
"""Seconds after which a server may ask for another snapshot of the same collection."""

_MOST_WISHES = 1000


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The exact state of `shape` at `position`: `rows` are `{"id", "version", "doc"}` in JSON, each document once.

    Reading them raises `Unavailable`, and `Damaged` where what is stored can't be read: then it is worth nothing.
    """

    shape: Shape
    position: Position
    rows: AsyncIterator[Iterable[bytes]]


class Bootstraps:
    """Opens them, a bounded number at a time."""

    def __init__(self, stores: Stores, planner: Planner, chunks: ChunkCache, admission: Admission) -> None:
        self._stores = stores
        self._planner = planner
        self._chunks = chunks
        self._admission = admission
        self._wishes: TTLCache[bool] = TTLCache(age=_WISH_AGE, most=_MOST_WISHES)

    @asynccontextmanager
    async def open(
        self, shape: Shape, *, after: Seq = START, live: bool = False, run_bytes: int = 0
    ) -> AsyncIterator[Bootstrap]:
        """The state at a position not before `after`; with `live`, read from the collection itself.

        Rows may come joined by commas, to runs of at most `run_bytes`.

        Raises `NotTracked`, `NotAhead` and `Unavailable`.
        """
        async with self._admission.admitted(), AsyncExitStack() as stack:
            self._planner.require(shape)
            found = None if live else await self._stored(shape, after, stack, run_bytes)
            if found is None:
                found = await stack.enter_async_context(self._live(shape, after))
            yield found

    # --- from a stored snapshot -----------------------------------------------------------------------------------

    async def _stored(self, shape: Shape, after: Seq, stack: AsyncExitStack, run_bytes: int) -> Bootstrap | None:
        """None where reading the collection is better, or where the snapshot goes while it is being pinned."""
        beginning = await self._planner.beginning(shape, after=after)
        if beginning is None:
            return None
        snapshot = beginning.snapshot
        pin = await stack.enter_async_context(self._stores.pins.held(snapshot.log, snapshot.seq, snapshot.id))
        # Only now that it is pinned nobody removes it, unless that has begun before.
        if await self._stores.stored.find(snapshot.id) is None:
            self._planner.outdated()
            return None
        rows = await stack.enter_async_context(aclosing(self._chunks_of(snapshot, pin, run_bytes)))
        return Bootstrap(shape, beginning.position, rows)

    async def _chunks_of(self, snapshot: StoredSnapshot, pin: Pin, run_bytes: int) -> AsyncGenerator[Iterable[bytes]]:
        count = 0
        for number in range(snapshot.chunks):
            await pin.keep()
            try:
                rows = await self._chunks.rows(snapshot.id, number, run_bytes)
            except Damaged:
                self._planner.damaged(snapshot)
                raise
            count += rows.count
            yield rows.runs
        if count != snapshot.documents:
            self._planner.damaged(snapshot)
            raise Damaged(f"snapshot {snapshot.id} has {count} documents instead of {snapshot.documents}")

    # --- from the collection --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _live(self, shape: Shape, after: Seq) -> AsyncIterator[Bootstrap]:
        # Beside the reading: the client is not to wait for what only serves the next ones.
        wishing = asyncio.ensure_future(self._wish_for(shape))
        try:
            async with self._stores.snapshots.open(self._planner.log(), shape) as snapshot:
                if snapshot.position.seq < after:
                    raise NotAhead(f"the newest checkpoint is {snapshot.position}, and before {after}")
                async with aclosing(_rows(snapshot.batches)) as rows:
                    yield Bootstrap(shape, snapshot.position, rows)
        finally:
            await asyncio.wait({wishing})
            if not wishing.cancelled() and (error := wishing.exception()) is not None:
                logger.info("no snapshot of %s was asked for, which the next one will do: %s", shape, error)

    async def _wish_for(self, shape: Shape) -> None:
        if await self._planner.is_large(shape):
            await self._wishes.get(shape, lambda: self._wish(shape))

    async def _wish(self, shape: Shape) -> bool:
        """Ask the snapshotter for a snapshot, for the next ones who begin; whether nobody has before."""
        checkpoint = await self._stores.logs.read_checkpoint(self._planner.log())
        asked = {request.shape for request in await self._stores.requests.unanswered()}
        if checkpoint is None or shape in asked:
            return False
        await self._stores.requests.ask(shape, checkpoint.time)
        return True


async def _rows(batches: AsyncIterator[list[SnapshotDocument]]) -> AsyncGenerator[Iterable[bytes]]:
    async for batch in batches:
        yield [document.row for document in batch]
