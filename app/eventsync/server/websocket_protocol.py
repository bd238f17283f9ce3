"""uvicorn's WebSocket protocol, with limits on untrusted connections and an end for slow clients."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

from eventsync.concurrency.waiting import LightEvent
from eventsync.server import refusals
from eventsync.server.extensions import EVICT, WRITABLE, WRITE
from eventsync.server.limits import Config
from eventsync.server.lingering import ENDED, UnclosedTransport, linger, unwrapped
from eventsync.server.problems import Close

_MAX_WAITING: Final = 1024
"""Messages, and fragments of one message, that may wait for the application. One read of the network holds far more."""

_SLICE: Final = 4096
"""Bytes of frames that are parsed in one turn of the event loop: 7 ms at worst, where all frames are empty."""

_BEHIND: Final = 8192
"""Bytes on their way to a client from which on a ping may wait behind them for long."""

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_ACKNOWLEDGED: Final = 120
"""Offset of `tcpi_bytes_acked`, of 8 bytes, in Linux's `struct tcp_info`."""

T = TypeVar("T")


def _progress_of(transport: asyncio.Transport) -> tuple[bool, int]:
    """Return True if `_BEHIND` bytes are on their way to the peer, and how many its system has acknowledged so far.

    (False, 0) if the system does not say.
    """
    if (own := transport.get_extra_info("socket")) is None or _TCP_INFO is None:
        return False, 0
    try:
        queued = int.from_bytes(fcntl.ioctl(own.fileno(), termios.TIOCOUTQ, bytes(4)), "little")
        tcp_info = own.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKNOWLEDGED + 8)
    except OSError:
        return False, 0  # another kind of socket, or a closed one
    acknowledged: int = struct.unpack_from("@Q", tcp_info.ljust(_ACKNOWLEDGED + 8, b"\0"), _ACKNOWLEDGED)[0]
    return queued + transport.get_write_buffer_size() >= _BEHIND, acknowledged


class Inbox(Generic[T]):
    """The part of `asyncio.Queue` that uvicorn uses, for one reader. A queue's deques and event take 3 KiB."""

    __slots__ = ("_messages", "_waiter")

    def __init__(self) -> None:
        self._messages: list[T] = []
        self._waiter: asyncio.Future[None] | None = None

    def put_nowait(self, message: T) -> None:
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> T:
        """Return the oldest message, as soon as there is one."""
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._messages.pop(0)

    def empty(self) -> bool:
        return not self._messages

    def qsize(self) -> int:
        return len(self._messages)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection that speaks WebSocket."""

    # uvicorn's attributes of a connection. In a dictionary they take 1.5 KiB. Other names still go there.
    __slots__ = (
        *(
            "_acknowledged",
            "_address",
            "_has_heard",
            "_is_sending",
            "_limits",
            "_rest",
            "app",
            "app_state",
            "asgi_version",
            "client",
            "close_sent",
            "close_timeout",
        ),
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
        self._limits = config.limits
        self._address = ""
        self._rest = b""
        # As of the last ping, or of the last check for its answer.
        self._has_heard, self._is_sending, self._acknowledged = False, False, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._limits.enter(self._address)
        # Until the handshake is over: a client that already sends more must not lose a refusal.
        self._intercept_close()

    def _intercept_close(self) -> None:
        if not isinstance(self.transport, UnclosedTransport):
            self.transport = cast("asyncio.Transport", UnclosedTransport(self.transport, self._linger))

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.leave(self._address)
        # This breaks a reference cycle.
        self.transport = ENDED
        super().connection_lost(exc)

    def handle_parser_exception(self) -> None:
        self._intercept_close()
        if self.conn.close_sent is None:
            # Without an answer to the handshake no close frame can be sent, which uvicorn expects.
            self.close_sent = True
            reason = "what follows the handshake is no WebSocket frame"
            self.transport.write(refusals.plain(HTTPStatus.BAD_REQUEST, reason, self.default_headers))
            self._linger()
            return
        super().handle_parser_exception()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._has_heard = True
        if not self._rest and len(data) <= _SLICE:
            super().data_received(data)
            return
        # One read may hold 40,000 frames. They are parsed a few at a time, and reading is paused meanwhile.
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
            # uvicorn resumes reading as soon as no message waits.
            self.transport.pause_reading()
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.http.response.start":
            message["headers"] = [*message["headers"], *self.default_headers]
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # uvicorn would log an error for each such handshake: it takes it for one without an answer.
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        extensions = cast("dict[str, Any]", self.scope["extensions"])
        extensions[EVICT] = self._evict
        extensions[WRITE] = self._write
        extensions[WRITABLE] = self.writable
        await super().run_asgi()

    def _write(self, *frame: bytes) -> bool:
        # No frame may follow a close. Where the peer closes or breaks off, the transport is closed at once.
        # A full buffer gets no more: that of a slow client would grow without a bound.
        if self.close_sent or not self.writable.is_set() or self.transport.is_closing():
            return False
        self.transport.writelines(frame)
        return True

    def start_keepalive(self) -> None:
        """Free the memory of the handshake, some 6 KiB for each connection, now that it is over."""
        # The parser refers to the request as well.
        self.request.headers.clear()
        del self.request, self.response
        self.scope["headers"] = []
        self.transport = unwrapped(self.transport)
        super().start_keepalive()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            # A peer that pings without reading must not pile up answers. (RFC 6455 section 5.5.3: the last one is
            # enough.)
            self.conn.data_to_send()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        # The limit on a message's size does not count empty fragments.
        if len(self.frames) > _MAX_WAITING:
            self._evict(Close.TOO_LARGE)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not _is_text(b"".join(self.frames)):
            # uvicorn would close as well, and log a traceback for each such client.
            self.frames = []
            # A close that followed may have been read already, and is answered instead.
            if self.conn.state is State.OPEN:
                self.conn.send_close(CloseCode.INVALID_DATA)
                self.handle_parser_exception()
            return
        super().send_receive_event_to_app()
        if self.queue.qsize() > _MAX_WAITING:
            self._evict(Close.TOO_MANY)

    def send_keepalive_ping(self) -> None:
        self._has_heard, (self._is_sending, self._acknowledged) = False, _progress_of(self.transport)
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """Evict a client that has sent no pong: it is gone, or reads nothing.

        Everything that a client sends is a sign of life. A ping may also wait behind data on a slow link: then the
        client has more time for as long as it accepts any of the data. The send timeout bounds that.
        """
        self.pong_timer = None
        was_sending, acknowledged = self._is_sending, self._acknowledged
        self._is_sending, self._acknowledged = _progress_of(self.transport)
        if self._has_heard or (was_sending and self._acknowledged > acknowledged):
            self._has_heard = False
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0.0, self.keepalive_timeout)
            return
        self._evict(Close.SLOW)

    def _evict(self, code: int) -> None:
        self._limits.slow += code == Close.SLOW
        if self.conn.state is State.OPEN and not self.close_sent and not self.transport.is_closing():
            self.conn.send_close(code)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self._linger()

    def _linger(self) -> None:
        self._rest = b""
        linger(self, self._limits, self._address, self.connections)
