"""uvicorn's two protocols, with bounds on untrusted connections and an end for slow clients.

uvicorn waits without a bound for a head, and for a client that does not read. Each connection's ASGI scope carries what
`evict` needs to end it.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

from eventsync.concurrency.pacer import Pacer
from eventsync.concurrency.waiting import LightEvent
from eventsync.server import turned_away
from eventsync.server.bounded_input import BoundedInput
from eventsync.server.inbox import Inbox
from eventsync.server.limits import Guard
from eventsync.server.lingering import ENDED, UnclosedTransport, linger, unwrapped
from eventsync.server.problems import Close

_EXTENSION: Final = "eventsync.evict"
_WRITE: Final = "eventsync.write"
_WRITABLE: Final = "eventsync.writable"

_LATE_HEAD: Final = 2.0
"""Seconds that a connection which is one too many gets to say what for."""

_FIRST_REQUESTS: Final = 4
"""First requests of their connections that are read in one turn of the event loop, 0.1 ms each. Of a thousand that come
at once, hundreds were read in one turn, and everybody else waited for it."""

_MOST_WAITING: Final = 1024
"""Messages, and fragments of one message, that may wait for the application. One read of the network holds far more."""

_SLICE: Final = 4096
"""Bytes of frames that are parsed in one turn of the event loop: 7 ms at worst, where all are empty."""


class SocketWriter(Protocol):
    """Writes to a connection at once, the whole or nothing; says which."""

    def __call__(self, *parts: bytes) -> bool: ...


class Config(uvicorn.Config):
    """uvicorn's options, and the guard and the turnstiles that all connections of the process share."""

    def __init__(self, *args: Any, guard: Guard, **options: Any) -> None:
        super().__init__(*args, **options)
        self.guard = guard
        self.first_requests = Pacer(_FIRST_REQUESTS)
        self.upgrades = Pacer()


def evict(scope: Scope, code: int) -> None:
    """End the connection of `scope` now, whatever the client takes or not; `code` is said where it can be.

    Under a server other than ours nothing happens: it ends the connection when the application returns.
    """
    if (found := scope.get("extensions", {}).get(_EXTENSION)) is not None:
        found(code)


def writer(scope: Scope) -> SocketWriter | None:
    """What writes bytes to the connection of `scope` as they are, past ASGI, where the server has that.

    It writes nothing, and says so, where the connection has enough to send already, or is about to end. The bytes are a
    whole frame of a WebSocket, or a whole chunk of a response that has begun and is sent in chunks; they may come in
    several parts, which are not copied together.

    (A message through ASGI costs some 20 µs, and the bytes are made anew for each client.)
    """
    found: SocketWriter | None = scope.get("extensions", {}).get(_WRITE)
    return found


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


async def until_writable(scope: Scope) -> None:
    """Wait until the WebSocket of `scope` can take more, or is lost. Under a server other than ours, return at once."""
    if (found := scope.get("extensions", {}).get(_WRITABLE)) is not None:
        await found()


class Http(BoundedInput):
    """A connection that speaks HTTP, until it asks for a WebSocket."""

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config.guard, config, *args, **options)
        self._first_requests = config.first_requests
        self._upgrades = config.upgrades
        self._has_spoken = False
        self._address = ""
        self._counted = False
        self._too_many: bytearray | None = None
        """What a connection that is one too many has sent of its first head; None for all others."""
        self._head_timer: asyncio.TimerHandle | None = None

    # --- connections ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._guard.enter(self._address)
        self._counted = True
        if not self._guard.refuses(self._address):
            self._expect_head()
        elif self._guard.open - self._guard.max_sockets > turned_away.MOST_WAITING:
            self._turn_away(b"")
        else:
            self._too_many = bytearray()
            self._head_timer = self.loop.call_later(_LATE_HEAD, self._turn_away, self._too_many)

    def _turn_away(self, head: bytes | bytearray) -> None:
        """Answer a connection that is one too many, and end it."""
        self._end_with(turned_away.answer(bytes(head), self._guard.origins, self.server_state.default_headers))

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_complete()
        self._uncount()
        super().connection_lost(exc)
        self._release()

    def _release(self) -> None:
        if self.cycle is not None:
            # It refers back to here: without this, what is done with waits for the garbage collector.
            self.cycle.transport = ENDED

    def handle_websocket_upgrade(self) -> None:
        if self.has_too_many_fields:
            return
        # A client says nothing more until it has its answer; one that does waits for it.
        self._upgrading = True
        self.transport.pause_reading()
        self._upgrades.pass_through(self._upgrade)

    def _upgrade(self) -> None:
        if self.transport.is_closing():
            return
        # From now on the other protocol is told what happens on the connection.
        self._uncount()
        super().handle_websocket_upgrade()
        self.transport.resume_reading()
        if rest := self._data[self._position :]:
            cast("WebSocket", self.transport.get_protocol()).data_received(rest)
        self._data, self._position = b"", 0
        # These refer back to here: without this, what is done with waits for the garbage collector.
        self.parser = self.flow = cast("Any", None)
        self._release()
        self.scope["extensions"] = {}

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._guard.leave(self._address)

    # --- heads ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._too_many is not None:
            self._too_many += data[: turned_away.MOST_HEAD]
            if turned_away.is_whole(self._too_many):
                self._turn_away(self._too_many)
            return
        if not self._has_spoken:
            self._has_spoken = True
            self.transport.pause_reading()
            self._first_requests.pass_through(partial(self._first_received, data))
            return
        super().data_received(data)

    def _first_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self.data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {_EXTENSION: self._evict, _WRITE: partial(self._write, cast("Scope", self.scope))}
        self.scope["extensions"] = extensions

    def on_headers_complete(self) -> None:
        self._head_complete()
        self._take_authority()
        super().on_headers_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not isinstance(cycle.transport, UnclosedTransport):
            cycle.transport = cast("asyncio.Transport", UnclosedTransport(self.transport, self._close))

    def _take_authority(self) -> None:
        """Have the host of a target in absolute form count, and not the one of `Host` (RFC 9112 section 3.2.2)."""
        if not self.url.startswith((b"/", b"*")):
            scheme, _, rest = self.url.partition(b"://")
            authority = re.split(rb"[/?#]", rest, maxsplit=1)[0] if scheme.lower() in {b"http", b"https"} else b""
            # In place: the scope has the same list. Two hosts stay two, and are refused.
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def head_begins(self) -> None:
        if self._head_timer is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._guard.head_timeout, self._head_is_late)

    def _head_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"no request within {self._guard.head_timeout:g} s")

    # --- ends -----------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self.refuse(HTTPStatus.BAD_REQUEST, msg)

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer what can't become a request, and end the connection."""
        self._head_complete()
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and (not cycle.response_complete or not self._in_head):
            # The request has its answer, or is getting it: this one would stand in its midst, or be taken for the next.
            self._evict(Close.BAD_MESSAGE)
            return
        if cycle is not None and not cycle.response_complete:
            # The application's own answer goes nowhere.
            cycle.disconnected = True
            cycle.message_event.set()
        self._end_with(turned_away.plain(status, reason, self.server_state.default_headers))

    def _end_with(self, answer: bytes) -> None:
        """Send the last that the connection is to carry."""
        self._head_complete()
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        self._linger()

    def _linger(self) -> None:
        self._unset_keepalive_if_required()
        self._too_many = None
        linger(self, self._guard, self._address, self.connections)

    def _close(self) -> None:
        """Close the connection, behind a whole response as a rule."""
        if self.more_is_coming:
            self._linger()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_complete:
            self._close()
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _write(self, scope: Scope, *chunk: bytes) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        # Behind a response that goes on for ever there may be another request.
        if (
            cycle is None
            or cycle.scope is not cast("Any", scope)
            or not cycle.chunked_encoding
            or cycle.response_complete
        ):
            return False
        if cycle.disconnected or self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.writelines(chunk)
        return True

    def _evict(self, _code: int) -> None:
        if self.cycle is not None:
            # What the application still sends goes nowhere, and that is no error of it.
            self.cycle.disconnected = True
        self._linger()


class WebSocket(WebSocketsSansIOProtocol):
    """A connection that speaks WebSocket."""

    # All that uvicorn keeps of a connection; so many names in a dictionary take 1.5 KiB. Others still go there.
    __slots__ = (
        *("_address", "_guard", "_rest", "app", "app_state", "asgi_version", "client", "close_sent", "close_timeout"),
        *("close_timer", "config", "conn", "connections", "curr_msg_data_type", "default_headers", "disconnected"),
        *("frames", "handshake_complete", "handshake_initiated", "initial_response", "last_ping_rtt", "logger", "loop"),
        *("pending_ping_payload", "ping_interval", "ping_sent_at", "ping_timeout", "ping_timer", "pong_timer", "queue"),
        *("read_paused", "request", "response", "root_path", "scheme", "scope", "server", "tasks", "transport"),
        "writable",
    )

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.queue = cast("asyncio.Queue[Any]", Inbox())
        self.writable = cast("asyncio.Event", LightEvent())
        self.writable.set()
        self._guard = config.guard
        self._address = ""
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._guard.enter(self._address)
        # Until the handshake is over: a refusal must not be lost to a client that says more already.
        self._intercept_close()

    def _intercept_close(self) -> None:
        if not isinstance(self.transport, UnclosedTransport):
            self.transport = cast("asyncio.Transport", UnclosedTransport(self.transport, self._linger))

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.leave(self._address)
        # It refers back to here.
        self.transport = ENDED
        super().connection_lost(exc)

    def handle_parser_exception(self) -> None:
        self._intercept_close()
        if self.conn.close_sent is None:
            # The handshake has no answer yet, so that no close can be sent; uvicorn counts on one.
            self.close_sent = True
            reason = "what follows the handshake is no WebSocket frame"
            self.transport.write(turned_away.plain(HTTPStatus.BAD_REQUEST, reason, self.default_headers))
            self._linger()
            return
        super().handle_parser_exception()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._rest and len(data) <= _SLICE:
            super().data_received(data)
            return
        # One read may hold 40,000 frames: they are parsed a few at a time, and nothing more is read meanwhile.
        idle = not self._rest
        self._rest += data
        self.transport.pause_reading()
        if idle:
            self._parse_slice()

    def _parse_slice(self) -> None:
        data, self._rest = self._rest[:_SLICE], self._rest[_SLICE:]
        if self.transport.is_closing():
            self._rest = b""
            return
        super().data_received(data)
        if self._rest:
            self.loop.call_soon(self._parse_slice)
        elif not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await super().receive()
        if self._rest:
            # uvicorn reads on as soon as no message waits.
            self.transport.pause_reading()
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.http.response.start":
            message["headers"] = [*message["headers"], *self.default_headers]
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # uvicorn takes the handshake for one without an answer, and writes an error into the log for each.
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        extensions = cast("dict[str, Any]", self.scope["extensions"])
        extensions[_EXTENSION] = self._evict
        extensions[_WRITE] = self._write
        extensions[_WRITABLE] = self.writable.wait
        await super().run_asgi()

    def _write(self, *frame: bytes) -> bool:
        # Behind a close no frame may come. Whoever is told of one, or breaks off, closes the transport there and then.
        if self.close_sent or not self.writable.is_set() or self.transport.is_closing():
            return False
        self.transport.writelines(frame)
        return True

    def start_keepalive(self) -> None:
        """The handshake is over: what it took, some 6 KiB, is not kept for life."""
        # The parser holds the request, too.
        self.request.headers.clear()
        del self.request, self.response
        self.scope["headers"] = []
        self.transport = unwrapped(self.transport)
        super().start_keepalive()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            # A peer that asks on without reading gets no answers piled up. (RFC 6455 section 5.5.3: the last one is
            # enough.)
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        # Empty fragments count for no size.
        if len(self.frames) > _MOST_WAITING:
            self._evict(Close.TOO_LARGE)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not _is_text(b"".join(self.frames)):
            # uvicorn closes, too, but writes a traceback into the log for whoever wants one there.
            self.frames = []
            # Behind it a close may have been read already: that is what is answered then.
            if self.conn.state is State.OPEN:
                self.conn.send_close(CloseCode.INVALID_DATA)
                self.handle_parser_exception()
            return
        super().send_receive_event_to_app()
        if self.queue.qsize() > _MOST_WAITING:
            self._evict(Close.TOO_MANY)

    def keepalive_timeout(self) -> None:
        """No pong came: the client is gone, or reads nothing."""
        self.pong_timer = None
        self._evict(Close.SLOW)

    def _evict(self, code: int) -> None:
        if self.conn.state is State.OPEN and not self.close_sent and not self.transport.is_closing():
            self.conn.send_close(code)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self._linger()

    def _linger(self) -> None:
        self._rest = b""
        linger(self, self._guard, self._address, self.connections)
