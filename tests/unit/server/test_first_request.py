from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from eventsync.server.bounded_input import FirstRequest
from eventsync.server.sockets import listening
from support.waiting import within

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self) -> bytes:
        """A request and its answer."""
        self._writer.write(REQUEST)
        return await self._reader.readuntil(b"\r\n\r\nok")

    async def rest(self) -> bytes:
        """Return the bytes that still come until the connection is closed."""
        return await self._reader.read()


@asynccontextmanager
async def going(*, used: bool) -> AsyncIterator[tuple[Client, asyncio.Task[None]]]:
    """A client of a server that has been told to go, and no longer listens; `used`: after a request."""
    sockets = listening("127.0.0.1", 0)
    config = uvicorn.Config(answer, http=FirstRequest, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    async with within(10), asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets))
        reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
        client = Client(reader, writer)
        try:
            if used:
                await client.ask()
            else:
                while not server.server_state.connections:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.005)
            server.should_exit = True
            while sockets[0].fileno() >= 0:  # noqa: ASYNC110 - nor for this
                await asyncio.sleep(0.005)
            yield client, serving
        finally:
            writer.close()


async def test_a_new_connection_is_answered_once_at_shutdown() -> None:
    async with going(used=False) as (client, _):
        head = await client.ask()
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in head.lower()
        assert await client.rest() == b""


async def test_a_silent_connection_ends_soon_at_shutdown() -> None:
    async with going(used=False) as (client, serving):
        assert await client.rest() == b""
        async with within(2):
            await serving


async def test_a_connection_that_is_kept_is_closed_at_once() -> None:
    async with going(used=True) as (client, serving):
        assert await client.rest() == b""
        await serving
