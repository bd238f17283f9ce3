"""Writers of a benchmark: documents one after the other at their intended times, over HTTP or directly into MongoDB."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from pymongo import WriteConcern
from pymongo.asynchronous.collection import AsyncCollection

from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.messages import WrongError

Make = Callable[[int, float], dict[str, Any]]
"""The document of a number that was meant to be made at a time."""

Write = Callable[[int, float], Awaitable[None]]
"""Makes the document of a number, with the time at which it was meant to be made; returns once that is acknowledged."""

SIZE = 300
_CONNECTIONS = 16


def document(number: int, at: float) -> dict[str, Any]:
    """A document of about `SIZE` bytes."""
    return {"_id": number, "n": number, "at": at, "text": "x" * (SIZE - 60)}


async def open_loop(write: Write, first: int, count: int, rate: float) -> list[float]:
    """`count` writes at `rate` a second, whatever becomes of those before; ms from each's intended time until it was
    acknowledged."""
    lags: list[float] = []

    async def one(number: int, due: float) -> None:
        await write(number, due)
        lags.append((time.monotonic() - due) * 1000)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            due = began + number / rate
            await asyncio.sleep(due - time.monotonic())
            group.create_task(one(first + number, due), name="write")
    return lags


def straight(collection: AsyncCollection[Any], make: Make = document) -> Write:
    """Into MongoDB, past eventsync; majority, journaled."""
    docs = collection.with_options(write_concern=WriteConcern("majority", j=True))

    async def write(number: int, at: float) -> None:
        await docs.insert_one(make(number, at))

    return write


def over_http(port: int) -> AbstractAsyncContextManager[Write]:
    """`POST` to eventsync."""
    return posting(port, f"/v1/collections/{SHAPE}/documents", {"Prefer": "return=minimal"})


@asynccontextmanager
async def posting(port: int, path: str, headers: Mapping[str, str], make: Make = document) -> AsyncIterator[Write]:
    """`POST`, over connections that are kept open; by hand, because a client library would be what is measured."""
    free: asyncio.Queue[_Connection] = asyncio.Queue()
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json"]
    head = "".join(
        line + "\r\n" for line in [*lines, *(f"{name}: {value}" for name, value in headers.items())]
    ).encode()
    async with AsyncExitStack() as stack:
        for _ in range(_CONNECTIONS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            free.put_nowait(_Connection(reader, writer, head))

        async def write(number: int, at: float) -> None:
            connection = await free.get()
            await connection.post(orjson.dumps(make(number, at)))
            free.put_nowait(connection)

        yield write


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._head = head

    async def post(self, body: bytes) -> None:
        """Raises `WrongError` where nothing was made."""
        self._writer.write(self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        rest = await self._reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
        if not head.startswith(b"http/1.1 201 "):
            raise WrongError(f"a write was answered {head[:40]!r} {rest[:200]!r}")
