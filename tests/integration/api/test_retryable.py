"""Temporary refusals: in band on an event stream, and in the form of each other transport."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from eventsync.domain.protocol import SUBPROTOCOL
from eventsync.server import refusals
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync.sync.sessions.sessions import Sessions
from support.logs_by_hand import begun
from support.peers.python import connect
from support.systems import followed, running_server
from support.waiting import patience, within

SSE = "/v1/sync/sse?shape=docs"


def said(body: str) -> dict[str, Any]:
    """The one message of a stream that was refused in band: `retry`, then `error` without an id, then nothing."""
    found = re.fullmatch(r"retry: (\d+)\nevent: error\ndata: (\{.*\})\n\n", body)
    assert found, body
    message: dict[str, Any] = json.loads(found[2])
    assert message["type"] == "error"
    assert message["message"]
    assert int(found[1]) >= max(1000, 1000 * message.get("retry_after", 0))
    return message


async def refused_sse(url: str, path: str = SSE, **headers: str) -> tuple[httpx.Response, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        answer = await client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    return answer, said(answer.text)


async def refused_websocket(opened: ClientConnection) -> tuple[dict[str, Any], int]:
    """The error before the close, and the close's code."""
    assert opened.subprotocol == SUBPROTOCOL
    told = None
    try:
        async with within(20):
            async for text in opened:
                told = json.loads(text)
    except ConnectionClosed:
        pass
    assert told is not None
    assert opened.close_reason
    return told, opened.close_code or 0


@asynccontextmanager
async def websocket(url: str, shape: str | None = "docs") -> AsyncIterator[ClientConnection]:
    address = url.replace("http", "ws") + "/v1/sync"
    async with connect(address, subprotocols=[Subprotocol(SUBPROTOCOL)]) as opened:
        if shape:
            await opened.send(json.dumps({"type": "hello", "shapes": [shape]}))
        yield opened


async def refused_poll(url: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        answer = await client.get("/v1/sync/log", params={"shape": "docs", "position": "aaaaaaaa:0"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    return answer


async def test_transports_refuse_retryably_before_there_is_a_log(settings: Settings) -> None:
    async with running_server(settings) as url:
        _, message = await refused_sse(url)
        assert message["code"] == "unavailable"
        async with websocket(url) as opened:
            told, code = await refused_websocket(opened)
        assert (told["type"], told["code"], code) == ("error", "unavailable", 1013)
        assert told["retry_after"] > 0
        await refused_poll(url)


@pytest.mark.slow
async def test_transports_refuse_retryably_before_mongodb_is_reached(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"mongodb_uri": "mongodb://127.0.0.1:1/?replicaSet=rs0"})
    async with running_server(nowhere) as url:
        assert (await refused_sse(url))[1]["code"] == "unavailable"
        async with websocket(url) as opened:
            assert (await refused_websocket(opened))[1] == 1013
        await refused_poll(url)


async def test_transports_refuse_retryably_while_tracking_begins(settings: Settings, stores: Stores) -> None:
    await begun(stores, "others")
    await stores.tracking.ask(["docs"])
    async with running_server(settings) as url:
        await followed(url)
        _, message = await refused_sse(url, "/v1/sync/sse?shape=others&shape=docs")
        assert "docs" in message["message"]
        await refused_poll(url)
        async with websocket(url) as opened:
            await opened.recv()
            told = json.loads(await opened.recv())
        assert (told["type"], told["shape"], told["retry_after"] > 0) == ("error", "docs", True)
        async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
            assert (await client.get("/v1/sync/sse?shape=nothing")).status_code == 404


async def test_transports_refuse_retryably_at_max_connections(settings: Settings, stores: Stores) -> None:
    await begun(stores, "docs")
    async with running_server(settings.model_copy(update={"max_connections": 1})) as url:
        await followed(url)
        async with websocket(url) as first:
            assert json.loads(await first.recv())["type"] == "welcome"
            assert (await refused_sse(url))[1]["retry_after"] > 0
            async with websocket(url) as opened:
                told, code = await refused_websocket(opened)
            assert (told["type"], code) == ("error", 1013)
            assert told["retry_after"] > 0


async def test_transports_refuse_retryably_after_an_internal_error(
    settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begun(stores, "docs")

    async def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Sessions, "_identity", fails)
    async with running_server(settings) as url:
        await followed(url)
        assert (await refused_sse(url))[1]["code"] == "internal"


@asynccontextmanager
async def full(settings: Settings, **changed: Any) -> AsyncIterator[str]:
    """A server that has as many TCP connections as it may, all of them silent."""
    async with running_server(settings.model_copy(update={"max_sockets": 2, **changed})) as url:
        address = urlsplit(url)
        writers = [(await asyncio.open_connection(address.hostname, address.port))[1] for _ in range(2)]
        try:
            yield url
        finally:
            for writer in writers:
                writer.transport.abort()


async def test_transports_refuse_retryably_at_max_sockets(settings: Settings) -> None:
    async with full(settings) as url:
        answer, message = await refused_sse(url)
        assert (message["code"], message["retry_after"] > 0) == ("unavailable", True)
        assert answer.headers["x-content-type-options"] == "nosniff"
        # By what is asked for as well as by where.
        await refused_sse(url, "/elsewhere", accept="text/event-stream")
        async with websocket(url, shape=None) as opened:
            told, code = await refused_websocket(opened)
        assert (told["type"], told["code"], code) == ("error", "unavailable", 1013)
        await refused_poll(url)


async def test_refused_socket_may_send_its_head_in_pieces(settings: Settings) -> None:
    async with full(settings) as url:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        for piece in (b"GET /v1/sync/", b"sse?shape=a HTTP/1.1\r\nHost: x\r\nAcc", b"ept: */*\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        async with within(10):
            whole = (await reader.read(-1)).decode()
        writer.close()
    assert whole.startswith("HTTP/1.1 200 OK\r\n")
    said(whole.partition("\r\n\r\n")[2])


async def test_refusal_is_readable_by_a_page_of_a_listed_origin(settings: Settings) -> None:
    async with full(settings, allowed_origins=("https://app.example",)) as url:
        answer, _ = await refused_sse(url, origin="https://app.example")
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["vary"] == "Origin"
        answer, _ = await refused_sse(url, origin="https://evil.example")
        assert "access-control-allow-origin" not in answer.headers
        async with connect(
            url.replace("http", "ws") + "/v1/sync",
            origin=Origin("https://app.example"),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
        ) as opened:
            assert (await refused_websocket(opened))[1] == 1013


async def test_refused_socket_with_an_endless_head_is_answered(settings: Settings) -> None:
    async with full(settings) as url:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * refusals.MAX_HEAD)
        async with within(10):
            assert (await reader.read(-1)).startswith(b"HTTP/1.1 503 ")
        writer.close()
