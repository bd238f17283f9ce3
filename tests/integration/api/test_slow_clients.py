"""Slow clients are evicted within the send timeout."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx

from eventsync.settings import Settings
from support.systems import running_system
from support.waiting import patience, within


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
        assert written, "it was put out because of what it did not take"
