"""A server that can't serve yet: no client gives up, and each `EventSource` reconnects by itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventsync.dev import mongod
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support import nginx
from support.nginx import documented, running_nginx
from support.peers.javascript import Node
from support.peers.makes import MAKES
from support.peers.peer import Peer
from support.peers.served import Served
from support.peers.talk import Copy, Talk, talking
from support.systems import running_server, running_worker
from support.waiting import STREAM_WAIT, within

everybody = pytest.mark.parametrize("peer", MAKES, indirect=True)
event_sources = pytest.mark.parametrize("peer", ["node-eventsource", "chromium-eventsource"], indirect=True)


async def comes_back(talk: Talk) -> None:
    """Until the client is live, however often it is sent away before. A client that gave up would say no more."""
    async with within(40):
        while not talk.copy.live:
            if await talk.next() is None:
                assert talk.link.ended is not None
                assert talk.link.ended.reason == "lost", "an EventSource that will not reconnect"
                talk.copy.disconnected()


@pytest.fixture
async def unserved(mongodb_uri: str, client: Client) -> AsyncIterator[Settings]:
    """Settings of a database that no worker has seen yet."""
    settings = Settings(
        mongodb_uri=mongodb_uri,
        database=f"later_{secrets.token_hex(6)}",
        collections=("orders",),
        checkpoint_interval=0.1,
        stream_wait=STREAM_WAIT,
    )
    yield settings
    await client.drop_database(settings.database)
    await client.drop_database(settings.log_db)


@everybody
async def test_each_transport_is_refused_retryably(peer: Peer, unserved: Settings) -> None:
    """ "whatever may go well later … 200, `retry`, `error`"; WebSocket: `error`, 1013; HTTP: 503."""
    async with running_server(unserved) as url, talking(peer, url, Copy("orders")) as talk:
        if peer.transport == "http":
            assert (await talk.over()).code == 503
            return
        error = await talk.until(lambda message: message["type"] == "error")
        assert error["code"] == "unavailable"
        assert error["retry_after"] > 0
        ended = await talk.over()
    assert ended.code == 1013 if peer.transport == "websocket" else ended.code in {None, 200}


@event_sources
async def test_event_source_survives_temporary_errors(peer: Peer, unserved: Settings, client: Client) -> None:
    """Get live by itself where the log is not there yet."""
    copy = Copy("orders")
    async with running_server(unserved) as url, talking(peer, url, copy) as talk:
        assert (await talk.until(lambda message: message["type"] == "error"))["code"] == "unavailable"
        async with running_worker(unserved):
            await comes_back(talk)
            await client[unserved.database]["orders"].insert_one({"_id": "first"})
            await talk.has("orders", "first")


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["node-eventsource"], indirect=True)
async def test_event_source_survives_a_server_at_max_sockets(peer: Peer, served: Served, node: Node) -> None:
    crowded = served.settings.model_copy(update={"max_sockets": 1})
    async with running_server(crowded) as url, AsyncExitStack() as stack:
        _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        talk = await stack.enter_async_context(talking(peer, url, Copy("orders")))
        assert (await talk.until(lambda message: message["type"] == "error"))["code"] == "unavailable"
        writer.transport.abort()
        await comes_back(talk)


@pytest.mark.slow
@pytest.mark.skipif(nginx.missing() is not None, reason=nginx.missing() or "")
@event_sources
async def test_event_source_survives_a_proxy_without_a_server(peer: Peer, served: Served, tmp_path: Path) -> None:
    """The documented nginx answers in the server's place while there is none."""
    port, copy = mongod.free_port(), Copy("orders")
    async with (
        running_nginx(tmp_path, f"http://127.0.0.1:{port}", documented()) as door,
        talking(peer, door.url, copy) as talk,
    ):
        assert (await talk.until(lambda message: message["type"] == "error"))["code"] == "unavailable"
        async with running_server(served.settings, port=port):
            await comes_back(talk)
        await talk.over()
        copy.disconnected()
        assert (await talk.until(lambda message: message["type"] == "error"))["message"] == "no server answers"
        async with running_server(served.settings, port=port):
            await comes_back(talk)
