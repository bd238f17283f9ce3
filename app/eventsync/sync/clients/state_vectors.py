"""The StateVectorManager: what each client has acknowledged, kept for when it comes back with its id alone.

The vector that a client *sends* always outranks what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eventsync.concurrency.slices import Slices
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import Position, StateVector
from eventsync.domain.shapes import Shape
from eventsync.errors import NotFound, RateLimited, ResetRequired
from eventsync.stores.clients.state_vectors import Numbered, StoredVector, VectorStore, VectorUpdate
from eventsync.sync.catch_up.planner import Planner
from eventsync.sync.clients.lag import ClientLag, ShapeLag
from eventsync.sync.clients.vector_writer import VectorWriter
from eventsync.sync.live.feed import Feed

_ENTRY: Final = 1024
"""The work on a position, in bytes of work: reading it, and finding out how far it is behind."""


_LISTINGS_AT_ONCE: Final = 4
"""Listings that are read at a time: what they read is counted only once it has come."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client as it is known here. `lag` is None for a shape that is not tracked, or a position of another log."""

    client_id: str
    vector: StateVector
    lag: Mapping[Shape, ShapeLag | None]
    transport: str
    seen: datetime


class StateVectorManager:
    """One for a whole server process. Raises `Unavailable`."""

    def __init__(self, store: VectorStore, writer: VectorWriter, planner: Planner, feed: Feed, lag: ClientLag) -> None:
        self._store = store
        self._writer = writer
        self._planner = planner
        self._feed = feed
        self._lag = lag
        self._listings = asyncio.Semaphore(_LISTINGS_AT_ONCE)

    async def ensure_indexes(self, ttl: float) -> None:
        """MongoDB itself forgets a client `ttl` seconds after it was last seen."""
        await self._store.ensure_indexes(ttl)

    # --- what clients say -----------------------------------------------------------------------------------------

    def seen(self, client_id: str, transport: str) -> None:
        """A client is connected."""
        self._writer.note(VectorUpdate(client_id, transport))

    def acknowledge(self, client_id: str, vector: StateVector, transport: str) -> None:
        """A client has what it was sent up to `vector`. Never waits."""
        self._writer.note(VectorUpdate(client_id, transport, self._numbered(vector)))

    async def put(self, client_id: str, vector: StateVector) -> Client:
        """Store what a client says that it has; returns what then is stored. A position never goes backwards.

        Raises `NotTracked`, `ResetRequired` for a position of another log, or beyond the newest event, and
        `RateLimited` for a new client where no more can be remembered.
        """
        for shape, position in vector.items():
            reason = await self._planner.refusal(shape, position)
            if reason in {ResetReason.UNKNOWN_LOG, ResetReason.FUTURE}:
                raise ResetRequired(reason.value, f"{shape} can't be at {position}")
        if not await self.remembers(client_id):
            raise RateLimited("no more clients can be remembered until others are forgotten")
        await self._writer.store(VectorUpdate(client_id, None, self._numbered(vector)))
        return await self.client(client_id)

    def _numbered(self, vector: StateVector) -> dict[Shape, Numbered]:
        """Of the log in force: what a client had of an earlier one is of no use to it any more."""
        log = self._feed.log
        return {
            shape: Numbered(log.number, position.seq, position.log)
            for shape, position in vector.items()
            if log is not None and position.log == log.id
        }

    async def remembers(self, client_id: str, *, known: bool | None = None) -> bool:
        """Tell whether a client's acknowledgements are stored. Those of a known client always are."""
        return await self._store.remembers(client_id, known=known)

    @property
    def refused(self) -> int:
        """New clients that were not remembered, counted each time."""
        return self._store.refused

    # --- what is known --------------------------------------------------------------------------------------------

    async def vector(self, client_id: str) -> StateVector:
        """What a client has acknowledged, also where it is not stored yet; empty for one that is not known."""
        stored = await self._store.read(client_id)
        vector = dict(stored.vector) if stored else {}
        unwritten = self._writer.unwritten(client_id)
        for shape, item in unwritten.vector.items() if unwritten else ():
            known = vector.get(shape)
            if known is None or known.log != item.log or known.seq < item.seq:
                vector[shape] = Position(item.log, item.seq)
        return vector

    async def client(self, client_id: str) -> Client:
        """Raises `NotFound`."""
        stored = await self._store.read(client_id)
        if stored is None:
            raise NotFound(f"no client {client_id!r} is known")
        return await self._described(stored)

    async def clients(self, after: str, limit: int) -> AsyncGenerator[Client]:
        """At most `limit` clients whose id comes behind `after`, by id."""
        async with self._listings, aclosing(self._store.listing(after, limit)) as found:
            async for stored in found:
                yield await self._described(stored)

    async def forget(self, client_id: str) -> None:
        """Forget a client; one that is connected is known again with what it acknowledges next.

        Raises `NotFound`.
        """
        self._writer.discard(client_id)
        if not await self._store.delete(client_id):
            raise NotFound(f"no client {client_id!r} is known")

    async def _described(self, stored: StoredVector) -> Client:
        slices, lag = Slices(), {}
        for shape, position in stored.vector.items():
            lag[shape] = await self._lag.of(shape, position)
            await slices.did(_ENTRY)
        return Client(stored.client_id, stored.vector, lag, stored.transport, stored.seen)
