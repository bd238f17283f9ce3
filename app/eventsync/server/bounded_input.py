"""An HTTP connection that parses one request at a time, and counts all that the client sends.

uvicorn hands the parser whatever the network delivers. Each pipelined request then becomes some 4 KiB of objects before
the first one is answered, and trailers, chunk extensions and chunk sizes count for no limit at all. Here the parser
gets slices: none contains more than one end of a head, and none the beginning of the next request. What has to wait
(for an answer, for the application to take a body, for the next turn of the event loop) waits as it came, and reading
from the network stops meanwhile.

The parser accepts no line end but CRLF, so a head, and the trailers of a chunked body, end with `CRLF CRLF`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eventsync.server.limits import ConnectionLimits

_BLANK: Final = b"\r\n\r\n"

_SLICE: Final = 4096
"""Most bytes of a head or of a chunked body that the parser gets at once."""

_SLICE_COST: Final = 64
_TURN: Final = 32 * 1024
"""Bytes, and `_SLICE_COST` for each slice, that are parsed in one turn of the event loop: some 5 ms at worst, where a
body comes in chunks of one byte."""

_AWAITED: Final = 0.5
"""Seconds that a new connection gets, at shutdown, to send its first request."""


class FirstRequest(HttpToolsProtocol):
    """Keeps a new connection open for its first request at shutdown.

    uvicorn closes each connection that is not in the middle of a response. The client of a kept-alive connection
    expects that. A client that has just connected has a request on its way, and takes the close for an outage.
    """

    _leaving = False

    def shutdown(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self._leaving = True
            self.loop.call_later(_AWAITED, self._give_up)
        else:
            super().shutdown()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def _give_up(self) -> None:
        # A connection that became a WebSocket has another protocol.
        if self.cycle is None and self in self.connections:
            self.transport.close()


class _Flow(FlowControl):
    """Flow control that asks the protocol before it reads from the network again."""

    def __init__(self, transport: asyncio.Transport, resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resume = resume

    def resume_reading(self) -> None:
        if self.read_paused:
            self._resume()

    def read_again(self) -> None:
        super().resume_reading()


class BoundedInput(FirstRequest):
    """Bounds a request's head in bytes and fields, and its body in bytes as they are sent.

    The bounds do not depend on how TCP cuts what is sent.
    """

    flow: _Flow

    def __init__(self, limits: ConnectionLimits, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._data = b""
        """What was read last, behind the last three bytes before it."""
        self._position = 0
        """Where in `_data` the bytes begin that are not parsed yet."""
        self._scheduled = False
        self._in_head = True
        """From the end of a request to the end of the next one's head."""
        self._head = 0
        self._fields = 0
        self._sent = 0
        """Bytes of the body as it is sent, and of the length that was announced the bytes that are still to come."""
        self._announced = 0
        self._complete = False
        self._upgrading = False
        self._drain_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self._schedule)

    def connection_lost(self, exc: Exception | None) -> None:
        self._data, self._position = b"", 0
        self._body_complete()
        super().connection_lost(exc)

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer what can't become a request, and end the connection."""
        raise NotImplementedError

    def head_begins(self) -> None:
        """The first byte of a head has come."""
        raise NotImplementedError

    # --- parsing --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        # Nothing waits here as a rule: reading is paused meanwhile.
        self._data += data
        if not self._scheduled:
            self._parse()

    def _schedule(self) -> None:
        if not self._scheduled and not self._upgrading:
            self._scheduled = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        self._parse()

    def _parse(self) -> None:
        """Parse what may be parsed now; then read on, or wait."""
        work = _TURN
        while self._position < len(self._data) and not self._has_ended():
            if self._must_wait():
                self.flow.pause_reading()
                return
            if work <= 0:
                self.flow.pause_reading()
                self._schedule()
                return
            end = self._end_of_slice()
            work -= end - self._position + _SLICE_COST
            self._feed(end)
        if not self._has_ended():
            self._data = self._data[-3:]
            self._position = len(self._data)
            if not self._must_wait():
                self.flow.read_again()

    def _has_ended(self) -> bool:
        return self._upgrading or self.transport.is_closing()

    def _must_wait(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return self._complete or len(cycle.body) > HIGH_WATER_LIMIT

    def _end_of_slice(self) -> int:
        """Return the end of the bytes that the parser gets next."""
        if self._announced and not self._in_head:
            return min(len(self._data), self._position + self._announced)
        most = min(len(self._data), self._position + _SLICE)
        found = self._data.find(_BLANK, max(0, self._position - 3), most)
        while 0 <= found <= self._position - len(_BLANK):
            found = self._data.find(_BLANK, found + 1, most)
        return found + len(_BLANK) if found >= 0 else most

    def _feed(self, end: int) -> None:
        size = end - self._position
        if self._in_head:
            if not self._head:
                self.head_begins()
            self._head += size
            if self._head > self._limits.head_bytes:
                self._refuse_head(f"a head has at most {self._limits.head_bytes} bytes")
                return
        else:
            self._sent += size
            self._announced = max(0, self._announced - size)
            if self._sent > self._limits.sent_bytes:
                # What it says does not matter any more; it may be a body that was refused already.
                reason = f"a body is sent in at most {self._limits.sent_bytes} bytes, chunk sizes and trailers included"
                self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
                return
        data, self._position = self._data[self._position : end], end
        super().data_received(data)
        if self.has_too_many_fields:
            self._refuse_head(f"a head has at most {self._limits.head_fields} fields")

    def _refuse_head(self, reason: str) -> None:
        self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)

    @property
    def has_too_many_fields(self) -> bool:
        """Tell whether the head is to be refused as soon as the parser returns, which can't be stopped before."""
        return self._fields > self._limits.head_fields

    # --- what the parser finds ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._complete = False
        self._fields = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer is no header: it comes too late for all that headers decide.
        if not self._in_head:
            return
        self._fields += 1
        if not self.has_too_many_fields:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.has_too_many_fields:
            return
        self._in_head = False
        self._sent = 0
        self._announced = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._complete, self._in_head, self._head, self._announced = True, True, 0, 0
        self._body_complete()
        if not self.has_too_many_fields:
            super().on_message_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_complete and not self.transport.is_closing():
            # uvicorn has ended the wait for another request with the first byte of the rest of this one.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    @property
    def more_is_coming(self) -> bool:
        """Tell whether the client is in the midst of sending, or has sent what is not parsed."""
        return not self._complete or self._head > 0 or self._position < len(self._data)

    # --- bodies that nobody wants ---------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._complete and not self.transport.is_closing():
            # Refused before its body had come. It is thrown away, for as long as a body may take.
            self._drain_timer = self.loop.call_later(self._limits.body_timeout, self.transport.abort)

    def _body_complete(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
