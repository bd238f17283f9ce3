"""A session: one client on one connection, whatever the transport.

The transport takes messages from `outgoing()` one at a time and sends each before it takes the next, so a session never
holds more than one that is being sent. Subscriptions take turns, one message each: the long catch-up of one does not
starve the others.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from eventsync.domain import protocol
from eventsync.domain.positions import Position, StateVector
from eventsync.domain.protocol import Ack, Ping, Request, Subscribe, Unsubscribe
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError, Malformed, NotTracked, RateLimited, Unavailable
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.window import Listener
from eventsync.sync.sessions.scheduler import SubscriptionScheduler
from eventsync.sync.sessions.subscription import OutboundMessage, Subscription

MAX_REPLIES = 16
"""Replies (pongs, errors) that may wait to be sent; a client that asks on without reading is not read further."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client: the id that it gave, or was given (not `named`), how it is connected, what was stored for it before.

    `remembered`: what it acknowledges is stored.
    """

    id: str
    transport: str
    stored: StateVector = field(default_factory=dict)
    named: bool = True
    remembered: bool = True


class Session:
    """Made by `SyncService.session`, which also ends it."""

    def __init__(
        self,
        source: Source,
        listener: Listener,
        *,
        client: Identity,
        on_ack: Callable[[StateVector], None],
        heartbeat: float,
        max_shapes: int,
        straight: DirectWriter | None = None,
    ) -> None:
        """`on_ack` is called with each vector that the client acknowledges; it must not wait.

        `straight` is how news are sent past `outgoing` while that has nothing to send, where the connection has that.
        """
        self.id = uuid.uuid4().hex
        self.client = client
        self.closing = False
        self._source = source
        self._listener = listener
        self._on_ack = on_ack
        self._heartbeat = heartbeat
        self._max_shapes = max_shapes
        self._turns = SubscriptionScheduler(listener.event.set, self._ended)
        self._straight = straight
        self._spoke = 0.0
        """When something was last sent, on the monotonic clock."""
        self._replies: list[OutboundMessage] = []
        self._room: asyncio.Event | None = None
        """Set when there is room for replies again; None while there is."""

    # --- what the client asks for ---------------------------------------------------------------------------------

    def begin(self, shapes: Iterable[Shape], vector: StateVector) -> None:
        """Subscribe to what the client asks for from the beginning. A shape that can't be had is told in band."""
        for shape in shapes:
            try:
                self.subscribe(shape, vector.get(shape))
            except (Malformed, NotTracked, RateLimited, Unavailable) as error:
                # Not by `reply`: nobody takes replies yet.
                self._replies.append(OutboundMessage("error", protocol.error(error, str(shape))))

    def subscribe(self, shape: Shape, position: Position | None) -> None:
        """Begin to follow a shape from `position`, or from a snapshot.

        Raises `NotTracked`, `RateLimited` (too many shapes) and `Malformed` (already subscribed).
        """
        self._source.tracking.require(shape.collection)
        if shape in self._turns:
            raise Malformed(f"{shape} is subscribed already on this connection")
        if len(self._turns) >= self._max_shapes:
            raise RateLimited(f"a connection has at most {self._max_shapes} shapes")
        self._turns.add(Subscription(self._source, shape, position), self._listener.add(shape))

    def unsubscribe(self, shape: Shape) -> None:
        """Follow a shape no longer. Raises `Malformed` where it was not subscribed."""
        if shape not in self._turns:
            raise Malformed(f"{shape} is not subscribed on this connection")
        self._listener.forget(shape)
        self._turns.remove(shape)

    async def request(self, request: Request) -> None:
        """Do what a message of the client asks; what can't be done is answered by an `error`."""
        shape: Shape | None = None
        try:
            if isinstance(request, Subscribe):
                shape = request.shape
                self.subscribe(request.shape, request.position)
            elif isinstance(request, Unsubscribe):
                shape = request.shape
                self.unsubscribe(request.shape)
            elif isinstance(request, Ping):
                await self.reply(OutboundMessage("pong", protocol.PONG))
            elif isinstance(request, Ack):
                self._check_ack(request.vector)
                self._on_ack(request.vector)
            else:
                await self.reply(OutboundMessage("error", protocol.error(Malformed("hello comes once, and first"))))
        except (Malformed, NotTracked, RateLimited, Unavailable) as error:
            await self.reply(OutboundMessage("error", protocol.error(error, str(shape) if shape else None)))

    def _check_ack(self, vector: Mapping[Shape, Position]) -> None:
        for shape, position in vector.items():
            known = self.vector.get(shape)
            if known is None or known.log != position.log or position.seq > known.seq:
                raise Malformed(f"{shape} was not brought to {position} on this connection")

    async def reply(self, message: OutboundMessage) -> None:
        """Send a message out of turn; waits while too many wait already."""
        while self._room is not None and not self.closing:
            await self._room.wait()
        self._replies.append(message)
        if len(self._replies) >= MAX_REPLIES:
            self._room = asyncio.Event()
        self._listener.event.set()

    def close(self) -> None:
        """End `outgoing()` after the message under way."""
        self.closing = True
        self._make_room()
        self._listener.event.set()

    # --- what the client gets -------------------------------------------------------------------------------------

    @property
    def vector(self) -> StateVector:
        """What the client has once it has taken everything sent."""
        return self._turns.vector

    async def outgoing(self) -> AsyncGenerator[OutboundMessage]:
        """Every message for the client, in order, until `close`. Raises `Unavailable`."""
        client = self.client
        welcome = protocol.welcome(self.id, client.id, self._heartbeat, client.stored, remembered=client.remembered)
        yield OutboundMessage("welcome", welcome)
        self._spoke = time.monotonic()
        while not self.closing:
            self._listener.event.clear()
            idle = True
            async for message in self._round():
                idle = False
                yield message
            if not idle:
                self._spoke = time.monotonic()
            elif not await self._rest() and time.monotonic() >= self._spoke + self._heartbeat:
                self._spoke = time.monotonic()
                yield OutboundMessage("progress", protocol.progress(self.vector, stale=self._source.stale()))

    async def _rest(self) -> bool:
        """Wait for news until a heartbeat is due; whether there are any. What goes out straight disturbs no rest."""
        if self._straight is not None:
            self._turns.rest(self._straight)
        try:
            return await self._listener.event.within(self._spoke + self._heartbeat - time.monotonic())
        finally:
            self._spoke = max(self._spoke, self._turns.rouse())

    async def _round(self) -> AsyncGenerator[OutboundMessage]:
        """Waiting replies, then one message of each subscription that has one."""
        while self._replies:
            yield self._replies.pop(0)
            self._make_room()
        async with aclosing(self._turns.round()) as messages_:
            async for message in messages_:
                yield message
                if self.closing:
                    return

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _ended(self, shape: Shape, error: EventsyncError) -> None:
        # Not by `reply`: it may wait for room, which only the reader of `outgoing` makes.
        self._replies.append(OutboundMessage("error", protocol.error(error, str(shape))))
        self._listener.forget(shape)

    async def aclose(self) -> None:
        """Free what the subscriptions hold (open reads)."""
        await self._turns.aclose()
