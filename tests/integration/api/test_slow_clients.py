"""Slow clients are evicted within the send timeout."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from eventsync.settings import Settings
from support.raw_websocket import TEXT, frame, raw_websocket
from support.systems import running_system
from support.waiting import patience, scaled, within

pytestmark = pytest.mark.slow


async def test_event_stream_of_a_slow_client_is_ended(settings: Settings) -> None:
    settings = settings.model_copy(update={"collections": ("docs",), "send_timeout": 0.3})
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect((urlsplit(url).hostname, urlsplit(url).port))
            plain.sendall(b"GET /v1/sync/sse?shape=docs HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not (await client.get("/readyz")).json()["connections"]:
                continue
            written = 0
            async with within(30):
                while (await client.get("/readyz")).json()["connections"]:
                    path = f"/v1/collections/docs/documents/{written}"
                    (await client.put(path, json={"text": "x" * 100_000})).raise_for_status()
                    written += 1
        assert written, "it was evicted because of what it did not take"


async def test_websocket_client_that_still_accepts_data_is_not_closed_for_a_missing_pong(settings: Settings) -> None:
    """A ping waits behind the data. Once all has arrived, a client that answers no ping is closed as ever."""
    size, limit = 1_000_000, scaled(1.0)
    changed = {"collections": ("docs",), "heartbeat": limit, "pong_timeout": limit, "send_timeout": 60.0}
    settings = settings.model_copy(update=changed)
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        (await client.put("/v1/collections/docs/documents/large", json={"text": "x" * size})).raise_for_status()
        async with raw_websocket(url, receive_buffer=4096) as opened:
            await opened.send(frame(TEXT, b'{"type":"hello","shapes":["docs"]}'))
            read = 0
            # At least 244 reads, so more than four limits, in which pings have to wait.
            while read < size:
                read += len(got := await opened.reader.read(4096))
                assert got, f"it was closed after {read} bytes"
                await asyncio.sleep(limit / 50)
            await opened.send(frame(TEXT, b'{"type":"ping"}'))
            async with within(30):
                rest = b""
                while b'{"type":"pong"}' not in rest:
                    rest += (got := await opened.reader.read(4096))
                    assert got, "it was closed"
                rest += await opened.reader.read()
            assert b"\x88" in rest
            assert (4503).to_bytes(2, "big") in rest
