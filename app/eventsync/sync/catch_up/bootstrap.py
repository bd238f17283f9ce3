"""Bootstraps: the state for a new client, from a stored snapshot that clients share or from the collection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from eventsync.concurrency.admission import Admission
from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain.plan import CollectionSize
from eventsync.domain.positions import START, Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.stores.snapshots.live_snapshots import SnapshotDocument
from eventsync.stores.snapshots.pins import Pin
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.chunk_cache import ChunkCache
from eventsync.sync.catch_up.planner import NotAhead, Planner
from eventsync.sync.live.continuity import Continuity, Term

logger = logging.getLogger(__name__)

_REQUEST_AGE = 300.0
"""Minimum seconds between two requests of a server for a snapshot of the same collection."""

_CACHED_REQUESTS = 1000

_SHARED_AGE: Final = 1.0
"""Seconds for which new clients of a route share one read of it. Events bring each of them up to date."""

_SHARED_BYTES: Final = 256 * 1024
"""Bytes of the largest state of a route that is shared."""

_SHARED_STATES: Final = 64
"""Most states of routes that are shared at a time."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The exact state of `shape` at `position`: `rows` are `{"id", "version", "doc"}` in JSON, each document once.

    Reading the rows raises `Unavailable`, and `Damaged` if the stored snapshot can't be read to its end. They count
    only once they were read to their end.
    """

    shape: Shape
    position: Position
    rows: AsyncIterator[Iterable[bytes]]


class _RouteState(NamedTuple):
    position: Position
    rows: Sequence[bytes]


class Bootstraps:
    """Opens a bounded number of bootstraps at a time."""

    def __init__(
        self, stores: Stores, planner: Planner, continuity: Continuity, chunks: ChunkCache, admission: Admission
    ) -> None:
        self._stores = stores
        self._planner = planner
        self._continuity = continuity
        self._chunks = chunks
        self._admission = admission
        self._shared: TTLCache[_RouteState | None] = TTLCache(ttl=_SHARED_AGE, max_entries=_SHARED_STATES)
        self._requests: TTLCache[bool] = TTLCache(ttl=_REQUEST_AGE, max_entries=_CACHED_REQUESTS)

    @asynccontextmanager
    async def open(
        self, shape: Shape, *, after: Seq = START, live: bool = False, run_bytes: int = 0
    ) -> AsyncIterator[Bootstrap]:
        """Open the state at a position of at least `after`; with `live`, read it from the collection.

        Rows may be joined by commas into runs of at most `run_bytes`.

        Raises `NotTracked`, `NotAhead` and `Unavailable`.
        """
        # Before anything is read: all of it has to be of one `mongod` process.
        term = await self._continuity.begin()
        self._planner.require(shape)
        if not live and (state := await self._shared_state(shape, term)) is not None and state.position.seq >= after:
            yield Bootstrap(shape, state.position, _once(state.rows))
            return
        async with self._admission.admitted(), AsyncExitStack() as stack:
            self._planner.require(shape)
            bootstrap = None if live else await self._stored(shape, after, stack, run_bytes)
            if bootstrap is not None:
                # Now, and not at the end of a long transfer: what is stored under this id never changes.
                await self._continuity.confirm(term)
            else:
                bootstrap = await stack.enter_async_context(self._live(shape, after, term))
            yield bootstrap

    # --- the state of a small route, which new clients share ------------------------------------------------------

    async def _shared_state(self, shape: Shape, term: Term) -> _RouteState | None:
        """Return the state of a route a moment ago; None for other shapes, and if it is too large to be shared."""
        if shape.route is None or (await self._planner.size(shape)).bytes > _SHARED_BYTES:
            return None
        # With the term: after an interruption of the feed, what was read before it may be of another history.
        key = (term, shape.topic, shape.route.activations)
        return await self._shared.get(key, lambda: self._route_state(shape, term))

    async def _route_state(self, shape: Shape, term: Term) -> _RouteState | None:
        rows, size = list[bytes](), 0
        async with (
            self._admission.admitted(),
            self._stores.snapshots.live.open(self._planner.log(), shape) as snapshot,
        ):
            async for batch in snapshot.batches:
                rows += [document.row for document in batch]
                size += sum(len(document.row) for document in batch)
                if size > _SHARED_BYTES:
                    break
            await self._continuity.confirm(term)
        self._planner.learn(shape, CollectionSize(len(rows), size))
        return None if size > _SHARED_BYTES else _RouteState(snapshot.position, rows)

    # --- from a stored snapshot -----------------------------------------------------------------------------------

    async def _stored(self, shape: Shape, after: Seq, stack: AsyncExitStack, run_bytes: int) -> Bootstrap | None:
        """Return None if reading the collection is cheaper, or if the snapshot is deleted while it is being pinned."""
        beginning = await self._planner.beginning(shape, after=after)
        if beginning is None:
            return None
        snapshot = beginning.snapshot
        pin = await stack.enter_async_context(self._stores.snapshots.pins.held(snapshot.log, snapshot.seq, snapshot.id))
        # The pin prevents a deletion only if it was there before the deletion began.
        if await self._stores.snapshots.stored.find(snapshot.id) is None:
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
        # A chunk that is missing at the end would otherwise look like the end.
        if count != snapshot.documents:
            self._planner.damaged(snapshot)
            raise Damaged(f"snapshot {snapshot.id} has {count} documents instead of {snapshot.documents}")

    # --- from the collection --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _live(self, shape: Shape, after: Seq, term: Term) -> AsyncIterator[Bootstrap]:
        # In a task: the request serves later clients, and this one must not wait for it.
        requesting = asyncio.ensure_future(self._request_snapshot(shape))
        try:
            async with self._stores.snapshots.live.open(self._planner.log(), shape) as snapshot:
                if snapshot.position.seq < after:
                    raise NotAhead(f"the newest checkpoint is {snapshot.position}, and before {after}")
                async with (
                    aclosing(self._rows(shape, snapshot.batches)) as found,
                    aclosing(self._continuity.confirmed(term, found)) as rows,
                ):
                    yield Bootstrap(shape, snapshot.position, rows)
        finally:
            await asyncio.wait({requesting})
            if not requesting.cancelled() and (error := requesting.exception()) is not None:
                logger.info("no snapshot of %s was requested, which the next client will do: %s", shape, error)

    async def _rows(
        self, shape: Shape, batches: AsyncIterator[list[SnapshotDocument]]
    ) -> AsyncGenerator[Iterable[bytes]]:
        documents = size = 0
        async for batch in batches:
            rows = [document.row for document in batch]
            documents, size = documents + len(rows), size + sum(map(len, rows))
            yield rows
        if shape.route is not None:
            self._planner.learn(shape, CollectionSize(documents, size))

    async def _request_snapshot(self, shape: Shape) -> None:
        if await self._planner.is_large(shape):
            await self._requests.get(shape, lambda: self._request(shape))

    async def _request(self, shape: Shape) -> bool:
        """Request a snapshot for later clients from the snapshot job; return False if there is a request already."""
        checkpoint = await self._stores.logs.read_checkpoint(self._planner.log())
        requested = {request.shape for request in await self._stores.snapshots.requests.unanswered()}
        if checkpoint is None or shape in requested:
            return False
        await self._stores.snapshots.requests.ask(shape, checkpoint.time)
        return True


async def _once(rows: Sequence[bytes]) -> AsyncGenerator[Iterable[bytes]]:
    yield rows
