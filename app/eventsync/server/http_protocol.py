"""uvicorn's HTTP protocol, with limits on untrusted connections.

uvicorn waits for a request's head without a limit, and for a client that does not read.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from eventsync.server import refusals
from eventsync.server.bounded_input import BoundedInput
from eventsync.server.extensions import EVICT, WRITABLE, WRITE
from eventsync.server.limits import Config
from eventsync.server.lingering import ENDED, UnclosedTransport, linger
from eventsync.server.problems import Close
from eventsync.server.websocket_protocol import WebSocketProtocol

_LATE_HEAD: Final = 2.0
"""Seconds that a connection over the limit gets to send its first head, so that the refusal fits its protocol."""


class _Writable:
    """True while a connection can take more."""

    __slots__ = ("_flow",)

    def __init__(self, flow: FlowControl) -> None:
        self._flow = flow

    def is_set(self) -> bool:
        return not self._flow.write_paused

    async def wait(self) -> None:
        await self._flow.drain()


class HttpProtocol(BoundedInput):
    """A connection that speaks HTTP, until it asks for a WebSocket."""

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config.limits, config, *args, **options)
        self._first_requests = config.first_requests
        self._upgrades = config.upgrades
        self._has_spoken = False
        self._requests = 0
        """The number of requests that have begun."""
        self._address = ""
        self._counted = False
        self._refused_head: bytearray | None = None
        """The first head of a connection over the limit, as far as it has arrived; None for all other connections."""
        self._head_timer: asyncio.TimerHandle | None = None

    # --- connections ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._limits.enter(self._address)
        self._counted = True
        if not self._limits.refuses(self._address):
            self._expect_head()
            return
        self._limits.refused += 1
        # So far over the limit, a connection is refused without being heard: its head would take memory.
        if self._limits.open - self._limits.max_sockets > refusals.MAX_WAITING:
            self._refuse_connection(b"")
        else:
            self._refused_head = bytearray()
            self._head_timer = self.loop.call_later(_LATE_HEAD, self._refuse_connection, self._refused_head)

    def _refuse_connection(self, head: bytes | bytearray) -> None:
        """Answer a connection that is over the limit, and end it."""
        self._end_with(refusals.answer(bytes(head), self._limits.origins, self.server_state.default_headers))

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_complete()
        self._uncount()
        super().connection_lost(exc)
        self._release()

    def _release(self) -> None:
        if self.cycle is not None:
            # This breaks a reference cycle, which would wait for the garbage collector.
            self.cycle.transport = ENDED

    def handle_websocket_upgrade(self) -> None:
        if self.has_too_many_fields:
            return
        # Clients send nothing before the answer to the handshake. Input that comes earlier waits.
        self._upgrading = True
        self.transport.pause_reading()
        self._upgrades.pass_through(self._upgrade)

    def _upgrade(self) -> None:
        if self.transport.is_closing():
            return
        # From now on the other protocol counts the connection.
        self._uncount()
        super().handle_websocket_upgrade()
        self.transport.resume_reading()
        if rest := self._data[self._position :]:
            cast("WebSocketProtocol", self.transport.get_protocol()).data_received(rest)
        self._data, self._position = b"", 0
        # This breaks reference cycles, which would wait for the garbage collector.
        self.parser = self.flow = cast("Any", None)
        self._release()
        self.scope["extensions"] = {}

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._limits.leave(self._address)

    # --- heads ----------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._refused_head is not None:
            self._refused_head += data[: refusals.MAX_HEAD]
            if refusals.is_whole(self._refused_head):
                self._refuse_connection(self._refused_head)
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
        self._requests += 1
        # The writer knows its request by number: a reference to the scope that holds it would keep both, and all that
        # they refer to, for the garbage collector.
        extensions: dict[str, Any] = {
            EVICT: self._evict,
            WRITE: partial(self._write, self._requests),
            WRITABLE: _Writable(self.flow),
        }
        self.scope["extensions"] = extensions

    def on_headers_complete(self) -> None:
        self._head_complete()
        self._take_authority()
        super().on_headers_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not isinstance(cycle.transport, UnclosedTransport):
            cycle.transport = cast("asyncio.Transport", UnclosedTransport(self.transport, self._close))

    def _take_authority(self) -> None:
        """Use the host of a target in absolute form instead of `Host` (RFC 9112 section 3.2.2)."""
        if not self.url.startswith((b"/", b"*")):
            scheme, _, rest = self.url.partition(b"://")
            authority = re.split(rb"[/?#]", rest, maxsplit=1)[0] if scheme.lower() in {b"http", b"https"} else b""
            # In place: the scope has the same list. A doubled `Host` stays doubled, and is refused.
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def head_begins(self) -> None:
        if self._head_timer is None:
            self._expect_head()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_timeout, self._head_is_late)

    def _head_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"no request within {self._limits.head_timeout:g} s")

    # --- ends -----------------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self.refuse(HTTPStatus.BAD_REQUEST, msg)

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer input that can't become a request, and end the connection."""
        self._head_complete()
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and (not cycle.response_complete or not self._in_head):
            # The request has its answer, or a part of it: this one would be read as the rest, or as the next answer.
            self._evict(Close.BAD_MESSAGE)
            return
        if cycle is not None and not cycle.response_complete:
            # The answer of the application is discarded.
            cycle.disconnected = True
            cycle.message_event.set()
        self._end_with(refusals.plain(status, reason, self.server_state.default_headers))

    def _end_with(self, answer: bytes) -> None:
        """Send the last bytes of the connection, and end it."""
        self._head_complete()
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        self._linger()

    def _linger(self) -> None:
        self._unset_keepalive_if_required()
        self._refused_head = None
        linger(self, self._limits, self._address, self.connections)

    def _close(self) -> None:
        """Close the connection, usually after a complete response."""
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

    def _write(self, request: int, *chunk: bytes) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        # The connection may have come to another request than the one with this number.
        if cycle is None or request != self._requests or not cycle.chunked_encoding or cycle.response_complete:
            return False
        if cycle.disconnected or self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.writelines(chunk)
        return True

    def _evict(self, code: int) -> None:
        self._limits.slow += code == Close.SLOW
        if self.cycle is not None:
            # Whatever the application still sends is discarded without an error.
            self.cycle.disconnected = True
        self._linger()
