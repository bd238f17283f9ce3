"""Wire formats of a server: WebSocket frames (RFC 6455), HTTP/1.1 responses (RFC 9112), Server-Sent Events. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

TEXT, CLOSE, PING = 0x1, 0x8, 0x9
"""Opcodes of WebSocket frames."""

_FINAL = 0x80
_HEAD_END = b"\r\n\r\n"


class WireError(Exception):
    """The bytes are not what the server should send."""


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame as a client sends it. The mask is zero, which the standard allows."""
    size = len(payload)
    length = bytes([_FINAL | size]) if size < 126 else bytes([_FINAL | 126]) + size.to_bytes(2, "big")
    return bytes([_FINAL | opcode]) + length + bytes(4) + payload


def upgrade(port: int) -> bytes:
    """Return the first request of a WebSocket client."""
    return (
        b"GET /v1/sync HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: ZXZlbnRzeW5jLWJlbmNoIQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: eventsync.v1\r\n\r\n" % port
    )


def hello(shape: str, position: str | None) -> bytes:
    """Return the frame in which it says where it is."""
    vector = {} if position is None else {shape: position}
    return client_frame(TEXT, orjson.dumps({"type": "hello", "shapes": [shape], "vector": vector}))


class Frames:
    """Cuts a server's bytes into frames; each is whole, and not masked."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield opcode and payload of each frame that is complete now. Raises `WireError`."""
        self._buffer += data
        while (frame := self._frame()) is not None:
            yield frame

    @property
    def is_between(self) -> bool:
        """True if the next byte begins a frame."""
        return not self._buffer

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


@dataclass
class Response:
    """One HTTP response, as it comes: chunked, or with a length. `status` is 0 before its head is there."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the response; return what they complete of the body. Raises `WireError`."""
        self._buffer += data
        if not self.status and not self._head():
            return b""
        if "content-length" in self.headers:
            size = int(self.headers["content-length"])
            self.complete = len(self._buffer) >= size
            return bytes(self._buffer[:size]) if self.complete else b""
        return b"".join(self._chunks())

    def _head(self) -> bool:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        if not first.startswith("HTTP/1.1 "):
            raise WireError(f"no response: {first[:50]}")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.status = int(first.split(" ", 2)[1])
        del self._buffer[: end + len(_HEAD_END)]
        return True

    @property
    def is_between(self) -> bool:
        """True if the next byte begins a chunk."""
        return self.status == 200 and not self._buffer

    def rest(self) -> bytes:
        """Return the bytes behind the head where something other than HTTP follows, as after status 101."""
        return bytes(self._buffer)

    def _chunks(self) -> Iterator[bytes]:
        while not self.complete and (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:end], 16)
            if len(self._buffer) < end + 2 + size + 2:
                return
            yield bytes(self._buffer[end + 2 : end + 2 + size])
            del self._buffer[: end + 2 + size + 2]
            self.complete = size == 0


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
