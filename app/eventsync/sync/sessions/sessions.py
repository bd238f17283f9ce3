"""The sessions of a server process: admission, identity of clients, and draining."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from eventsync.access.access import Access
from eventsync.access.live import LiveAccesses
from eventsync.concurrency.admission import ConnectionPlaces
from eventsync.concurrency.pacer import Pacer
from eventsync.concurrency.waiting import set_within
from eventsync.domain.positions import StateVector
from eventsync.domain.shapes import Shape
from eventsync.settings import Settings
from eventsync.sync.catch_up.source import Source
from eventsync.sync.clients.lag import ServerLag, server_lag
from eventsync.sync.clients.state_vectors import StateVectorManager
from eventsync.sync.sessions.session import Connection, Identity, Session

logger = logging.getLogger(__name__)

_REPORT: Final = 3600.0
"""Maximum seconds between two records that a client is connected."""


_BUFFERED: Final = Connection()
"""A connection that accepts all messages."""


class Sessions:
    """Opens a bounded number of sessions, and drains them."""

    def __init__(
        self,
        source: Source,
        vectors: StateVectorManager,
        settings: Settings,
        accesses: LiveAccesses,
        places: ConnectionPlaces,
    ) -> None:
        self._source = source
        self._vectors = vectors
        self._settings = settings
        self._accesses = accesses
        self._places = places
        self._pacer = Pacer()
        self._sessions: set[Session] = set()
        self.opened: Counter[str] = Counter()
        """The number of sessions that have begun, by transport."""
        self.connected: Counter[str] = Counter()
        """The number of those that are open."""
        self._empty = asyncio.Event()
        self._draining = False
        self.leaving = 0
        """Number of sessions, at least 1, at the start of draining; 0 before."""

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, session_id: str) -> Session | None:
        """Return the open session with this id, or None."""
        return next((session for session in self._sessions if session.id == session_id), None)

    def all(self) -> list[Session]:
        """Return the sessions that are open."""
        return list(self._sessions)

    @asynccontextmanager
    async def open(
        self,
        shapes: Iterable[Shape],
        vector: StateVector | None,
        client_id: str | None,
        *,
        access: Access,
        transport: str,
        connection: Connection = _BUFFERED,
    ) -> AsyncIterator[Session]:
        """Open a session for the duration of the block. Without a `vector`, the client's stored one is used.

        A WebSocket may renew its `access` for some time after that has ended; other transports can't.

        Raises `Unavailable` if the server has its maximum of connections, if the stored vector can't be read, and while
        no log is known.
        """
        await self._pacer.passed()
        # Without a log there is nothing to send, so the client is refused before it takes a place.
        self._source.log()
        with self._places.held():
            client = await self._identity(client_id, transport, access.scope)
            vector = client.stored if vector is None else vector
            grace = self._settings.auth_grace if transport == "websocket" else 0.0
            with (
                self._source.window.subscribers() as subscribers,
                self._accesses.open(access, grace=grace) as live_access,
            ):
                session = Session(
                    self._source,
                    subscribers,
                    live_access=live_access,
                    client=client,
                    on_ack=lambda acknowledged: self._vectors.acknowledge(
                        client.stored_id, acknowledged, client.transport
                    ),
                    heartbeat=self._settings.heartbeat,
                    max_shapes=self._settings.max_shapes,
                    connection=connection,
                )
                self._sessions.add(session)
                self.opened[transport] += 1
                self.connected[transport] += 1
                self._empty.clear()
                try:
                    # Closed rather than refused, so that the client gets a goodbye, which says when to come back.
                    if self._draining:
                        session.close()
                    session.begin(shapes, vector)
                    yield session
                finally:
                    await session.aclose()
                    self._sessions.discard(session)
                    self.connected[transport] -= 1
                    if not self._sessions:
                        self._empty.set()

    async def _identity(self, client_id: str | None, transport: str, scope: str) -> Identity:
        if client_id is None:
            return Identity(uuid.uuid4().hex, transport, named=False, scope=scope)
        stored_id = scope + client_id
        stored = await self._vectors.vector(stored_id)
        remembered = await self._vectors.remembers(stored_id, known=True if stored else None)
        self._vectors.seen(stored_id, transport)
        return Identity(client_id, transport, stored, remembered=remembered, scope=scope)

    async def drain(self) -> None:
        """Close every session; new ones are closed at once. Returns when all have ended, or at the drain timeout."""
        self._draining = True
        self.leaving = max(1, len(self._sessions))
        for session in list(self._sessions):
            session.close()
        if self._sessions and not await set_within(self._empty, self._settings.drain_timeout):
            logger.warning("%d sessions do not end within %g s", len(self._sessions), self._settings.drain_timeout)

    async def report(self, stop: asyncio.Event) -> None:
        """Record the connected clients periodically until `stop`, so that they do not expire."""
        while not await set_within(stop, min(_REPORT, self._settings.client_ttl / 4)):
            for session in self._sessions:
                if session.client.named:
                    self._vectors.seen(session.client.stored_id, session.client.transport)

    def lag(self) -> ServerLag:
        """Lag of the clients that are connected to this server."""
        behind = [session for session in self._sessions if not session.is_attached]
        is_any_current = len(behind) < len(self._sessions)
        return server_lag(self._source.window, (session.vector for session in behind), is_any_current=is_any_current)
