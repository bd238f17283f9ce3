"""Wire formats of a server: WebSocket frames (RFC 6455), HTTP/1.1 responses (RFC 9112), Server-Sent Events. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import httptools
import orjson
from websockets.frames import Frame, Opcode

TEXT, CLOSE, PING = 0x1, 0x8, 0x9
"""Opcodes of WebSocket frames."""

_FINAL = 0x80


class WireError(Exception):
    """The bytes are not what the server should send."""


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame as a client sends it."""
    return Frame(Opcode(opcode), payload).serialize(mask=True)


def upgrade(port: int) -> bytes:
    """Return the first request of a WebSocket client."""
    return (
        b"GET /v1/sync HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: ZXZlbnRzeW5jLWJlbmNoIQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: eventsync.v1\r\n\r\n" % port
    )


def hello(shape: str, position: str | None, token: str = "") -> bytes:
    """Return the frame in which it says where it is, and by a token who it is."""
    message = {"type": "hello", "shapes": [shape], "vector": {} if position is None else {shape: position}}
    return client_frame(TEXT, orjson.dumps(message | ({"token": token} if token else {})))


class Frames:
    """Cuts a server's bytes into frames; each is whole, and not masked."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_between(self) -> bool:
        """True if the next byte begins a frame."""
        return not self._buffer

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield opcode and payload of each frame that is complete now. Raises `WireError`."""
        self._buffer += data
        while (frame := self._frame()) is not None:
            yield frame

    def _frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if not buffer[0] & _FINAL or buffer[1] & 0x80:
            raise WireError("a fragment, or a masked frame")
        start, size = 2, buffer[1]
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start or len(buffer) < start + size:
            return None
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[start : start + size])
        del buffer[: start + size]
        return opcode, payload


class Response:
    """One HTTP response, as it comes. `status` is 0 before its head is there.

    `rest`: what follows the head of an upgrade. `is_between`: the next byte begins a chunk.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = self.is_between = False
        self.rest = b""
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the response; return what they have of the body. Raises `WireError`."""
        self._body = []
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switched:
            self.rest = data[switched.args[0] :]
        except httptools.HttpParserError as error:
            raise WireError(f"no response: {data[:50]!r}") from error
        # The parser does not say that it has half a chunk's length, which has no end of line.
        self.is_between = self.is_between and data.endswith(b"\r\n")
        return b"".join(self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.is_between = True

    def on_chunk_header(self) -> None:
        self.is_between = False

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_chunk_complete(self) -> None:
        self.is_between = True

    def on_message_complete(self) -> None:
        self.complete = True


class Lines:
    """Cuts an event stream into events; gives the `data` of each, and leaves the rest of it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_between(self) -> bool:
        """True if the next byte begins an event."""
        return not self._buffer

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the data of each event that is complete now; here an event has one `data` line, or none."""
        self._buffer += data
        while (end := self._buffer.find(b"\n\n")) >= 0:
            event = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            start = event.find(b"data: ")
            if start >= 0:
                yield event[start + 6 :]
