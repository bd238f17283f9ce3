"""The StateVectorManager: the acknowledged state vector of each client, for clients that return with their id alone.

A vector that a client sends always takes precedence over the stored one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eventsync.access.access import Access
from eventsync.concurrency.slices import Slices
from eventsync.domain.access.principal import name_within
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import Position, StateVector, unscoped
from eventsync.domain.shapes import Shape
from eventsync.errors import NotFound, RateLimited, ResetRequired
from eventsync.stores.clients.state_vectors import NumberedPosition, StoredVector, VectorStore, VectorUpdate
from eventsync.sync.catch_up.source import Source
from eventsync.sync.clients.lag import ClientLag, ShapeLag
from eventsync.sync.clients.vector_writer import VectorWriter
from eventsync.sync.live.feed import Feed

_ENTRY: Final = 1024
"""Cost of a position, in bytes of work: reading it and computing its lag."""


_LISTINGS_AT_ONCE: Final = 4
"""Maximum number of concurrent listings: their bytes are counted only after they were read."""


@dataclass(frozen=True, slots=True)
class Client:
    """A stored client. `lag` is None for a shape that is not tracked, or for a position of another log."""

    client_id: str
    vector: StateVector
    lag: Mapping[Shape, ShapeLag | None]
    transport: str
    seen: datetime


_IMPOSSIBLE: Final = {ResetReason.UNKNOWN_LOG, ResetReason.SCOPE_CHANGED, ResetReason.FUTURE}
"""Reasons that say that a client can't be at a position."""


class StateVectorManager:
    """State vectors of all clients; one instance a server process. All methods raise `Unavailable`."""

    def __init__(self, store: VectorStore, writer: VectorWriter, source: Source, feed: Feed, lag: ClientLag) -> None:
        self._store = store
        self._writer = writer
        self._source = source
        self._feed = feed
        self._lag = lag
        self._listings = asyncio.Semaphore(_LISTINGS_AT_ONCE)

    async def ensure_indexes(self, ttl: float) -> None:
        """Create the indexes. MongoDB removes a client `ttl` seconds after it was last seen."""
        await self._store.ensure_indexes(ttl)

    # --- from clients ---------------------------------------------------------------------------------------------

    def seen(self, client_id: str, transport: str) -> None:
        """Record that a client is connected."""
        self._writer.note(VectorUpdate(client_id, transport))

    def acknowledge(self, client_id: str, vector: StateVector, transport: str) -> None:
        """Record that a client has everything up to `vector`. Never waits."""
        self._writer.note(VectorUpdate(client_id, transport, self._numbered(vector)))

    async def put(self, client_id: str, vector: StateVector, access: Access) -> Client:
        """Store the vector of a client and return what is stored then. A position never goes backwards.

        Raises as `Source.bind`, `ResetRequired` for a position of another log or beyond the head, and
        `RateLimited` for a new client if no more can be stored.
        """
        for shape, position in vector.items():
            reason = await self._source.planner.refusal(self._source.bind(shape, access), position)
            if reason in _IMPOSSIBLE:
                raise ResetRequired(reason.value, f"{shape} can't be at {position}")
        if not await self.remembers(client_id):
            raise RateLimited("no more clients can be remembered until others are forgotten")
        await self._writer.store(VectorUpdate(client_id, None, self._numbered(vector)))
        return await self.client(client_id, access)

    def _numbered(self, vector: StateVector) -> dict[Shape, NumberedPosition]:
        """Return the positions of the current log. Those of an earlier log are of no use to a client."""
        log = self._feed.log
        return {
            shape: NumberedPosition(log.number, position.seq, position.log)
            for shape, position in vector.items()
            if log is not None and unscoped(position.log) == log.id
        }

    async def remembers(self, client_id: str, *, known: bool | None = None) -> bool:
        """Return True if a client's acknowledgements are stored, which is always so for a known client."""
        return await self._store.remembers(client_id, known=known)

    @property
    def refused(self) -> int:
        """Number of times that a new client was not stored."""
        return self._store.refused

    # --- for readers ----------------------------------------------------------------------------------------------

    async def vector(self, client_id: str) -> StateVector:
        """Return the acknowledged vector of a client, stored or queued; empty for an unknown client."""
        stored = await self._store.read(client_id)
        vector = dict(stored.vector) if stored else {}
        unwritten = self._writer.unwritten(client_id)
        # An acknowledgement counts at once for a client that comes back before it is written.
        for shape, item in unwritten.vector.items() if unwritten else ():
            known = vector.get(shape)
            if known is None or known.log != item.log or known.seq < item.seq:
                vector[shape] = Position(item.log, item.seq)
        return vector

    async def client(self, client_id: str, access: Access) -> Client:
        """Return a client, with the lag of what `access` allows. Raises `NotFound`."""
        stored = await self._store.read(client_id)
        if stored is None:
            raise NotFound(f"no client {name_within(client_id)!r} is known")
        return await self._describe(stored, access)

    async def clients(self, after: str, limit: int, access: Access) -> AsyncGenerator[Client]:
        """Yield at most `limit` clients with an id greater than `after`, by id."""
        async with self._listings, aclosing(self._store.listing(after, limit)) as listed:
            async for stored in listed:
                yield await self._describe(stored, access)

    async def forget(self, client_id: str) -> None:
        """Remove a client. A connected one is stored again with its next acknowledgement. Raises `NotFound`."""
        self._writer.discard(client_id)
        if not await self._store.delete(client_id):
            raise NotFound(f"no client {name_within(client_id)!r} is known")

    async def _describe(self, stored: StoredVector, access: Access) -> Client:
        slices, lag = Slices(), {}
        for shape, position in stored.vector.items():
            lag[shape] = await self._lag.of(shape, position, access)
            await slices.did(_ENTRY)
        return Client(stored.client_id, stored.vector, lag, stored.transport, stored.seen)
