"""Early refusals reach a client that still sends, within bounds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from eventsync.server import lingering
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.logs_by_hand import begun
from support.raw_websocket import TEXT, frame
from support.systems import followed, running_server
from support.waiting import patience, within

MIB = 1024 * 1024
MUCH = 24 * MIB
"""Far more than a body may have, and than the kernel holds for either side."""

POST = b"POST /v1/collections/docs/documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ANNOUNCED = b"Content-Length: %d\r\n\r\n" % MUCH
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"1" * 65536 + b"\r\n"
BODY = b"1" * 65536
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /v1/sync HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
FRAME = frame(TEXT, b"x" * 65000)

REFUSALS = {
    "413 of an announced body": (POST + ANNOUNCED, BODY, b" 413 "),
    "413 of a body in chunks": (POST + CHUNKED, CHUNK, b" 413 "),
    "413 behind another request": (GET + POST + ANNOUNCED, BODY, b" 413 "),
    "413 and the end": (POST + b"Connection: close\r\n" + ANNOUNCED, BODY, b" 413 "),
    "413 by HTTP/1.0": (POST.replace(b"/1.1", b"/1.0") + ANNOUNCED, BODY, b" 413 "),
    "415": (POST.replace(b"/json", b"/xml") + ANNOUNCED, BODY, b" 415 "),
    "415 and the end": (POST.replace(b"/json", b"/xml") + b"Connection: close\r\n" + CHUNKED, CHUNK, b" 415 "),
    "404": (POST.replace(b"/docs/", b"/none/") + CHUNKED, CHUNK, b" 404 "),
    "405": (POST.replace(b"POST", b"PUT") + ANNOUNCED, BODY, b" 405 "),
    "400 of a length": (POST + b"Content-Length: many\r\n\r\n", BODY, b" 400 "),
    "400 behind another request": (GET + b"\x00", BODY, b" 400 "),
    "400 of a chunk": (POST + CHUNKED + b"junk", BODY, b" 400 "),
    "431 of one field": (POST + b"x: ", BODY, b" 431 "),
    "431 of many": (POST, b"a: b\r\n" * 10_000, b" 431 "),
    "431 behind another request": (GET + POST + b"x: ", BODY, b" 431 "),
    "200 of a GET with a body": (GET.replace(b"\r\n\r\n", b"\r\n" + ANNOUNCED), BODY, b" 200 "),
    "200 and the end": (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), GET * 1000, b" 200 "),
    "a handshake that is refused": (UPGRADE.replace(b"/sync", b"/none") + b"\r\n", FRAME, b" 404 "),
    "a handshake that is none": (UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"?") + b"\r\n", FRAME, b" 400 "),
    "a handshake from elsewhere": (UPGRADE + b"Origin: https://elsewhere\r\n\r\n", FRAME, b"\x11\x33"),
    "frames that are none behind a handshake": (UPGRADE + b"\r\n" + frame(TEXT, b"{}"), b"\xff" * 65536, b" 400 "),
}
"""Data sent first, data sent repeatedly after it, and a part of the response."""

FRAMES = {
    "frames that are none": (b"", b"\xff" * 65536, b"\x03\xea"),
    "text that is none": (b"", frame(TEXT, b"\xff") + frame(TEXT, b"x" * 65000), b"\x03\xef"),
    "a frame that is too large": (b"\x81\xff\x00\x00\x00\x00\x40\x00\x00\x00mask", BODY, b"\x03\xf1"),
    "fragments that are too many": (frame(TEXT, b"", fin=False), frame(0, b"", fin=False) * 10_000, b"\x11\x3d"),
}
"""The same after an accepted handshake; the response has the close code."""


@pytest.fixture
async def url(stores: Stores, settings: Settings) -> AsyncIterator[str]:
    await begun(stores, "docs")
    async with running_server(settings) as served:
        await followed(served)
        yield served


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), patience(30)) as opened:
        yield opened


def sent_in_full(url: str, begin: bytes, piece: bytes, size: int = MUCH, *, upgraded: bool = False) -> bytes:
    """Send all, and read only then: until the server ends the connection, in order."""
    with connected(url) as opened:
        if upgraded:
            opened.sendall(UPGRADE + b"\r\n")
            assert b" 101 " in opened.recv(65536)
        opened.sendall(begin)
        for _ in range(max(1, size // len(piece))):
            opened.sendall(piece)
        opened.shutdown(socket.SHUT_WR)
        found = b""
        while block := opened.recv(65536):
            found += block
    return found


async def answers_without(url: str, cases: dict[str, tuple[bytes, bytes, bytes]], *, upgraded: bool) -> dict[str, Any]:
    """Return what came, where it is not what each of the cases expects; all are sent at the same time."""
    sending = [
        asyncio.to_thread(sent_in_full, url, begin, piece, upgraded=upgraded) for begin, piece, _ in cases.values()
    ]
    answers = await asyncio.gather(*sending, return_exceptions=True)
    return {
        name: answer
        for (name, (_, _, expected)), answer in zip(cases.items(), answers, strict=True)
        if isinstance(answer, BaseException) or expected not in answer
    }


async def test_early_response_reaches_a_client_that_still_sends(url: str) -> None:
    assert await answers_without(url, REFUSALS, upgraded=False) == {}


async def test_close_code_reaches_a_client_that_still_sends_frames(url: str) -> None:
    assert await answers_without(url, FRAMES, upgraded=True) == {}


async def test_early_responses_reach_many_clients_at_a_time(url: str) -> None:
    begin, piece, expected = REFUSALS["413 of an announced body"]
    answers = await asyncio.gather(*(asyncio.to_thread(sent_in_full, url, begin, piece) for _ in range(20)))
    assert all(expected in answer for answer in answers)


async def test_client_that_sends_for_ever_is_cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "MAX_BYTES", 4 * MIB)
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(sent_in_full, url, POST + b"x: ", BODY, 1024 * MIB)


async def test_lingering_is_bounded_in_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(lingering, "SILENCE", 0.1)
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(POST + b"x: " + BODY)
    async with within(10):
        assert b" 431 " in await reader.read()
    async with within(30):
        with pytest.raises(ConnectionError):
            await sent_for_ever(writer)


async def sent_for_ever(writer: asyncio.StreamWriter) -> None:
    """Send a byte in every few turns, so that the client is never silent for long."""
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def test_silent_client_is_closed_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    class Watched(lingering.Lingering):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            ended.set()

    monkeypatch.setattr(lingering, "Lingering", Watched)
    monkeypatch.setattr(lingering, "SILENCE", 0.1)
    with connected(url) as opened:
        opened.sendall(POST + b"x: " + BODY)
        assert b" 431 " in await asyncio.to_thread(opened.recv, 65536)
        async with within(10):
            await ended.wait()


async def test_number_of_lingering_connections_is_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "MAX_LINGERING", 1)
    with connected(url) as first:
        await asyncio.to_thread(first.sendall, POST + b"x: " + BODY)
        assert b" 431 " in await asyncio.to_thread(first.recv, 65536)
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(sent_in_full, url, POST + b"x: ", BODY)
        # The first one still lingers.
        await asyncio.to_thread(first.sendall, BODY * 100)
