"""The proxy, before a server that answers each chunk by the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from support.tcp_proxy import TcpProxy, tcp_proxy
from support.waiting import patience

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(1000):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[TcpProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, tcp_proxy(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as made:
        yield made


@asynccontextmanager
async def opened(proxy: TcpProxy, hello: bytes) -> AsyncIterator[Pair]:
    """A connection that has said who it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(hello)
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def connected(proxy: TcpProxy, hello: bytes) -> AsyncIterator[Pair]:
    """One that has been answered, too."""
    async with opened(proxy, hello) as pair:
        assert await asyncio.wait_for(pair[0].readexactly(len(hello)), patience(5)) == hello
        yield pair


async def answers(pair: Pair) -> bool:
    pair[1].write(b"ping")
    return await asyncio.wait_for(pair[0].read(4), patience(5)) == b"ping"


async def test_delayed_data_arrives_later_in_order_and_at_full_rate(proxy: TcpProxy) -> None:
    async with connected(proxy, b"hello") as (reader, writer):
        proxy.delay(0.2)
        sent = b""
        for number in range(400):
            sent += b"%03d" % number
            writer.write(b"%03d" % number)
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        # Each way once: a delay of each chunk would take minutes.
        assert await asyncio.wait_for(reader.readexactly(1200), patience(2)) == sent


async def test_only_the_named_connections_are_cut(proxy: TcpProxy) -> None:
    async with connected(proxy, b"..eventsync-worker..") as worker, connected(proxy, b"..Internal..") as peer:
        assert proxy.cut("eventsync-worker") == 1
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(worker[0].read(1), patience(5))
        assert await answers(peer)


async def test_held_bytes_arrive_late(proxy: TcpProxy) -> None:
    async with connected(proxy, b"eventsync-worker") as worker, connected(proxy, b"peer") as peer:
        assert proxy.hold("eventsync-.*") == 1
        worker[1].write(b"late")
        late = asyncio.create_task(worker[0].read(4))
        assert await answers(peer)
        assert not late.done(), "by now it would have arrived, too"
        proxy.release()
        assert await asyncio.wait_for(late, patience(5)) == b"late"


async def test_new_connections_are_held_too(proxy: TcpProxy) -> None:
    proxy.hold("eventsync-.*")
    async with opened(proxy, b"eventsync-lease") as lease:
        first = asyncio.create_task(lease[0].read(100))
        async with connected(proxy, b"peer"):
            assert not first.done()
        proxy.release()
        assert await asyncio.wait_for(first, patience(5)) == b"eventsync-lease"


async def test_a_target_that_is_down() -> None:
    async with tcp_proxy("http://127.0.0.1:1") as dead, opened(dead, b"hello") as (reader, _):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), patience(5))


async def test_answers_to_writes_are_lost_and_no_others(proxy: TcpProxy) -> None:
    write = b"\x02update\0name"
    async with connected(proxy, b"..eventsync-serve..") as server, connected(proxy, b"..eventsync-worker..") as worker:
        proxy.lose("eventsync-serve", 1)
        assert await answers(server), "no write"
        worker[1].write(write)
        assert await asyncio.wait_for(worker[0].readexactly(len(write)), patience(5)) == write, "another's write"
        server[1].write(write)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(server[0].read(1), patience(5))
    async with connected(proxy, b"..eventsync-serve..") as again:
        again[1].write(write)
        assert await asyncio.wait_for(again[0].readexactly(len(write)), patience(5)) == write, "one only"
