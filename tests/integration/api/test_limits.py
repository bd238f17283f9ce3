"""Limits of untrusted connections: their number, heads, messages and buffers."""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from eventsync.mongodb.client import Client
from eventsync.server.deadline import Deadline
from eventsync.server.limits import ConnectionLimits, tune
from eventsync.server.websocket_protocol import WebSocketProtocol
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.logs_by_hand import begun
from support.raw_websocket import CONTINUATION, PING, TEXT, RawWebSocket, frame, raw_websocket
from support.systems import followed, running_server
from support.waiting import patience, time_limits, within

HELLO = frame(TEXT, json.dumps({"type": "hello"}).encode())


@pytest.fixture(scope="module")
async def settings(mongodb_uri: str, client: Client) -> AsyncIterator[Settings]:
    """There is a log, so that a hello is welcome; no worker, because nothing happens in it."""
    limits: Any = time_limits()
    settings = Settings(mongodb_uri=mongodb_uri, database=f"limits_{secrets.token_hex(6)}", **limits)
    await begun(Stores.of(client, settings), "docs")
    yield settings
    await client.drop_database(settings.database)
    await client.drop_database(settings.log_db)


async def welcomed(opened: RawWebSocket) -> None:
    await opened.send(HELLO)
    assert b"welcome" in (await opened.receive())[1]


@asynccontextmanager
async def serving(settings: Settings, **changed: Any) -> AsyncIterator[str]:
    async with running_server(settings.model_copy(update=changed)) as url:
        await followed(url)
        yield url


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server ends the connection."""
    async with within(10):
        return await reader.read(-1)


REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answered(reader: asyncio.StreamReader) -> int:
    """The status of an answer with a body of known length, which is read."""
    async with within(10):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    return int(head.split()[1])


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", REQUEST[:-2]])
async def test_connection_without_a_request_head_is_closed(settings: Settings, sent: bytes) -> None:
    async with serving(settings, head_timeout=0.1) as url, connection(url) as (reader, writer):
        writer.write(sent)
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_connection_without_a_second_request_head_is_closed(settings: Settings) -> None:
    async with serving(settings, head_timeout=0.1) as url, connection(url) as (reader, writer):
        writer.write(REQUEST)
        assert await answered(reader) == 200
        # Between requests a connection may rest.
        await asyncio.wait({asyncio.create_task(reader.read(1))}, timeout=0.3)
    async with serving(settings, head_timeout=0.1) as url, connection(url) as (reader, writer):
        writer.write(REQUEST + REQUEST + REQUEST[:5])
        assert [await answered(reader), await answered(reader)] == [200, 200]
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


CUTS = {
    "one segment": lambda sent: [sent],
    "two segments": lambda sent: [sent[:1000], sent[1000:]],
    "within the blank line": lambda sent: [sent[:-2], sent[-2:]],
    "before the last byte": lambda sent: [sent[:-1], sent[-1:]],
    "many segments": lambda sent: [sent[start : start + 97] for start in range(0, len(sent), 97)],
    "behind another": lambda sent: [REQUEST + sent],
    "across two": lambda sent: [REQUEST + sent[:500], sent[500:]],
}


def padded(size: int) -> bytes:
    """A request whose head has so many bytes."""
    begin = REQUEST[:-2] + b"X-Large: "
    return begin + b"x" * (size - len(begin) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize("cut", CUTS.values(), ids=list(CUTS))
@pytest.mark.parametrize(("size", "status"), [(2000, 200), (2001, 431)])
async def test_head_limit_is_independent_of_tcp_segments(
    settings: Settings, cut: Callable[[bytes], list[bytes]], size: int, status: int
) -> None:
    async with serving(settings, head_bytes=2000) as url, connection(url) as (reader, writer):
        segments = cut(padded(size))
        for segment in segments:
            writer.write(segment)
            # A round trip on another connection: the server has read what was sent before.
            await health(url)
        if segments[0].startswith(REQUEST):
            assert await answered(reader) == 200
        assert await answered(reader) == status


async def health(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        (await client.get("/healthz")).raise_for_status()


@pytest.mark.parametrize(("fields", "status"), [(20, 200), (21, 431)])
async def test_head_with_too_many_fields_is_refused(settings: Settings, fields: int, status: int) -> None:
    async with serving(settings, head_fields=20) as url, connection(url) as (reader, writer):
        writer.write(REQUEST[:-2] + b"".join(b"a%d:\r\n" % number for number in range(fields - 1)) + b"\r\n")
        assert await answered(reader) == status


async def test_trailer_is_not_taken_for_a_header(settings: Settings) -> None:
    document = b'{"_id":"trailed"}'
    post = b"POST /v1/collections/docs/documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(document), document)
    async with serving(settings) as url, connection(url) as (reader, writer):
        writer.write(post + chunked + b"Prefer: return=minimal\r\nIdempotency-Key:\r\n\r\n" + REQUEST)
        assert [await answered(reader), await answered(reader)] == [201, 200]


async def test_pipelined_requests_are_answered_in_order(settings: Settings) -> None:
    posts = [
        b"GET /v1/sync HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\n\r\n\r\r\n0\r\n\r\n",
        b"PUT /v1/collections HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n\r\n\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    sent, wanted = b"".join([*posts, REQUEST] * 3), [426, 405, 404, 200] * 3
    async with serving(settings) as url:
        for size in (1, 7, 64, len(sent)):
            async with connection(url) as (reader, writer):
                for start in range(0, len(sent), size):
                    writer.write(sent[start : start + size])
                    await asyncio.sleep(0)
                assert [await answered(reader) for _ in wanted] == wanted


async def test_frames_sent_with_the_handshake_are_not_lost(settings: Settings) -> None:
    handshake = (
        b"GET /v1/sync HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with serving(settings) as url, connection(url) as (reader, writer):
        writer.write(handshake + HELLO)
        async with within(10):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert b"welcome" in await reader.readuntil(b"}")


async def test_connections_beyond_the_bound_are_refused(settings: Settings) -> None:
    async with running_server(settings.model_copy(update={"max_sockets": 2})) as url:
        async with raw_websocket(url), connection(url) as (reader, writer):
            writer.write(REQUEST)
            assert await answered(reader) == 200
            async with connection(url) as (refused, _):
                told = await rest(refused)
                assert told.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: " in told
        async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client, within(10):
            # As soon as the server has seen that they are gone.
            while (await client.get("/healthz")).status_code == 503:
                continue


async def test_connections_of_one_address_beyond_the_bound_are_refused() -> None:
    limits = ConnectionLimits(max_sockets=10, max_sockets_per_address=2, head_timeout=1, head_bytes=1)
    for address, refused in (("a", False), ("a", False), ("b", False), ("a", True)):
        limits.enter(address)
        assert limits.refuses(address) is refused
    limits.leave("a")
    limits.leave("a")
    limits.enter("a")
    assert not limits.refuses("a")
    for address in ("a", "a", "b"):
        limits.leave(address)
    assert limits == ConnectionLimits(max_sockets=10, max_sockets_per_address=2, head_timeout=1, head_bytes=1)


async def test_connections_inherit_the_socket_options() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tune(listener, 1.5)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
            assert 0 < accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) < 1 << 20


@asynccontextmanager
async def greeted(settings: Settings, **changed: Any) -> AsyncIterator[RawWebSocket]:
    """Open a WebSocket to a server that has said welcome."""
    async with serving(settings, **changed) as url, raw_websocket(url) as opened:
        await welcomed(opened)
        yield opened


async def test_client_above_the_message_rate_is_closed(settings: Settings) -> None:
    ping = frame(TEXT, b'{"type":"ping"}')
    async with greeted(settings, message_rate=1.0) as opened:
        for _ in range(5):
            await opened.send(ping)
            async with within(10):
                while b'"pong"' not in (await opened.receive())[1]:
                    pass  # `progress` may come between
        # At once: a slow machine would answer one after the other for ever.
        await opened.send(*[ping] * 100)
        assert await opened.closed() == 4429


async def test_flood_of_frames_is_closed(settings: Settings) -> None:
    async with greeted(settings) as opened:
        await opened.send(*[frame(TEXT, b"{}")] * 10_000)
        assert await opened.closed() == 4429


async def test_endless_fragments_are_closed(settings: Settings) -> None:
    async with greeted(settings) as opened:
        await opened.send(frame(TEXT, b"", fin=False), *[frame(CONTINUATION, b"", fin=False)] * 5000)
        assert await opened.closed() == 4413


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"{}", fin=False) + frame(TEXT, b"{}"), 1002),
        (frame(0x3, b"x"), 1002),
        (b"\xf1" + frame(TEXT, b"{}")[1:], 1002),
        (frame(TEXT, b"{}").replace(b"\x82", b"\x02"), 1002),
        (frame(TEXT, b"x" * 300_000), 1009),
        (frame(PING, b"x" * 126), 1002),
    ],
    ids=["bad UTF-8", "not continued", "opcode", "reserved bits", "not masked", "far too large", "control too large"],
)
async def test_frames_against_the_rfc_are_closed(settings: Settings, sent: bytes, code: int) -> None:
    async with greeted(settings) as opened:
        await opened.send(sent)
        assert await opened.closed() == code


async def test_client_without_pong_is_closed_and_can_resume(settings: Settings) -> None:
    async with greeted(settings, heartbeat=0.1, pong_timeout=0.1) as opened:
        assert await opened.closed() == 4503


async def test_client_has_longer_for_a_pong_than_a_heartbeat(settings: Settings) -> None:
    async with greeted(settings, heartbeat=0.05, pong_timeout=600.0) as opened, within(20):
        for _ in range(20):
            while b'"progress"' not in (await opened.receive())[1]:
                pass  # a ping; the end of the connection is an error


async def test_websocket_connection_keeps_nothing_of_its_handshake(settings: Settings) -> None:
    async with greeted(settings):
        connections = [
            one for one in gc.get_objects() if type(one) is WebSocketProtocol and not one.transport.is_closing()
        ]
        assert connections
        for one in connections:
            assert one.scope["headers"] == []
            assert not hasattr(one, "request")
            assert vars(one) == {}, "uvicorn keeps something new: it takes a slot"


async def test_pings_of_a_client_that_does_not_read_are_not_queued(settings: Settings) -> None:
    async with (
        serving(settings, message_rate=1e9, send_timeout=30.0) as url,
        raw_websocket(url, receive_buffer=4096) as opened,
    ):
        await welcomed(opened)
        opened.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(400):
            await opened.send(*[frame(PING, b"x" * 100)] * 400)
        connections = [one.transport for one in gc.get_objects() if type(one) is WebSocketProtocol]
        waiting = [one.get_write_buffer_size() for one in connections if not one.is_closing()]
        assert waiting
        assert max(waiting) < 1 << 20


async def test_request_leaves_nothing_for_the_garbage_collector(settings: Settings) -> None:
    """Otherwise each request keeps its body and its answer in memory until a collection, which delays all clients."""
    async with serving(settings) as url, connection(url) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            assert await answered(reader) == 200
        gc.collect()
        gc.disable()
        try:
            before = deadlines()
            for _ in range(50):
                writer.write(REQUEST)
                assert await answered(reader) == 200
            assert deadlines() <= before + 1
        finally:
            gc.enable()


def deadlines() -> int:
    """The number of requests that are in memory: each has a deadline."""
    return sum(type(found) is Deadline for found in gc.get_objects())
