"""Python's clients: `websockets`, `httpx-sse` and `httpx`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx
import httpx_sse
from websockets.asyncio import client
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from support.peers.peer import SUBPROTOCOL, Answer, Asked, Ended, Link, Message, Polling, Received, TransportName
from support.replica import vector_text
from support.waiting import patience

logger = logging.getLogger(__name__)

_TIMEOUT: Final = 20.0


def connect(url: str, **options: Any) -> client.connect:
    """Connect as `websockets` does; no ping of the client's own ends a connection that is only slow."""
    limits = {"open_timeout": patience(10), "close_timeout": patience(10), "ping_interval": None}
    return client.connect(url, **(limits | options))


@asynccontextmanager
async def reading(connection: ClientConnection) -> AsyncIterator[None]:
    """Read all that comes meanwhile, and say how the connection ends: one that nobody reads answers no ping."""

    async def read() -> None:
        with suppress(ConnectionClosed):
            async for _ in connection:
                continue
        logger.warning("the client's connection has ended: %s %s", connection.close_code, connection.close_reason)

    task = asyncio.create_task(read(), name="read what the client gets")
    try:
        yield
    finally:
        await connection.close()
        await task


class _Refused:
    """A connection that never came to be."""

    def __init__(self, ended: Ended) -> None:
        self.ended: Ended | None = ended

    async def receive(self) -> Received | None:
        return None


class _Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self.ended: Ended | None = None
        self._connection = connection

    async def receive(self) -> Received | None:
        try:
            return Received(json.loads(await self._connection.recv()))
        except ConnectionClosed:
            self.ended = Ended(self._connection.close_code, self._connection.close_reason or "")
            return None

    async def send(self, message: Message) -> None:
        await self._connection.send(json.dumps(message))


@dataclass(frozen=True, slots=True)
class Websockets:
    """The `websockets` library."""

    name: str = "websockets"
    transport: TransportName = "websocket"

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:
        address = url.replace("http", "ws") + "/v1/sync"
        try:
            connection = await connect(address, subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=None)
        except InvalidStatus as error:
            yield _Refused(Ended(error.response.status_code, error.response.reason_phrase))
            return
        try:
            assert connection.subprotocol == SUBPROTOCOL
            link = _Socket(connection)
            hello = {"type": "hello", "shapes": list(asked.shapes), "vector": dict(asked.vector)}
            await link.send(hello if asked.token is None else hello | {"token": asked.token})
            yield link
        finally:
            connection.transport.abort()
            await connection.wait_closed()


class _Events:
    def __init__(self, source: httpx_sse.EventSource) -> None:
        self.ended: Ended | None = None
        self._events = source.aiter_sse()

    async def receive(self) -> Received | None:
        try:
            event = await anext(self._events)
        except StopAsyncIteration:
            self.ended = Ended(None, "the stream has ended")
        except httpx.TransportError as error:
            self.ended = Ended(None, str(error))
        else:
            message = event.json()
            assert message["type"] == event.event
            return Received(message, event.id)
        return None

    async def aclose(self) -> None:
        await self._events.aclose()


@dataclass(frozen=True, slots=True)
class HttpxSse:
    """The `httpx-sse` library. It resumes as a browser's own reconnect does, by `Last-Event-ID`."""

    name: str = "httpx-sse"
    transport: TransportName = "sse"

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:
        headers = asked.headers
        if asked.vector:
            headers["Last-Event-ID"] = vector_text(dict(asked.vector))
        address, params = f"{url}/v1/sync/sse", {"shape": list(asked.shapes)}
        async with (
            httpx.AsyncClient(timeout=patience(_TIMEOUT)) as client,
            httpx_sse.aconnect_sse(client, "GET", address, params=params, headers=headers) as source,
        ):
            if source.response.status_code != 200:
                yield _Refused(Ended(source.response.status_code))
                return
            link = _Events(source)
            try:
                yield link
            finally:
                await link.aclose()


@dataclass(frozen=True, slots=True)
class HttpxPolling:
    """`httpx`, which keeps its connections alive."""

    name: str = "httpx"
    transport: TransportName = "http"

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:
        async with httpx.AsyncClient(base_url=url, timeout=patience(_TIMEOUT), headers=asked.headers) as client:

            async def get(path: str, query: dict[str, str]) -> Answer:
                try:
                    answer = await client.get(path, params=query)
                except httpx.TransportError as error:
                    return Answer(0, str(error).encode())
                return Answer(answer.status_code, answer.content)

            yield Polling(get, asked)
