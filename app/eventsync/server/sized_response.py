"""Responses of known length, sent in pieces, with a deadline for each.

The server's transport buffers whatever it gets, however slowly the client reads. With pieces, at most one waits there.
The rest is counted (`concurrency.held_bytes`) until it is sent. A client that reads no piece in time is evicted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventsync.concurrency.held_bytes import HeldBytes, Reservation
from eventsync.server.extensions import evict
from eventsync.server.problems import Close

logger = logging.getLogger(__name__)

_PIECE: Final = 256 * 1024


class Answers:
    """ASGI middleware that limits the bytes that all requests hold, and the time that a response stays unread."""

    def __init__(self, app: ASGIApp, held: HeldBytes, timeout: float) -> None:
        """`timeout` is the seconds that a client has for each piece."""
        self._app = app
        self._held = held
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._held.request() as share:
            await self._app(scope, receive, _Answer(scope, send, share, self._timeout).send)


class Parts(Response):
    """A response of known length in parts that are never joined: that would take time, and twice the memory."""

    def __init__(self, parts: Sequence[bytes], headers: Mapping[str, str], media_type: str) -> None:
        length = sum(map(len, parts))
        super().__init__(None, headers={**headers, "Content-Length": str(length)}, media_type=media_type)
        self._parts = parts

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        pieces = list(_pieces(self._parts))
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join small parts. Large ones are not copied."""
    small: list[bytes] = []
    size = 0
    for part in parts:
        if small and size + len(part) > _PIECE:
            yield b"".join(small)
            small, size = [], 0
        if len(part) > _PIECE:
            yield part
        else:
            small.append(part)
            size += len(part)
    yield b"".join(small)


class _Answer:
    def __init__(self, scope: Scope, send: Send, share: Reservation, timeout: float) -> None:
        self._scope = scope
        self._send = send
        self._share = share
        self._timeout = timeout
        self._length: int | None = None
        self._cut = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            found = (int(value) for name, value in message["headers"] if name.lower() == b"content-length")
            self._length = next(found, None)
            # The input of the response is no longer needed.
            self._share.settle(self._length or 0)
        # A response of unknown length limits its own pieces and waits.
        is_small = len(message.get("body", b"")) <= _PIECE and not message.get("more_body")
        if self._length is None or message["type"] != "http.response.body" or is_small:
            await self._send(message)
            return
        # A view, so that the pieces are the only copies.
        body, more = memoryview(message["body"]), message.get("more_body", False)
        for start in range(0, len(body), _PIECE):
            piece = bytes(body[start : start + _PIECE])
            rest = start + _PIECE < len(body)
            await self._put({"type": "http.response.body", "body": piece, "more_body": rest or more})

    async def _put(self, message: Message) -> None:
        if self._cut:
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(message)
        except TimeoutError:
            logger.info("a slow client is evicted: it read nothing of its answer within %g s", self._timeout)
            self._cut = True
            evict(self._scope, Close.SLOW)
