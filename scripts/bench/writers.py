"""Writers of a benchmark: documents one after the other at their intended times, over HTTP or directly into MongoDB."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

import orjson
from pymongo import WriteConcern
from pymongo.asynchronous.collection import AsyncCollection

from scripts.bench.clients.exactness import SHAPE, WrongError, document
from scripts.bench.clients.processes import Process
from scripts.bench.clients.wire import Response
from scripts.bench.report import Figures

Make = Callable[[int, float], dict[str, Any]]
"""The document of a number that was meant to be made at a time, by the monotonic clock."""

Write = Callable[[int, float], Awaitable[None]]
"""Makes the document of a number, with the time at which it was meant to be made; returns once that is acknowledged."""

PATIENCE: Final = 60.0
"""Seconds within which all clients have an event."""

RETRY_AFTER: Final = 1.0
"""Seconds before a write that a server had no room for is made again, as its answer says. They count as its delay."""

MINIMAL: Final = {"Prefer": "return=minimal"}
DOCUMENTS: Final = f"/v1/collections/{SHAPE}/documents"


async def paced(count: int, rate: float) -> AsyncIterator[tuple[int, float]]:
    """Yield 0, 1, 2 … with the time at which each is due, then; `rate` a second."""
    began = time.monotonic()
    for number in range(count):
        due = began + number / rate
        await asyncio.sleep(due - time.monotonic())
        yield number, due


async def open_loop(write: Write, first: int, count: int, rate: float) -> list[float]:
    """Make `count` writes, each at its time; return the ms from that until it was acknowledged."""
    lags: list[float] = []

    async def one(number: int, due: float) -> None:
        await write(number, due)
        lags.append((time.monotonic() - due) * 1000)

    async with asyncio.TaskGroup() as group:
        async for number, due in paced(count, rate):
            group.create_task(one(first + number, due), name="write")
    return lags


async def closed_loop(write: Write, first: int, together: int, seconds: float) -> list[float]:
    """Write for `seconds` by `together` writers, each its next one once its last is acknowledged; ms each took."""
    took: list[float] = []
    numbers, over = itertools.count(first), time.monotonic() + seconds

    async def one() -> None:
        while (began := time.monotonic()) < over:
            await write(next(numbers), began)
            took.append((time.monotonic() - began) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(together):
            group.create_task(one(), name="write")
    return took


async def received(clients: Process, head: int, writes: Awaitable[list[float]]) -> tuple[list[float], Figures, float]:
    """Await writes after event `head`; return ms until each was acknowledged, how late clients were, and the seconds.

    Raises `WrongError` unless each client receives each write once.
    """
    began = time.monotonic()
    acks = await writes
    took = time.monotonic() - began
    await clients.ask("exact", seq=head + len(acks), seconds=PATIENCE)
    return acks, await clients.ask("delays"), took


def inserting(collection: AsyncCollection[Any], make: Make = document) -> Write:
    """Write into MongoDB, past eventsync; majority, journaled."""
    docs = collection.with_options(write_concern=WriteConcern("majority", j=True))

    async def write(number: int, at: float) -> None:
        await docs.insert_one(make(number, at))

    return write


def posting(
    port: int, path: str = DOCUMENTS, headers: dict[str, str] = MINIMAL, make: Make = document
) -> AbstractAsyncContextManager[Write]:
    """`POST` a document to `path`, by default eventsync's."""
    return requesting(port, "POST", lambda _: path, {"Content-Type": "application/json", **headers}, make)


@asynccontextmanager
async def requesting(
    port: int, method: str, path: Callable[[int], str], headers: dict[str, str], make: Make, connections: int = 16
) -> AsyncIterator[Write]:
    """Send requests over connections that are kept open, made by hand: a client library would be what is measured.

    `path`: of the request about a number.
    """
    free: asyncio.Queue[_Connection] = asyncio.Queue()
    lines = [f"Host: 127.0.0.1:{port}", *(f"{name}: {value}" for name, value in headers.items()), "Content-Length: "]
    head = " HTTP/1.1\r\n" + "\r\n".join(lines)
    async with AsyncExitStack() as stack:
        for _ in range(connections):
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
            stack.callback(connection.close)
            free.put_nowait(connection)

        async def write(number: int, at: float) -> None:
            connection, body = await free.get(), orjson.dumps(make(number, at))
            request = f"{method} {path(number)}{head}{len(body)}\r\n\r\n".encode() + body
            while not await connection.request(request):  # noqa: ASYNC110 - as the answer says
                await asyncio.sleep(RETRY_AFTER)
            free.put_nowait(connection)

        yield write


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def request(self, data: bytes) -> bool:
        """Return if the write was taken; False where the server had too many. Raises `WrongError` for other answers."""
        self._response = Response()
        self._answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        body, response = self._response.feed(data), self._response
        if response.complete and (200 <= response.status < 300 or b'"code":"overloaded"' in body):
            self._answered.set_result(response.status < 300)
        elif response.complete:
            self._answered.set_exception(WrongError(f"a write was answered {response.status} {body[:200]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered.done():
            self._answered.set_exception(WrongError(f"a connection ended while a write was under way: {exc!r}"))

    def close(self) -> None:
        self._transport.abort()
