"""Long polls: one ends with its client, and counts as a connection while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from eventsync.server.uvicorn_server import Server
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.logs_by_hand import begun
from support.systems import followed, head, serving
from support.waiting import eventually, patience

HOUR = 3600.0
"""Longer than any test waits: a poll that ends in a test does so for another reason."""


@asynccontextmanager
async def server_of(settings: Settings, stores: Stores, **changed: int) -> AsyncIterator[Server]:
    await begun(stores, "docs")
    async with serving(settings.model_copy(update={"poll_wait": HOUR, **changed})) as server:
        await followed(server.url)
        yield server


async def path_of(url: str) -> str:
    return f"/v1/sync/log?shape=docs&position={await head(url)}"


@asynccontextmanager
async def waiting_poll(server: Server, path: str) -> AsyncIterator[None]:
    """A poll that waits for the next event; its client disconnects at the end of the block."""
    address = urlsplit(server.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"GET {path}&wait={HOUR} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
    async with httpx.AsyncClient(base_url=server.url, timeout=patience(20)) as client:

        async def is_waiting() -> bool:
            return 'eventsync_connections{transport="poll"} 1.0\n' in (await client.get("/metrics")).text

        try:
            await eventually(is_waiting)
            yield
        finally:
            writer.transport.abort()


async def test_poll_ends_when_its_client_disconnects(settings: Settings, stores: Stores) -> None:
    async with server_of(settings, stores) as server:
        path = await path_of(server.url)
        async with waiting_poll(server, path):
            pass
        await eventually(lambda: not server.server_state.tasks)


async def test_waiting_poll_counts_as_a_connection(settings: Settings, stores: Stores) -> None:
    async with (
        server_of(settings, stores, max_connections=1) as server,
        httpx.AsyncClient(base_url=server.url, timeout=patience(20)) as client,
    ):
        path = await path_of(server.url)
        async with waiting_poll(server, path):
            refused = await client.get(f"{path}&wait=30")
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert "event: error" in (await client.get("/v1/sync/sse?shape=docs")).text
            assert (await client.get(path)).json()["events"] == []  # it does not wait
        await eventually(lambda: not server.server_state.tasks)
        async with client.stream("GET", "/v1/sync/sse?shape=docs") as stream:
            lines = stream.aiter_lines()
            while await anext(lines) != "event: live":  # a refused stream ends without one
                continue
            assert (await client.get(f"{path}&wait=30")).status_code == 503
