"""One client on one connection at a time, over each transport. It reconnects when the server refuses or closes it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final, cast

from scripts.bench.clients import wire
from scripts.bench.clients.exactness import BY_ID, SHAPE, WELCOME, Message, Reader, Replica, WrongError
from scripts.bench.clients.wire import Frames, Lines, Response, WireError

_SEEN, _PIECE = 1000, 16 * 1024
"""Pieces of a connection's bytes that are known, at most, and bytes of the largest."""

_JITTER: Final = (0.2, 1.0)
"""Seconds before another attempt, where the server has advised none."""

_LIVE: Final = b'{"type":"live"'
_MARGIN: Final = 4096
"""Most bytes of the message that a client is live, and of what comes with it."""

_SHORT: Final = 600
"""Most bytes of a piece that has nothing but the welcome."""


@dataclass
class Scene:
    """State that all clients of a server share."""

    port: int
    log: str
    reader: Reader
    comes_back: bool = True
    refusals: Counter[str] = field(default_factory=Counter)
    """Reasons of attempts that failed, before a client was served."""
    ends: Counter[str] = field(default_factory=Counter)
    """Reasons for which connections ended that were served."""
    wrong: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    """Seconds from each write until a client that `is_timed` had the event."""
    frames: int = 0
    """Messages with events that all clients have received."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    seen: OrderedDict[bytes, tuple[Message, ...]] = field(default_factory=OrderedDict)
    """Whole pieces of bytes that one client received, and what they say: most are sent to all."""


class Client(asyncio.Protocol):
    """Made without a connection; `come_back` makes one."""

    def __init__(
        self,
        scene: Scene,
        seq: int | None,
        *,
        is_timed: bool = False,
        document: int | None = None,
        route: bool = False,
        token: str = "",
    ) -> None:
        """Be at `seq`, or have nothing. Follow the collection, or one `document`, by a declared shape with `route`.

        With a `token` it follows the collection, and may see one `document` of it.
        """
        self.scene = scene
        self.replica = Replica(scene.reader.history, seq, document)
        self._shape, self._log = (SHAPE if document is None or token else f"{SHAPE}/int:{document}"), scene.log
        self._token = token
        if route:
            bound = BY_ID.bind({"id": document})
            self._shape, self._log = str(bound.shape), f"{scene.log}.{bound.scope}"
        self.live_at = 0.0
        self._is_timed = is_timed
        self._is_served = False
        self._transport: asyncio.Transport | None = None
        self._end = ""
        self._advice: float | None = None
        self._read: list[Message] = []
        """The messages in the bytes at hand; emptied where these hold more than messages for everybody."""

    async def come_back(self) -> None:
        """Connect, again and again, as late as the server advises."""
        while True:
            pause, self._advice = self._advice, None
            await asyncio.sleep(random.uniform(1.0, 1.5) * pause if pause is not None else 0.0)
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.scene.port)
            except OSError as error:
                self.scene.refusals[type(error).__name__] += 1
                self._advice = random.uniform(*_JITTER)
            else:
                return

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._is_served, self._end, self.replica.live = False, "", False
        self._response = Response()
        self._transport.write(self._begin())

    def data_received(self, data: bytes) -> None:
        begins_whole = self._is_between()
        known = self.scene.seen.get(data) if begins_whole else None
        self._read = []
        try:
            if known is None:
                self._take(data)
            for message in known or ():
                self._applied(message)
        except (WrongError, WireError, LookupError, ValueError, TypeError) as error:
            self.scene.wrong.append(f"{type(error).__name__}: {error}")
            self.close()
        if len(data) <= _PIECE and begins_whole and self._read and self._is_between():
            self.scene.seen[data] = tuple(self._read)
            if len(self.scene.seen) > _SEEN:
                self.scene.seen.popitem(last=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.replica.live = False
        how = self._end or (type(exc).__name__ if exc else "end of stream")
        if self._is_served:
            self.scene.ends[how] += 1
        else:
            self.scene.refusals[how] += 1
            self._advice = random.uniform(*_JITTER) if self._advice is None else self._advice
        if self.scene.comes_back:
            task = asyncio.get_running_loop().create_task(self.come_back(), name="come back")
            self.scene.tasks.add(task)
            task.add_done_callback(self.scene.tasks.discard)

    def close(self) -> None:
        """Leave, without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self) -> bytes:
        """Forget the connection before; return the bytes to send first."""
        raise NotImplementedError

    def _take(self, data: bytes) -> None:
        """Read what the server sends."""
        raise NotImplementedError

    def _is_between(self) -> bool:
        """Return True if the next bytes begin a message for everybody."""
        raise NotImplementedError

    @property
    def _position(self) -> str | None:
        return None if self.replica.seq is None else f"{self._log}:{self.replica.seq}"

    def _message(self, data: bytes) -> None:
        message = self.scene.reader.read(data)
        if message.kind == "error":
            # It is about the only shape: the connection is of no use any more.
            self._refused(f"error {message.text}", message.retry_after)
            return
        self._read = [*self._read, message] if message.kind != "welcome" else []
        self._applied(message)

    def _applied(self, message: Message) -> None:
        self._is_served = self._is_served or message.kind != "welcome"
        was_live = self.replica.live
        new = self.replica.take(message)
        if self.replica.live and not was_live:
            self.live_at = time.monotonic()
        if new:
            self.scene.frames += 1
            if self._is_timed:
                now = time.monotonic()
                self.scene.delays.extend(now - at for at in message.at[-new:])

    def _is_refused(self, success: int) -> bool:
        """Close the connection, and return True, if the response has another status."""
        response = self._response
        if response.status not in {0, success}:
            self._refused(f"status {response.status}", response.headers.get("retry-after"))
        return response.status not in {0, success}

    def _refused(self, how: str, retry_after: float | str | None) -> None:
        self._end, self._advice = how, None if retry_after is None else float(retry_after)
        self.close()


class WebSocketClient(Client):
    """`GET /v1/sync`."""

    def _begin(self) -> bytes:
        self._frames: Frames | None = None
        return wire.upgrade(self.scene.port)

    def _take(self, data: bytes) -> None:
        if self._frames is None:
            self._response.feed(data)
            if self._is_refused(101) or not self._response.status:
                return
            data, self._frames = self._response.rest, Frames()
            self._write(wire.hello(self._shape, self._position, self._token))
        self._received(data, self._frames)

    def _received(self, data: bytes, frames: Frames) -> None:
        """Read what follows the handshake."""
        for opcode, payload in frames.feed(data):
            if opcode == wire.TEXT:
                self._message(payload)
                continue
            self._read = []
            if opcode == wire.PING:
                self._write(wire.client_frame(0xA, payload))
            elif opcode == wire.CLOSE:
                self._end = f"close {int.from_bytes(payload[:2], 'big')}"
                self._write(wire.client_frame(wire.CLOSE, payload[:2]))

    def _is_between(self) -> bool:
        return self._frames is not None and self._frames.is_between

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


class Puller(WebSocketClient):
    """Keeps all bytes until `check`, so that reading them is no part of a rate.

    `first` is when the first byte after the welcome came, `live_at` when it was live, by the monotonic clock.
    """

    def __init__(self, scene: Scene, seq: int | None) -> None:
        super().__init__(scene, seq)
        self.first = 0.0
        self._pieces: list[bytes] = [b""]

    def _received(self, data: bytes, frames: Frames) -> None:  # noqa: ARG002 - read by `check`
        if not self.first and data and not (len(data) < _SHORT and WELCOME in data):
            self.first = time.monotonic()
        if not self.live_at and _LIVE in self._pieces[-1][-_MARGIN:] + data[-_MARGIN:]:
            self.live_at = time.monotonic()
        self._pieces.append(data)

    def _is_between(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.live_at:
            self.scene.wrong.append(f"a connection ended before it was live: {exc}, after {self._pieces[-1][-300:]!r}")

    def check(self) -> Replica:
        """Leave; apply all that came, and drop it. Raises `WrongError`."""
        self.close()
        super()._received(b"".join(self._pieces), Frames())
        self._pieces.clear()
        if not self.replica.live or not self.replica.is_exact:
            raise WrongError(f"a client has {self.replica.events} events at {self.replica.seq}, and should have others")
        return self.replica


class SseClient(Client):
    """`GET /v1/sync/sse`."""

    def _begin(self) -> bytes:
        self._lines = Lines()
        vector = f"&vector={SHAPE}%3D{self._position}" if self._position else ""
        return f"GET /v1/sync/sse?shape={SHAPE}{vector} HTTP/1.1\r\nHost: 127.0.0.1:{self.scene.port}\r\n\r\n".encode()

    def _take(self, data: bytes) -> None:
        body = self._response.feed(data)
        if self._is_refused(200):
            return
        for found in self._lines.feed(body):
            self._message(found)
        if self._response.complete:
            self._read = []
            self._end = self._end or "end of response"
            self.close()

    def _is_between(self) -> bool:
        return self._response.status == 200 and self._response.is_between and self._lines.is_between


TRANSPORTS: Final[dict[str, type[Client]]] = {"websocket": WebSocketClient, "sse": SseClient}
