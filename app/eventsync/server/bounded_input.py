"""An HTTP connection that parses one request at a time and counts each byte that the client sends.

uvicorn passes whatever the network delivers to the parser. Each pipelined request then takes some 4 KiB of objects
before the first one is answered, and no limit counts trailers, chunk extensions and chunk sizes. Here the parser gets
slices. A slice contains at most one end of a head, and never the beginning of the next request. Input that has to wait
(for an answer, for the application to take a body, for the next turn of the event loop) stays unparsed, and reading
from the network is paused meanwhile.

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
"""Maximum bytes of a head or of a chunked body that the parser gets at once."""

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
    """Limits a request's head in bytes and fields, and its body in bytes on the wire.

    The limits do not depend on how TCP divides the input.
    """

    flow: _Flow

    def __init__(self, limits: ConnectionLimits, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self._data = b""
        """The last read, after the three bytes before it."""
        self._position = 0
        """Index of the first unparsed byte in `_data`."""
        self._scheduled = False
        self._in_head = True
        """From the end of a request to the end of the next one's head."""
        self._head = 0
        self._fields = 0
        self._sent = 0
        """Bytes of the body on the wire so far."""
        self._announced = 0
        """Bytes of its Content-Length that are still to come."""
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
        """Answer input that can't become a request, and end the connection."""
        raise NotImplementedError

    def head_begins(self) -> None:
        """Handle the first bytes of a head whose end has not arrived."""
        raise NotImplementedError

    # --- parsing --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        # `_data` is nearly always empty here: reading is paused while input waits.
        self._data += data
        if not self._scheduled:
            self._parse()

    def _schedule(self) -> None:
        if not self._scheduled and not self._upgrading:
            self._scheduled = True
            self.loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._scheduled = False
        self._parse()

    def _parse(self) -> None:
        """Parse what may be parsed now. Then continue reading, or wait."""
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
            # The last bytes may be the beginning of a blank line that ends in the next read.
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
        # The next request waits for the answer to this one, and the rest of a body until the application takes it.
        return self._complete or len(cycle.body) > HIGH_WATER_LIMIT

    def _end_of_slice(self) -> int:
        """Return the end of the bytes that the parser gets next."""
        # A body of known length has no ends to search for.
        if self._announced and not self._in_head:
            return min(len(self._data), self._position + self._announced)
        end = min(len(self._data), self._position + _SLICE)
        found = self._data.find(_BLANK, max(0, self._position - 3), end)
        # A blank line that ends before the first unparsed byte was parsed with an earlier slice.
        while 0 <= found <= self._position - len(_BLANK):
            found = self._data.find(_BLANK, found + 1, end)
        return found + len(_BLANK) if found >= 0 else end

    def _feed(self, end: int) -> None:
        size = end - self._position
        begins = self._in_head and not self._head
        if self._in_head:
            self._head += size
            if self._head > self._limits.head_bytes:
                self._refuse_head(f"a head has at most {self._limits.head_bytes} bytes")
                return
        else:
            self._sent += size
            self._announced = max(0, self._announced - size)
            if self._sent > self._limits.sent_bytes:
                # The body itself does not matter any more: it may have been refused already.
                reason = f"a body is sent in at most {self._limits.sent_bytes} bytes, chunk sizes and trailers included"
                self.refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
                return
        data, self._position = self._data[self._position : end], end
        super().data_received(data)
        if self.has_too_many_fields:
            self._refuse_head(f"a head has at most {self._limits.head_fields} fields")
        # Nearly all heads arrive at once, and need no timer.
        elif begins and self._in_head and self._head and not self._has_ended():
            self.head_begins()

    def _refuse_head(self, reason: str) -> None:
        self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)

    @property
    def has_too_many_fields(self) -> bool:
        """True if the head must be refused once the parser returns: the parser itself can't be stopped."""
        return self._fields > self._limits.head_fields

    # --- callbacks of the parser ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._complete = False
        self._fields = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        # A trailer arrives after all decisions that depend on headers.
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
            # uvicorn stopped its keep-alive timer at the first byte of the rest of this request.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    @property
    def more_is_coming(self) -> bool:
        """True while the client is sending a request, or has sent unparsed bytes."""
        return not self._complete or self._head > 0 or self._position < len(self._data)

    # --- bodies of refused requests ---------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._complete and not self.transport.is_closing():
            # The request was answered before its body arrived. The body is discarded, within the time for a body.
            self._drain_timer = self.loop.call_later(self._limits.body_timeout, self.transport.abort)

    def _body_complete(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
