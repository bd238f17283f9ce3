"""The client of the sync protocol without I/O: messages, a clock and tokens in; messages and actions out.

The files in `clients/vectors` say what it does; every transport and both kinds of client drive this one.
Source: `docs/reference/protocol.md`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final

from eventsync_client.acks import Acks
from eventsync_client.actions import Acknowledge, Action, Ask, Connect, Cut, Refused, Send, Why
from eventsync_client.positions import Position
from eventsync_client.replica import Gap, Held, Json, Row, Update

_SHORTEST: Final = 0.25
_LONGEST: Final = 30.0
"""Bounds of the time before an attempt, in seconds, before jitter."""

_SILENT_HEARTBEATS: Final = 2.5
"""Heartbeats without a message after which a connection is given up."""

_OPENING: Final = 60.0
"""Seconds without a message after which a connection is given up that has not said its heartbeat yet."""

_RENEW_BEFORE: Final = 60.0
"""Seconds before the end of a token at which another is asked for; half of the time for one that ends sooner."""

_ASK_AGAIN: Final = 1.0
"""Seconds, at least, between two questions to the token function on one connection."""

_PING_AGAIN: Final = 0.25
"""Seconds to the next `ping` after an answer of a server that has not come to the barrier itself."""

_UNAUTHENTICATED: Final = 4401
_SUBJECT_CHANGED: Final = (4403, "subject_changed")
_NO_HELLO: Final = 4408
"""The program was suspended before it could say it."""


class Status(StrEnum):
    """State of the connection."""

    CONNECTING = "connecting"
    SYNCING = "syncing"
    """Connected; not all shapes have caught up."""
    LIVE = "live"
    WAITING = "waiting"
    """For the next attempt."""
    FAILED = "failed"
    """For good: asking again unchanged would not help."""
    STOPPED = "stopped"


class Core:
    """One client. Each method takes the time in seconds; `actions` is emptied by its driver after each call.

    An `Update` among the actions has been applied to the documents. Once it is durable, the driver calls `durable`.
    """

    def __init__(
        self, *, client_id: str | None = None, has_token: bool = False, jitter: Callable[[], float] = random.random
    ) -> None:
        self.status = Status.STOPPED
        self.reason = ""
        self.stale = False
        """True if the server has said that some changes may not be events yet."""
        self.actions: deque[Action] = deque()
        self.attempts = 0
        """Attempts in a row that did not become live."""
        self._held: dict[str, Held] = {}
        self._client_id = client_id
        self._has_token = has_token
        self._jitter = jitter
        self._for_good = False
        """True if it has failed so that its documents may be ahead of what is stored."""
        self._connected = False
        self._two_way = True
        self._asking: Why | None = None
        self._token: str | None = None
        self._refused_token: str | None = None
        self._retry_at: float | None = None
        self._floor = 0.0
        """Seconds that the server asked to wait before the next attempt."""
        self._unauthenticated = ""
        """Reason of an `error` that ends a connection of one direction."""
        self._silence = _OPENING
        self._silent_at: float | None = None
        self._renew_at: float | None = None
        self._token_ends = 0.0
        self._sent_token: str | None = None
        """What `auth` has sent, until the server has answered."""
        self._acks = Acks(self._held)
        self._remembered = True
        self._barrier: Position | None = None
        """What the shapes are to reach."""
        self._pinged = False
        """True until the `progress` that answers."""
        self._ping_at: float | None = None

    # --- what is held -----------------------------------------------------------------------------------------------

    @property
    def shapes(self) -> list[str]:
        """The shapes that are followed."""
        return list(self._held)

    @property
    def vector(self) -> dict[str, str]:
        """The state vector: shape → position, of all shapes that have one."""
        return {shape: text for shape, held in self._held.items() if (text := held.position_text) is not None}

    def documents(self, shape: str) -> dict[str, Row] | None:
        """Return the documents of a shape: id → row. None if it is not followed."""
        held = self._held.get(shape)
        return None if held is None else held.documents

    def is_live(self, shape: str) -> bool:
        """Return True if the shape has caught up on the present connection."""
        held = self._held.get(shape)
        return held is not None and held.live

    def follow(self, shape: str, position: str | None = None, documents: Mapping[str, Row] | None = None) -> None:
        """Follow a shape from now on, from what was kept of it.

        A client that the server has refused is stopped by that: it may be started again.
        """
        if shape in self._held:
            return
        if self.status is Status.FAILED and not self._for_good:
            self.status = Status.STOPPED
        self._held[shape] = held = Held(shape, position, documents)
        if position is not None:
            self._acks.keep(shape, position)
        if self._connected:
            if self._two_way:
                self._subscribe(held)
            else:
                self._again("another shape is followed", 0.0, attempts=0)
        self._settle()

    def unfollow(self, shape: str) -> None:
        """Do not follow a shape any more."""
        if self._forget(shape) and self._connected and self._two_way:
            self._send({"type": "unsubscribe", "shape": shape})
        self._settle()

    def _forget(self, shape: str) -> bool:
        self._acks.forget(shape)
        return self._held.pop(shape, None) is not None

    def durable(self, shape: str, position: str | None, now: float) -> None:
        """Know that the state of a shape at this position is durable, and may be acknowledged."""
        self._acks.keep(shape, position)
        self._plan_ack(now)

    def reach(self, barrier: Position, now: float) -> None:
        """Have the server tell the positions of shapes that are before a barrier, where nothing may happen.

        By a connection of one direction it tells them by itself, every heartbeat.
        """
        if self._barrier is None or self._barrier.log != barrier.log or self._barrier.seq < barrier.seq:
            self._barrier = barrier
        self._ping(now)

    # --- the connection ---------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to connect."""
        self._connect(now)

    def stop(self) -> None:
        """End the connection. The documents stay."""
        self._disconnect()
        self._retry_at = None
        self.status = Status.STOPPED

    def _connect(self, _now: float) -> None:
        self.status, self._retry_at = Status.CONNECTING, None
        if self._has_token:
            self._ask("connect" if self._refused_token is None else "refused")
        else:
            self.actions.append(Connect())

    def _ask(self, why: Why) -> None:
        self._asking = why
        self.actions.append(Ask(why))

    def token(self, token: str, now: float) -> None:
        """Take the answer of the token function."""
        why, self._asking = self._asking, None
        if why is None:
            return
        if why == "expiring":
            self._renew(token, now)
        elif token == self._refused_token:
            self._refused(self.reason or "the token is refused")
        else:
            self._token, self._refused_token = token, None
            self.actions.append(Connect())

    def _renew(self, token: str, now: float) -> None:
        if token == self._token:
            self._renew_later(now)
            return
        if not self._connected:
            return
        if self._two_way:
            self._sent_token = token
            self._send({"type": "auth", "token": token})
        else:
            self._again("the token is renewed", now, attempts=0)

    def token_failed(self, reason: str, now: float) -> None:
        """Know that the token function has failed: a connection stays, and it is asked again later."""
        why, self._asking = self._asking, None
        if why == "expiring":
            self._renew_later(now)
        elif why is not None:
            self._again(reason, now)

    @property
    def current_token(self) -> str | None:
        """The token of the connection, or of the next one."""
        return self._token

    def opened(self, now: float, *, two_way: bool = True) -> None:
        """Know that the transport has connected. By one of one direction nothing is sent."""
        self._connected, self._two_way = True, two_way
        self._silence = _OPENING
        self._silent_at = now + self._silence
        if two_way:
            hello: Json = {"type": "hello"}
            if self._client_id is not None:
                hello["client_id"] = self._client_id
            if self._token is not None:
                hello["token"] = self._token
            self._send(hello | {"shapes": self.shapes, "vector": self.vector})

    def closed(self, code: int | None, reason: str, now: float, *, retry_after: float = 0.0) -> None:
        """Know that the connection has ended, or did not come to be; `code` is that of a WebSocket's close.

        `retry_after`: seconds that the server asks to wait for.
        """
        if self.status in {Status.FAILED, Status.STOPPED, Status.WAITING}:
            return
        self._floor = max(self._floor, retry_after)
        if code is None and self._unauthenticated:
            code, reason = _UNAUTHENTICATED, self._unauthenticated
        if code == _UNAUTHENTICATED and self._has_token:
            self._refused_token = self._token
        elif code not in {None, _NO_HELLO} and 4400 <= code < 4500 and (code, reason) != _SUBJECT_CHANGED:
            self._refused(reason or f"the server closed the connection with {code}")
            return
        self._again(reason or "the connection was lost", now)

    def fail(self, reason: str) -> None:
        """End for good."""
        self._for_good = True
        self._refused(reason)

    def _refused(self, reason: str) -> None:
        """End until another shape is followed: to ask again for the same is pointless."""
        self._disconnect()
        self.status, self.reason, self._retry_at = Status.FAILED, reason, None

    def _again(self, reason: str, now: float, *, attempts: int | None = None) -> None:
        """Connect again after a random time, so that many clients do not come back together."""
        if attempts is not None:
            self.attempts = attempts
        self._disconnect()
        ceiling = min(_LONGEST, _SHORTEST * 2 ** min(self.attempts, 10))
        self.attempts += 1
        self._retry_at = now + self._floor + self._jitter() * ceiling
        self._floor = 0.0
        self.status, self.reason = Status.WAITING, reason

    def _disconnect(self) -> None:
        self.actions.append(Cut())
        self._connected = False
        self._asking = self._sent_token = None
        self._unauthenticated = ""
        self._silent_at = self._renew_at = self._ping_at = None
        self._pinged = False
        self._acks.disconnected()
        for held in self._held.values():
            held.disconnected()

    # --- time -------------------------------------------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """Time of the next call of `tick`; None if there is nothing to wait for."""
        times = [self._retry_at, self._silent_at, self._renew_at, self._acks.due, self._ping_at]
        return min(
            (at for at in [*times, *(held.retry_at for held in self._held.values())] if at is not None), default=None
        )

    @property
    def retry_at(self) -> float | None:
        """Time of the next attempt, while the client waits."""
        return self._retry_at

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._retry_at is not None and now >= self._retry_at:
            self._connect(now)
        if self._silent_at is not None and now >= self._silent_at:
            self._again("the server was silent for too long", now)
        if self._renew_at is not None and now >= self._renew_at:
            self._renew_at = None
            self._ask("expiring")
        for held in self._held.values():
            if held.retry_at is not None and now >= held.retry_at:
                held.retry_at = None
                self._subscribe(held)
        if self._acks.due is not None and now >= self._acks.due:
            self._ack(now)
        if self._ping_at is not None and now >= self._ping_at:
            self._ping(now)

    def _subscribe(self, held: Held) -> None:
        message: Json = {"type": "subscribe", "shape": held.shape}
        if (position := held.position_text) is not None:
            message["position"] = position
        self._send(message)

    def _ping(self, now: float) -> None:
        """Ask for positions if a shape that is live is before the barrier, and no question is open."""
        if self._barrier is None or self._pinged or not (self._connected and self._two_way):
            return
        live = [held for held in self._held.values() if held.live]
        if any(_is_before(held, self._barrier) for held in live):
            if self._ping_at is None or now >= self._ping_at:
                self._ping_at, self._pinged = None, True
                self._send({"type": "ping"})
        else:
            self._ping_at = None
            if len(live) == len(self._held):
                # What is not live comes to be so past the barrier, or is asked for then.
                self._barrier = None

    def _send(self, message: Json) -> None:
        self.actions.append(Send(message))

    def _plan_ack(self, now: float) -> None:
        if self._client_id is not None and self._remembered and self.status is Status.LIVE:
            self._acks.plan(now)

    def _ack(self, now: float) -> None:
        if vector := self._acks.take():
            self.actions.append(Send({"type": "ack", "vector": vector}) if self._two_way else Acknowledge(vector))
            self._plan_ack(now)

    # --- messages ---------------------------------------------------------------------------------------------------

    def receive(self, message: Json, now: float) -> None:
        """Take a message of the server. Types and members that are not known are ignored."""
        if not self._connected:
            return
        self._silent_at = now + self._silence
        kind = message.get("type")
        if kind == "welcome":
            self._welcome(message, now)
        elif kind == "progress":
            self._progress(message, now)
        elif kind == "authenticated":
            self._token, self._sent_token = self._sent_token or self._token, None
            self._plan_renewal(message.get("expires_in"), now)
        elif kind == "error":
            self._error(message, now)
        elif (held := self._held.get(message.get("shape", ""))) is not None:
            self._apply(held, message, now)
        self._settle()
        self._plan_ack(now)
        if kind in {"live", "progress"}:
            self._ping(now)

    def _welcome(self, message: Json, now: float) -> None:
        self._silence = _SILENT_HEARTBEATS * message["heartbeat"]
        self._silent_at = now + self._silence
        self._remembered = message.get("remembered", True)
        self.status, self.reason = Status.SYNCING, ""
        self._plan_renewal(message.get("token_expires_in"), now)

    def _progress(self, message: Json, now: float) -> None:
        self.stale = bool(message.get("stale"))
        for shape, position in message["vector"].items():
            if (held := self._held.get(shape)) is not None:
                self._updated(held.advance(position))
        if self._pinged:
            self._pinged, self._ping_at = False, now + _PING_AGAIN
        if self._renew_at is None and self._sent_token is None and self._asking is None:
            self._plan_renewal(message.get("token_expires_in"), now)

    def _plan_renewal(self, expires_in: float | None, now: float) -> None:
        if self._has_token and expires_in is not None:
            self._token_ends = now + expires_in
            self._renew_at = now + max(_ASK_AGAIN, expires_in - _RENEW_BEFORE, expires_in / 2)

    def _renew_later(self, now: float, at_least: float = 0.0) -> None:
        """Ask again once half of the time is over: no other token is to be had now."""
        if self._connected:
            self._renew_at = now + max(_ASK_AGAIN, at_least, (self._token_ends - now) / 2)

    def _apply(self, held: Held, message: Json, now: float) -> None:
        try:
            self._updated(held.apply(message))
        except Gap as gap:
            self._updated(gap.update)
            self._again(str(gap), now)

    def _updated(self, update: Update | None) -> None:
        if update is not None:
            self.actions.append(update)

    def _error(self, message: Json, now: float) -> None:
        shape, retry_after = message.get("shape"), message.get("retry_after")
        if shape is None:
            self.actions.append(Refused(message))
            self._floor = retry_after or 0.0
            if self._sent_token is not None:
                self._sent_token = None
                self._renew_later(now, self._floor)
            if message["code"] == "unauthenticated":
                self._unauthenticated = "" if self._two_way else str(message.get("reason", message["message"]))
        elif (held := self._held.get(shape)) is None:
            return
        elif retry_after is None:
            self._forget(shape)
            self.actions.append(Refused(message, shape))
            if not self._held:
                self._refused(message["message"])
        else:
            self.actions.append(Refused(message))
            held.disconnected()
            if self._two_way:
                held.retry_at = now + retry_after
            else:
                self._floor = retry_after
                self._again(message["message"], now)

    def _settle(self) -> None:
        """Be live when all shapes are."""
        if self.status in {Status.SYNCING, Status.LIVE} and self._held:
            is_live = all(held.live for held in self._held.values())
            self.status = Status.LIVE if is_live else Status.SYNCING
            if is_live:
                self.attempts = 0


def _is_before(held: Held, barrier: Position) -> bool:
    return held.position is not None and held.position.is_past(barrier) is False


def drained(core: Core) -> Iterable[Action]:
    """Yield the actions of a core, also those that come up meanwhile."""
    while core.actions:
        yield core.actions.popleft()
