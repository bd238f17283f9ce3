"""A session: one client on one connection, of any transport.

The transport takes one message at a time from `messages()` and sends it before it takes the next, so a session never
holds more than one that is being sent. Subscriptions take turns, one message each: the long catch-up of one does not
starve the others.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

from eventsync.access.access import Access
from eventsync.access.live import LiveAccess
from eventsync.domain import protocol
from eventsync.domain.positions import Position, StateVector
from eventsync.domain.protocol import Ack, Auth, Ping, Request, Subscribe, Unsubscribe
from eventsync.domain.shapes import Shape
from eventsync.errors import (
    EventsyncError,
    Forbidden,
    Malformed,
    NotTracked,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UnknownShape,
)
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.window import Subscribers
from eventsync.sync.sessions.scheduler import SubscriptionScheduler
from eventsync.sync.sessions.subscription import OutboundMessage, PlanDecision, Subscription

MAX_REPLIES = 16
"""Replies (pongs, errors) that may be queued. While the queue is full, no more is read from the client."""

_DETACH_EARLY: Final = 0.5
"""Seconds before the end of a credential at which direct writes end, because a timer may be late."""

_REQUESTS: Final = {"websocket": "WEBSOCKET /v1/sync", "sse": "GET /v1/sync/sse"}
"""The name of a transport's requests in the record of refusals."""

_TOLERANCE: Final = 0.05
"""Seconds by which two calculations of the same moment may differ."""

_REFUSALS: Final = (Forbidden, Malformed, NotTracked, RateLimited, Unauthenticated, Unavailable, UnknownShape)
"""Errors of a request, which the client gets as an `error` message."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client: its id, its transport, and the state vector that was stored for it.

    `named` is False if the server chose the id. `remembered` is True if the client's acknowledgements are stored.
    `scope` begins the stored form of the id: that of another principal with the same id is another client.
    """

    id: str
    transport: str
    stored: StateVector = field(default_factory=dict)
    named: bool = True
    remembered: bool = True
    scope: str = ""

    @property
    def stored_id(self) -> str:
        """The id of the stored state vector."""
        return self.scope + self.id


@dataclass(frozen=True, slots=True)
class Connection:
    """The ways to write to a session's connection, besides the messages that it takes."""

    direct_writer: DirectWriter | None = None
    """Writes publications while `Session.messages` is idle; None if the connection has no such writer."""
    until_writable: Callable[[], Awaitable[None]] | None = None
    """Waits until the connection accepts a message at once; None if it always does."""


class Observer(Protocol):
    """Notes what passes between a session and its client. None of its methods may block."""

    def sent(self, message: OutboundMessage) -> None:
        """Note a message that the connection has accepted."""

    def received(self, request: Request) -> None:
        """Note a request of the client."""

    def ended(self) -> None:
        """Note that the session has ended."""

    def observed(self, writer: DirectWriter) -> DirectWriter:
        """Return a writer that does the same, and notes what it writes."""


class Session:
    """Created by `Sessions.open`, which also ends it."""

    def __init__(
        self,
        source: Source,
        subscribers: Subscribers,
        *,
        live_access: LiveAccess,
        client: Identity,
        on_ack: Callable[[StateVector], None],
        heartbeat: float,
        max_shapes: int,
        connection: Connection,
    ) -> None:
        """Call `on_ack`, which must not block, with each vector that the client acknowledges."""
        self.id = uuid.uuid4().hex
        self.opened = time.time()
        """The beginning of the session, in Unix seconds."""
        self.client = client
        self._live_access = live_access
        self._failure: EventsyncError | None = None
        self.closing = False
        self._source = source
        self._subscribers = subscribers
        self._on_ack = on_ack
        self._heartbeat = heartbeat
        self._max_shapes = max_shapes
        self._scheduler = SubscriptionScheduler(
            subscribers.event.set, self._on_error, self._may_send, connection.until_writable
        )
        self._direct_writer = self._plain_writer = connection.direct_writer
        self._observer: Observer | None = None
        self._is_progress_asked = False
        """True from a `ping` until there is nothing to send before the `progress` that answers it."""
        self._attached_until: float | None = None
        """Monotonic time up to which `messages` waits and subscriptions may be attached; None if it does not wait."""
        self._last_sent = 0.0
        """Monotonic time of the last message."""
        self._replies: list[OutboundMessage] = []
        self._room: asyncio.Event | None = None
        """Set when the queue of replies has room again; None while it has room."""
        live_access.suspend, live_access.wake = self._detach, self.recheck

    @property
    def access(self) -> Access:
        """The access of the client at present."""
        return self._live_access.access

    # --- inspection ---------------------------------------------------------------------------------------------

    def observe(self, observer: Observer | None) -> None:
        """Have `observer` note what passes, or nobody.

        Direct writes go to a writer of its own, so that those to other clients do not even ask whether one is observed.
        """
        self._detach()
        for subscription in self.subscriptions:
            subscription.tidy()
        plain, self._observer = self._plain_writer, observer
        self._direct_writer = plain if observer is None or plain is None else observer.observed(plain)
        self._subscribers.event.set()

    @property
    def subscriptions(self) -> list[Subscription]:
        """The subscriptions, to look at."""
        return self._scheduler.subscriptions

    def decisions(self, shape: Shape) -> tuple[PlanDecision, ...]:
        """Return the newest plans for a shape."""
        return self._scheduler.decisions(shape)

    # --- requests of the client ---------------------------------------------------------------------------------

    def begin(self, shapes: Iterable[Shape], vector: StateVector) -> None:
        """Subscribe to the shapes of the client's first request. Errors are sent as `error` messages."""
        for shape in shapes:
            try:
                self.subscribe(shape, vector.get(shape))
            except _REFUSALS as error:
                # Not by `reply`, which may wait for room: no task reads `messages` yet.
                self._replies.append(self._refusal(error, shape))

    def subscribe(self, shape: Shape, position: Position | None) -> None:
        """Subscribe to a shape from `position`, or with a snapshot where that is None.

        Raises as `Source.bind`, `RateLimited` for too many shapes, and `Malformed` for one that is subscribed already.
        """
        self._may_send()
        bound = self._source.bind(shape, self.access)
        if shape in self._scheduler:
            raise Malformed(f"{shape} is subscribed already on this connection")
        if len(self._scheduler) >= self._max_shapes:
            raise RateLimited(f"a connection has at most {self._max_shapes} shapes")
        self._scheduler.add(Subscription(self._source, self._subscribers, bound, position, lambda: self.access))

    def unsubscribe(self, shape: Shape) -> None:
        """Unsubscribe from a shape. Raises `Malformed` if it is not subscribed."""
        if shape not in self._scheduler:
            raise Malformed(f"{shape} is not subscribed on this connection")
        self._subscribers.remove(shape)
        self._scheduler.remove(shape)

    async def request(self, request: Request) -> None:
        """Execute a request of the client. A failure is answered by an `error` message."""
        shape: Shape | None = None
        if self._observer is not None:
            self._observer.received(request)
        try:
            if isinstance(request, Subscribe):
                shape = request.shape
                self.subscribe(request.shape, request.position)
            elif isinstance(request, Unsubscribe):
                shape = request.shape
                self.unsubscribe(request.shape)
            elif isinstance(request, Ping):
                self._is_progress_asked = True
                await self.reply(OutboundMessage("pong", protocol.PONG))
            elif isinstance(request, Ack):
                self._check_ack(request.vector)
                self._on_ack(request.vector)
            elif isinstance(request, Auth):
                await self._authenticate(request.token)
            else:
                await self.reply(OutboundMessage("error", protocol.error(Malformed("hello comes once, and first"))))
        except _REFUSALS as error:
            await self.reply(self._refusal(error, shape))

    def _refusal(self, error: EventsyncError, shape: Shape | None) -> OutboundMessage:
        """Return the message of an error, and record it if it is a refusal of the principal."""
        self._live_access.record(error, _REQUESTS.get(self.client.transport, self.client.transport))
        return OutboundMessage("error", protocol.error(error, str(shape) if shape else None))

    def _check_ack(self, vector: Mapping[Shape, Position]) -> None:
        # A position that was never sent here, once stored, would make the client skip events.
        for shape, position in vector.items():
            known = self.vector.get(shape)
            if known is None or known.log != position.log or position.seq > known.seq:
                raise Malformed(f"{shape} was not brought to {position} on this connection")

    async def _authenticate(self, token: str) -> None:
        """Continue by another credential. Raises `Unauthenticated` and `Unavailable`."""
        try:
            await self._live_access.renew(token)
        except Unauthenticated as error:
            if error.reason != "subject_changed":
                raise  # the client may try again until the old one has ended
            self.fail(error)
        else:
            # What the client may see can be something else by now.
            self._detach()
            await self.reply(OutboundMessage("authenticated", protocol.authenticated(self._live_access.ends_in)))

    def recheck(self) -> None:
        """Obey what has changed: rules, revocations, the clock. A session that is not allowed any more ends.

        One that waits, and follows the same as before, waits on: waking its task would take three times as long.
        """
        if not (self._may_send() and self._resume()):
            self._subscribers.event.set()

    def _resume(self) -> bool:
        """Attach again all that is up to date, if `messages` waits. Return False if it has to do something."""
        until, silent_in = self._attached_until, self._live_access.silent_in()
        if until is None or self._subscribers.event.is_set():
            return False
        # The clock that credentials end by may have been set, and the wait goes by another one.
        if silent_in is not None and time.monotonic() + silent_in - _DETACH_EARLY < until - _TOLERANCE:
            return False
        self._detach()
        return self._attach()

    def _attach(self) -> bool:
        """Attach all subscriptions that are up to date. Return False if one has to be bound again, by a round."""
        try:
            return self._direct_writer is not None and self._scheduler.attach(self._direct_writer)
        except EventsyncError:
            return False  # the round finds it again, and tells the client

    def _may_send(self) -> bool:
        """Return True if the client may be sent data now, by all that this server knows."""
        try:
            return self._live_access.obey() and not self.closing
        except (Unauthenticated, Unavailable) as error:
            self.fail(error)
            return False

    def _detach(self) -> None:
        """End direct writes, until `messages` waits for the next time."""
        self._last_sent = max(self._last_sent, self._scheduler.detach())

    async def reply(self, message: OutboundMessage) -> None:
        """Queue a message that is sent before those of the subscriptions. Waits while the queue is full."""
        while self._room is not None and not self.closing:
            await self._room.wait()
        self._replies.append(message)
        if len(self._replies) >= MAX_REPLIES:
            self._room = asyncio.Event()
        self._subscribers.event.set()

    def fail(self, error: EventsyncError) -> None:
        """End `messages()` by this error, after the message under way."""
        if self._failure is None:
            self._failure = error
        self.close()

    def close(self) -> None:
        """End `messages()` after the message under way."""
        self.closing = True
        # Otherwise the task that reads from the client would wait for room that nobody makes.
        self._make_room()
        self._subscribers.event.set()

    @property
    def shapes(self) -> Iterable[Shape]:
        """The shapes that the client follows."""
        return self._scheduler.shapes

    # --- messages for the client -------------------------------------------------------------------------------------

    @property
    def vector(self) -> StateVector:
        """State vector of the client after all messages so far."""
        return self._scheduler.vector

    @property
    def is_attached(self) -> bool:
        """True while all publications are written to the client directly. It has every event of its shapes then."""
        return self._attached_until is not None and self._scheduler.is_attached

    async def messages(self) -> AsyncGenerator[OutboundMessage]:
        """Yield every message for the client, in order, until `close`. Raises `Unauthenticated` and `Unavailable`."""
        client = self.client
        welcome = protocol.welcome(
            self.id,
            client.id,
            self._heartbeat,
            client.stored,
            remembered=client.remembered,
            token_expires_in=self._live_access.ends_in,
        )
        yield OutboundMessage("welcome", welcome)
        self._last_sent = time.monotonic()
        while not self.closing:
            # Cleared before the round: what is published during the round sets it again, and there is another one.
            self._subscribers.event.clear()
            idle = True
            async for message in self._round():
                idle = False
                yield message
                if self._observer is not None:
                    self._observer.sent(message)
            if not idle:
                self._last_sent = time.monotonic()
            # Only an idle connection needs a heartbeat, and direct writes count as well.
            elif self._is_progress_asked or (not await self._wait() and self._is_heartbeat_due()):
                self._is_progress_asked = False
                if not self._live_access.is_silent:
                    self._last_sent = time.monotonic()
                    message = OutboundMessage("progress", self._progress())
                    yield message
                    if self._observer is not None:
                        self._observer.sent(message)
        if self._failure is not None:
            raise self._failure

    def _is_heartbeat_due(self) -> bool:
        return time.monotonic() >= self._last_sent + self._heartbeat and not self._live_access.is_silent

    def _progress(self) -> bytes:
        left = self._live_access.ends_in
        return protocol.progress(self.vector, stale=self._source.stale(), token_expires_in=left)

    async def _wait(self) -> bool:
        """Wait for a wake-up until the next heartbeat is due; return True if there was one.

        Direct writes do not end the wait: they happen only here, while `messages` has nothing to send. They end in
        time before the client's credential does. Raises `Unauthenticated` after its time of grace.
        """
        seconds = self._last_sent + self._heartbeat - time.monotonic()
        # What has changed is obeyed before the next message, and a direct write asks nothing.
        attaching = self._direct_writer is not None and not self._live_access.is_outdated
        if (silent_in := self._live_access.silent_in()) is not None:
            if self._live_access.is_silent:
                return await self._subscribers.event.wait(silent_in)
            attaching = attaching and silent_in > _DETACH_EARLY
            seconds = min(seconds, silent_in - _DETACH_EARLY if attaching else silent_in)
        try:
            if attaching:
                self._attached_until = time.monotonic() + seconds
                # What the client may see can have changed during the round, after its shape had its turn.
                if not self._attach():
                    self._subscribers.event.set()
            return await self._subscribers.event.wait(seconds)
        finally:
            self._attached_until = None
            self._detach()

    async def _round(self) -> AsyncGenerator[OutboundMessage]:
        """Waiting replies, then one message of each subscription that has one."""
        # Replies first: a client that sends pings judges the connection by their answers.
        while self._replies:
            yield self._replies.pop(0)
            self._make_room()
        if not self._may_send():
            return
        async with aclosing(self._scheduler.round()) as messages_:
            async for message in messages_:
                yield message

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _on_error(self, shape: Shape, error: EventsyncError) -> None:
        """End a shape's subscription by an error that the client gets. Raises one that ends the session instead."""
        # The client of an event stream can't subscribe again. While the feed is interrupted, no shape can be read here,
        # but perhaps on another server. In both cases the client comes back with its whole vector.
        if error.retryable and (self.client.transport == "sse" or not self._source.continuity.is_following):
            raise error
        # Not by `reply`: it may wait for room, which only the reader of `messages` makes.
        self._replies.append(self._refusal(error, shape))
        self._subscribers.remove(shape)

    async def aclose(self) -> None:
        """Free the resources of all subscriptions (open reads)."""
        if self._observer is not None:
            self._observer.ended()
        await self._scheduler.aclose()
