"""One client on one connection at a time, over each transport. It reconnects when the server refuses or closes it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlencode

from scripts.bench.crowd import wire
from scripts.bench.crowd.messages import Message, Reader, WrongError
from scripts.bench.crowd.replica import Replica
from scripts.bench.crowd.wire import Frames, Lines, Response, WireError

SHAPE: Final = "docs"
_HOST: Final = "127.0.0.1"
_SEEN, _PIECE = 1000, 16 * 1024
"""Pieces of a connection's bytes that are known, at most, and bytes of the largest."""

_JITTER: Final = (0.2, 1.0)
"""Seconds before another attempt, where the server has advised none."""


@dataclass
class Scene:
    """State that all clients of a crowd share."""

    port: int
    log: str
    reader: Reader
    comes_back: bool = False
    refusals: Counter[str] = field(default_factory=Counter)
    """How attempts failed, before a client was served."""
    ends: Counter[str] = field(default_factory=Counter)
    """How connections ended that were served."""
    wrong: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    """Seconds from each write until a client that `is_timed` had the event."""
    received: int = 0
    """Bytes, by all clients."""
    frames: int = 0
    """Messages with events that all clients have received."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    seen: OrderedDict[bytes, tuple[Message, ...]] = field(default_factory=OrderedDict)
    """Whole pieces of bytes that one client was sent, and what they say: most are sent to all."""

    def remember(self, data: bytes, said: tuple[Message, ...]) -> None:
        """Know these bytes when another client gets them."""
        self.seen[data] = said
        if len(self.seen) > _SEEN:
            self.seen.popitem(last=False)

    def spawn(self, client: Client) -> None:
        """Have a client come back."""
        task = asyncio.get_running_loop().create_task(client.come_back(), name="come back")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Client(asyncio.Protocol):
    """Made without a connection; `come_back` makes one."""

    def __init__(self, scene: Scene, replica: Replica, *, is_timed: bool) -> None:
        self.scene = scene
        self.replica = replica
        self.is_timed = is_timed
        self.is_open = False
        self.live_at = 0.0
        self.is_served = False
        self.transport: asyncio.Transport | None = None
        self._said = ""
        self._advice: float | None = None
        self._read: list[Message] = []
        """What the bytes at hand say; emptied where they say more than messages for everybody."""

    async def come_back(self) -> None:
        """Connect, again and again, as late as the server advises."""
        while True:
            await asyncio.sleep(self._pause())
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, _HOST, self.scene.port)
            except OSError as error:
                self.scene.refusals[type(error).__name__] += 1
                self._advice = random.uniform(*_JITTER)
            else:
                return

    def _pause(self) -> float:
        pause, self._advice = self._advice, None
        return random.uniform(1.0, 1.5) * pause if pause is not None else 0.0

    # --- asyncio's side -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open, self.is_served, self._said = True, False, ""
        self.replica.live = False
        self._begin()
        self.transport.write(self._request())

    def data_received(self, data: bytes) -> None:
        self.scene.received += len(data)
        try:
            self._known(data)
        except (WrongError, WireError, LookupError, ValueError, TypeError) as error:
            self.scene.wrong.append(f"{type(error).__name__}: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = self.replica.live = False
        how = self._said or (type(exc).__name__ if exc else "end of stream")
        if self.is_served:
            self.scene.ends[how] += 1
        else:
            self.scene.refusals[how] += 1
            self._advice = random.uniform(*_JITTER) if self._advice is None else self._advice
        if self.scene.comes_back:
            self.scene.spawn(self)

    def close(self) -> None:
        """Leave, without a word."""
        if self.transport is not None:
            self.transport.abort()

    def _known(self, data: bytes) -> None:
        begins_whole = self._is_between()
        if begins_whole and (said := self.scene.seen.get(data)) is not None:
            for message in said:
                self._applied(message)
            return
        self._read = []
        self._take(data)
        if len(data) <= _PIECE and begins_whole and self._read and self._is_between():
            self.scene.remember(data, tuple(self._read))

    # --- the protocol's side --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Forget the connection before."""
        raise NotImplementedError

    def _request(self) -> bytes:
        """Return the bytes to send first."""
        raise NotImplementedError

    def _take(self, data: bytes) -> None:
        raise NotImplementedError

    def _is_between(self) -> bool:
        """Return True if the next bytes begin a message for everybody."""
        return False

    @property
    def _position(self) -> str:
        return f"{self.scene.log}:{self.replica.seq}"

    def _message(self, data: bytes) -> None:
        message = self.scene.reader.read(data)
        if message.kind == "error":
            # It is about the only shape: the connection is of no use any more.
            self._refused(f"error {message.text}", message.retry_after)
            self.close()
            return
        self._read = [*self._read, message] if message.kind != "welcome" else []
        self._applied(message)

    def _applied(self, message: Message) -> None:
        self.is_served = self.is_served or message.kind != "welcome"
        was_live = self.replica.live
        new = self.replica.take(message)
        if self.replica.live and not was_live:
            self.live_at = time.monotonic()
        if not new:
            return
        self.scene.frames += 1
        if self.is_timed:
            now = time.monotonic()
            self.scene.delays.extend(now - at for at in message.at[-new:])

    def _refused(self, how: str, retry_after: float | None) -> None:
        self._said, self._advice = how, retry_after

    def _refused_by(self, response: Response) -> None:
        advice = response.headers.get("retry-after")
        self._refused(f"status {response.status}", float(advice) if advice else None)
        self.close()


class WebSocketClient(Client):
    """`GET /v1/sync`."""

    def _begin(self) -> None:
        self._response: Response | None = Response()
        self._frames = Frames()

    def _request(self) -> bytes:
        return wire.upgrade(self.scene.port)

    def _take(self, data: bytes) -> None:
        if self._response is not None:
            self._response.feed(data)
            if self._response.status == 0:
                return
            if self._response.status != 101:
                self._refused_by(self._response)
                return
            data, self._response = self._response.rest(), None
            self._write(wire.hello(SHAPE, None if self.replica.seq is None else self._position))
        for opcode, payload in self._frames.feed(data):
            if opcode == wire.TEXT:
                self._message(payload)
                continue
            self._read = []
            if opcode == wire.PING:
                self._write(wire.client_frame(0xA, payload))
            elif opcode == wire.CLOSE:
                self._said = f"close {int.from_bytes(payload[:2], 'big')}"
                self._write(wire.client_frame(wire.CLOSE, payload[:2]))

    def _is_between(self) -> bool:
        return self._response is None and self._frames.is_between

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class SseClient(Client):
    """`GET /v1/sync/sse`."""

    def _begin(self) -> None:
        self._response, self._lines = Response(), Lines()

    def _request(self) -> bytes:
        query = (
            {"shape": SHAPE} if self.replica.seq is None else {"shape": SHAPE, "vector": f"{SHAPE}={self._position}"}
        )
        return _get("/v1/sync/sse", query, self.scene.port)

    def _take(self, data: bytes) -> None:
        body = self._response.feed(data)
        if self._response.status not in {0, 200}:
            self._refused_by(self._response)
            return
        for found in self._lines.feed(body):
            self._message(found)
        if self._response.complete:
            self._read = []
            self._said = self._said or "end of response"
            self.close()

    def _is_between(self) -> bool:
        return self._response.is_between and self._lines.is_between


def _get(path: str, query: dict[str, str], port: int) -> bytes:
    return f"GET {path}?{urlencode(query)} HTTP/1.1\r\nHost: {_HOST}:{port}\r\n\r\n".encode()


TRANSPORTS: Final[dict[str, type[Client]]] = {"websocket": WebSocketClient, "sse": SseClient}
