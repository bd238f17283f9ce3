"""A client that only keeps bytes until it is live; they are checked afterwards, so that this is no part of a rate."""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

from scripts.bench.crowd.messages import Reader, WrongError
from scripts.bench.crowd.replica import Replica
from scripts.bench.crowd.wire import TEXT, Frames

_WELCOME, _LIVE = b'{"type":"welcome"', b'{"type":"live"'
_MARGIN: Final = 4096
"""Most bytes of the message that it is live, and of what comes with it."""

_SHORT: Final = 600
"""Most bytes of a piece that has nothing but the welcome."""


class Puller(asyncio.Protocol):
    """Says `hello` after the handshake, and keeps all bytes.

    `first` is when the first byte after the welcome came, `done` when it was live, by the monotonic clock.
    """

    def __init__(self, request: bytes, hello: bytes) -> None:
        self._request = request
        self._hello = hello
        self._pieces: list[bytes] = []
        self._upgraded = False
        self.first = self.done = 0.0
        self.is_live: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._upgraded:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found or not head.startswith(b"HTTP/1.1 101 "):
                self._pieces.append(head)
                self._transport.abort()
                return
            self._upgraded = True
            self._transport.write(self._hello)
        if not self.first and data and not (len(data) < _SHORT and _WELCOME in data):
            self.first = time.monotonic()
        before = self._pieces[-1][-_MARGIN:] if self._pieces else b""
        self._pieces.append(data)
        if not self.is_live.done() and _LIVE in (before + data[-_MARGIN:] if len(data) > _MARGIN else before + data):
            self.done = time.monotonic()
            self.is_live.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_live.done():
            last = self._pieces[-1][-_MARGIN:] if self._pieces else b""
            self.is_live.set_exception(WrongError(f"a connection ended before it was live: {exc}, after {last!r}"))

    def close(self) -> None:
        """Leave, without a word."""
        self._transport.close()

    def replica(self, reader: Reader, replica: Replica) -> Replica:
        """Apply all messages to `replica`, check them against the history, drop the bytes. Raises `WrongError`."""
        frames, data = Frames(), b"".join(self._pieces)
        self._pieces.clear()
        for opcode, payload in frames.feed(data):
            if opcode == TEXT:
                replica.take(reader.read(payload))
        if not replica.live:
            raise WrongError("it is not live")
        return replica
