"""Draining: each client gets a goodbye, requests under way are answered, and the time is bounded."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from eventsync.api import sse
from eventsync.main import make_server
from eventsync.mongodb.client import Client
from eventsync.server.sockets import listening
from eventsync.server.uvicorn_server import Server
from eventsync.settings import Settings
from support.peers.python import connect
from support.replica import seq_of
from support.systems import head, running_worker, tracked
from support.waiting import within

SHAPE = "things"
DRAIN = 2.0
SOON = 1.5
"""Seconds that a server with nobody to wait for may take, on a busy machine."""


@dataclass(frozen=True)
class Going:
    url: str
    port: int
    server: Server
    serving: asyncio.Task[None]

    def begin(self) -> None:
        self.server.should_exit = True

    async def ended(self, seconds: float) -> None:
        async with within(seconds):
            await self.serving


@pytest.fixture
async def going(settings: Settings) -> AsyncIterator[Going]:
    chosen = settings.model_copy(update={"collections": (SHAPE,), "drain_timeout": DRAIN, "send_timeout": 60.0})
    async with running_worker(chosen), _served(chosen) as found:
        await tracked(found.url, chosen.collections)
        yield found


@asynccontextmanager
async def _served(settings: Settings) -> AsyncIterator[Going]:
    server, sockets = make_server(settings), listening("127.0.0.1", 0)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets))
        async with within(20):
            await server.serving()
        try:
            yield Going(server.url, int(server.url.rpartition(":")[2]), server, serving)
        finally:
            server.should_exit = True


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


class Raw:
    """A connection by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def get(cls, port: int, path: str) -> Raw:
        return await cls.says(port, request(path))

    @classmethod
    async def says(cls, port: int, text: bytes) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", port))
        raw.writer.write(text)
        return raw

    async def until(self, mark: bytes) -> bytes:
        async with within(10):
            return await self._reader.readuntil(mark)

    async def rest(self) -> bytes:
        try:
            async with within(10):
                return await self._reader.read()
        finally:
            self.writer.close()


async def test_drain_ends_each_connection_with_its_own_message(going: Going) -> None:
    streams = [await Raw.get(going.port, f"/v1/sync/sse?shape={SHAPE}") for _ in range(20)]
    for stream in streams:
        await stream.until(b"event: live")
    position = await head(going.url)
    poll = await Raw.get(going.port, f"/v1/sync/log?shape={SHAPE}&position={position}&wait=30")
    idle = await Raw.get(going.port, "/healthz")
    await idle.until(b'{"status":"ok"}')
    async with connect(f"ws://127.0.0.1:{going.port}/v1/sync") as following:
        await following.send(json.dumps({"type": "hello", "shapes": [SHAPE]}))
        while json.loads(await following.recv())["type"] != "live":
            continue
        async with within(10):
            # One task a stream, the WebSocket and the poll that waits.
            while len(going.server.server_state.tasks) < len(streams) + 2:  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0.005)
        going.begin()
        with pytest.raises(ConnectionClosed):
            await _rest(following)
        assert following.close_code == 1012
    assert b'"events":[]' in await poll.rest()
    assert await idle.rest() == b""
    waits = [_retry(await stream.rest()) for stream in streams]
    assert all(1000 <= wait <= 3000 for wait in waits)
    assert len(set(waits)) > 1, "they do not all come back at the same time"
    await going.ended(SOON)


async def _rest(following: ClientConnection) -> None:
    async with within(10):
        async for _ in following:
            continue


def _retry(rest: bytes) -> int:
    """The wait that the last line of a whole, chunked response gives. It is no event: no blank line follows it."""
    found = re.search(rb"\nretry: (\d+)\n\r\n0\r\n\r\n$", rest)
    assert found, rest[-200:]
    return int(found[1])


@pytest.mark.parametrize(("leaving", "latest"), [(1, 3000), (2000, 3000), (10_000, 11_000)])
def test_retry_after_drain_grows_with_the_number_of_clients(leaving: int, latest: int) -> None:
    waits = [sse.retry_after_drain(leaving) for _ in range(5000)]
    assert min(waits) >= 1000
    assert 0.9 * latest < max(waits) <= latest


@pytest.mark.slow
async def test_drain_does_not_wait_for_slow_clients_beyond_its_timeout(
    going: Going, client: Client, settings: Settings
) -> None:
    things = client[settings.database][SHAPE]
    await things.insert_many([{"_id": number, "text": "x" * 2**20} for number in range(12)])
    async with within(20):
        while seq_of(await head(going.url)) < 12:  # noqa: ASYNC110 - as for all that a worker does
            await asyncio.sleep(0.01)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    with deaf:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(deaf, ("127.0.0.1", going.port))
        await loop.sock_sendall(deaf, request(f"/v1/sync/sse?shape={SHAPE}"))
        # The first document is on its way. It, and all of them, are more than any buffer holds.
        heard = b""
        while len(heard) < 64 * 1024:
            heard += await loop.sock_recv(deaf, 4096)
        half = await Raw.says(going.port, request("/healthz")[:-2])
        silent = await Raw.says(going.port, b"")
        over = asyncio.Event()
        loop.call_later(DRAIN, over.set)
        going.begin()
        await going.ended(DRAIN + SOON)
        assert over.is_set(), "it was waited for"
        assert (await half.rest(), await silent.rest()) == (b"", b"")
