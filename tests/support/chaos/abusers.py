"""The nemesis of clients that ask for too much: every kind at once, at one server, for a bounded time."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import WebSocketException

from support.chaos.rig import Rig
from support.peers.python import connect

_TIME = 5.0
"""Seconds after which an abuser gives up."""

_JSON = {"content-type": "application/json"}
_PATCH = {"content-type": "application/json-patch+json"}
_BORNE = (OSError, httpx.HTTPError, WebSocketException, TimeoutError, asyncio.IncompleteReadError)


async def abuse_server(rig: Rig) -> None:
    """Ask one server for more than it allows, in every way; none of it changes a document."""
    url = rig.choose.choice(rig.fleet.urls)
    abuses = [*_requests(url), _pipeline(url), _trailers(url), _endless_head(url), _websocket(url), _deaf(url)]
    for answer in await asyncio.gather(*(_bounded(abuse) for abuse in abuses)):
        if answer:
            rig.ended[f"an abuse was answered {answer}"] += 1


async def _bounded(abuse: Any) -> int | None:
    with suppress(*_BORNE):
        async with asyncio.timeout(_TIME):
            found: int | None = await abuse
            return found
    return None


def _requests(url: str) -> list[Any]:
    document = f"{url}/v1/collections/orders/documents/o1"
    moves: list[dict[str, Any]] = [{"op": "add", "path": "/x", "value": [[0]] * 100_000}]
    moves += [{"op": "move", "from": f"/{a}", "path": f"/{b}"} for _ in range(499) for a, b in ("xz", "zx")]
    # It must never apply: whatever the budget says, no document changes.
    moves.append({"op": "test", "path": "/never", "value": 1})
    deep = "[" * 50_000 + "]" * 50_000
    return [
        _request("PUT", document, json.dumps({"s": "x" * 3_000_000}), _JSON),
        _request("PUT", document, '{"mark":' + deep + "}", _JSON),
        _request("PUT", document, "{" * 100_000, _JSON),
        _request("PATCH", document, json.dumps(moves), _PATCH),
        _request("GET", f"{url}/v1/collections/orders/documents?limit=100000000", None, {}),
        _request("GET", f"{url}/v1/sync/log?shape=orders&position={'9' * 30_000}:1", None, {}),
        _request("PUT", f"{url}/v1/state-vectors/{'c' * 5000}", json.dumps({"vector": {}}), _JSON),
    ]


async def _request(method: str, url: str, body: str | None, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(timeout=_TIME) as client:
        return (await client.request(method, url, content=body, headers=headers)).status_code


async def _send(url: str, *chunks: bytes) -> None:
    """Send the chunks, read nothing, and go."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        await reader.read(1)
    finally:
        writer.transport.abort()


async def _pipeline(url: str) -> None:
    await _send(url, *[b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000] * 50)


async def _trailers(url: str) -> None:
    head = b"PUT /v1/collections/orders/documents/o1 HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    extensions = [b"1;" + b"e" * 4000 + b"\r\n \r\n"] * 500
    trailers = [b"X-Trailer: " + b"t" * 4000 + b"\r\n"] * 500
    await _send(url, head, *extensions, b"0\r\n", *trailers)


async def _endless_head(url: str) -> None:
    await _send(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *[b"X: " + b"h" * 4000 + b"\r\n"] * 500)


async def _websocket(url: str) -> None:
    async with connect(url.replace("http", "ws", 1) + "/v1/sync", subprotocols=["eventsync.v1"]) as socket:
        await socket.send(json.dumps({"type": "hello", "shapes": [f"orders/{n}" for n in range(50_000)]}))
        while True:
            await socket.recv()


async def _deaf(url: str) -> None:
    """Follow everything, and read nothing of it."""
    await _send(url, b"GET /v1/sync/sse?shape=orders&shape=stock HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(_TIME)
