"""A response of unknown length, written piece by piece, with a deadline for each, until the client disconnects.

Raw ASGI: Starlette's streaming response has no deadline, and cancels its iterator by an anyio cancel scope.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.types import Receive, Scope, Send

from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.server.extensions import evict, until_writable
from eventsync.server.problems import Close

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]


class ClientDisconnected(Exception):
    """The client has disconnected, or was evicted because it does not read."""


class ResponseStream:
    """The client's end of a streaming response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, timeout: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._timeout = timeout
        self.gone = False
        self.started = False
        """True once the status may have been sent: there can be no other answer then."""

    async def start(self, headers: Headers) -> None:
        """Send the status, 200, and the headers. Raises `ClientDisconnected` like all that sends, and for a `HEAD`
        request.
        """
        self.started = True
        await self._put({"type": "http.response.start", "status": 200, "headers": [*headers]})
        if self._scope["method"] == "HEAD":
            await self.end()
            self.gone = True
            raise ClientDisconnected

    async def write(self, body: bytes) -> None:
        """Send a piece of the body. Return when the connection can take more."""
        await self._put({"type": "http.response.body", "body": body, "more_body": True})

    async def until_writable(self) -> None:
        """Return when the connection takes a piece at once. Raises `ClientDisconnected`."""
        try:
            await until_writable(self._scope, self._timeout)
        except TimeoutError as error:
            raise self._evicted() from error

    async def end(self) -> None:
        """Complete the response."""
        await self._put({"type": "http.response.body", "body": b""})

    async def send_all(self, headers: Headers, pieces: AsyncIterator[bytes], *, what: str) -> None:
        """Send a whole response, of at least one piece. A body that can't be read to its end is cut off.

        An error before the first piece is raised, while it can still become a problem document.
        """
        first = await anext(pieces)
        async with self.watched(lambda: None):
            try:
                await self.start(headers)
                await self.write(first)
                # What is read while the connection is full could be outdated when it leaves.
                await self.until_writable()
                async for piece in pieces:
                    await self.write(piece)
                    await self.until_writable()
                await self.end()
            except ClientDisconnected:
                return
            except (Unavailable, Damaged) as error:
                level = logging.ERROR if isinstance(error, Damaged) else logging.WARNING
                logger.log(level, "%s is cut off: %s", what, error.diagnosis)
                self.cut()

    def cut(self, code: Close = Close.TRY_LATER) -> None:
        """End the connection without completing the response, so that the client sees that it is incomplete."""
        self.gone = True
        evict(self._scope, code)

    def watched(self, on_gone: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """While the block runs, call `on_gone` when the client disconnects."""

        def end() -> None:
            self.gone = True
            on_gone()

        return watched(self._receive, end)

    async def _put(self, message: dict[str, object]) -> None:
        if self.gone:
            raise ClientDisconnected
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(message)
        except TimeoutError as error:
            raise self._evicted() from error
        except OSError as error:
            raise ClientDisconnected from error

    def _evicted(self) -> ClientDisconnected:
        logger.info("a slow client is evicted: it read nothing within %g s", self._timeout)
        self.cut(Close.SLOW)
        return ClientDisconnected()


@asynccontextmanager
async def watched(receive: Receive, on_gone: Callable[[], None]) -> AsyncIterator[None]:
    """While the block runs, call `on_gone` when the client disconnects. The rest of the request's body is dropped."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(receive, on_gone), name="watch the client of a long request")
        try:
            yield
        finally:
            watching.cancel()


async def _watch(receive: Receive, on_gone: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    on_gone()
