"""`GET /v1/sync`: handshake, messages, limits and close codes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from eventsync.stores.stores import Stores
from support.peers.python import connect
from support.systems import events_of, tracked
from support.waiting import patience, within

NewId = Callable[[], str]


@asynccontextmanager
async def opened(served: Any, **options: Any) -> AsyncIterator[ClientConnection]:
    address = served.url.replace("http", "ws") + "/v1/sync"
    async with connect(address, subprotocols=[Subprotocol("eventsync.v1")], **options) as socket:
        yield socket


async def send(connection: ClientConnection, **message: Any) -> None:
    await connection.send(json.dumps(message))


async def receive(connection: ClientConnection, *kinds: str) -> Any:
    """The next message that is of one of `kinds`."""
    async with within(10):
        async for text in connection:
            message = json.loads(text)
            if message["type"] in kinds:
                return message
    raise AssertionError("the connection ended")


async def closed(connection: ClientConnection) -> int:
    """The code that the server closes with."""
    async with within(10):
        with suppress(ConnectionClosed):
            while True:
                await connection.recv()
    assert connection.close_code is not None
    return connection.close_code


async def test_hello_leads_to_live(served: Any, api: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    await api.put(f"/{key}", json={"n": 1})
    shape = f"things/{key}"
    await events_of(served.url, shape, 1)
    async with opened(served) as connection:
        assert connection.subprotocol == "eventsync.v1"
        assert connection.protocol.extensions == []
        await send(connection, type="hello", client_id="me", shapes=[shape])
        welcome = json.loads(await connection.recv())
        assert welcome["type"] == "welcome"
        assert welcome | {"session": ""} == {
            "type": "welcome", "session": "", "client_id": "me", "protocol": 1, "heartbeat": 1.0, "vector": {},
        }  # fmt: skip
        snapshot = json.loads(await connection.recv())
        assert snapshot["type"] == "snapshot"
        while (message := json.loads(await connection.recv()))["type"] != "live":
            assert message["type"] == "events"
        await api.put(f"/{key}", json={"n": 2})
        events = await receive(connection, "events")
        (event,) = events["events"]
        assert (event["op"], event["base"], event["version"]) == ("update", 1, 2)
        assert event["patch"] == [{"op": "replace", "path": "/n", "value": 2}]
        assert (events["shape"], events["to"].split(":")[1]) == (shape, str(event["seq"]))


async def test_subscribe_and_unsubscribe(served: Any, api: httpx.AsyncClient, new_id: NewId) -> None:
    one, two = new_id(), new_id()
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[])
        await receive(connection, "welcome")
        await send(connection, type="subscribe", shape=f"things/{one}")
        assert (await receive(connection, "live"))["shape"] == f"things/{one}"
        await send(connection, type="subscribe", shape=f"things/{one}")
        assert (await receive(connection, "error"))["code"] == "malformed"
        await send(connection, type="unsubscribe", shape=f"things/{one}")
        await send(connection, type="subscribe", shape=f"things/{two}")
        await receive(connection, "live")
        await api.put(f"/{one}", json={})
        await api.put(f"/{two}", json={})
        (event,) = (await receive(connection, "events"))["events"]
        assert event["id"] == two
        await send(connection, type="unsubscribe", shape=f"things/{one}")
        assert (await receive(connection, "error"))["code"] == "malformed"


async def test_heartbeat_is_progress(served: Any, api: httpx.AsyncClient, new_id: NewId) -> None:
    shape = f"things/{new_id()}"
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[shape])
        live = await receive(connection, "live")
        await api.put(f"/{new_id()}", json={})
        first = await receive(connection, "progress")
        assert int(first["vector"][shape].split(":")[1]) >= int(live["position"].split(":")[1])


async def test_ping_is_answered_by_pong(served: Any) -> None:
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[])
        await send(connection, type="ping")
        assert await receive(connection, "pong") == {"type": "pong"}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "update", "shape": "things/x", "patch": []}, "malformed"),
        ({"type": "subscribe"}, "malformed"),
        ({"type": "subscribe", "shape": "things/x", "position": "nonsense"}, "malformed"),
        ({"type": "subscribe", "shape": "$cmd"}, "malformed"),
        ({"type": "subscribe", "shape": "secrets"}, "not_tracked"),
        ({"type": "hello", "shapes": []}, "malformed"),
        ({"type": "ack", "vector": {"things": "abc:5"}}, "malformed"),
        ({"type": "ack"}, "malformed"),
    ],
)
async def test_failed_request_is_answered_and_the_connection_stays(
    served: Any, message: dict[str, Any], code: str
) -> None:
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[])
        await send(connection, **message)
        assert (await receive(connection, "error"))["code"] == code
        await send(connection, type="ping")
        await receive(connection, "pong")


@pytest.mark.parametrize(
    "first", ['{"type":"ping"}', "{", "[]", '{"type": 1}', b"\x00", '{"type":"hello","shapes":"x"}']
)
async def test_malformed_hello_is_4400(served: Any, first: str | bytes) -> None:
    async with opened(served) as connection:
        await connection.send(first)
        assert await closed(connection) == 4400


@pytest.mark.parametrize("later", ["{", "5", b"{}"])
async def test_malformed_message_is_4400(served: Any, later: str | bytes) -> None:
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[])
        await receive(connection, "welcome")
        await connection.send(later)
        assert await closed(connection) == 4400


async def test_missing_hello_is_4408(served: Any) -> None:
    async with opened(served) as connection:
        assert await closed(connection) == 4408


async def test_large_message_is_4413(served: Any) -> None:
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[], token="x" * 5000)
        assert await closed(connection) == 4413
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[])
        await receive(connection, "welcome")
        await send(connection, type="ping", padding="x" * 5000)
        assert await closed(connection) == 4413


NO_SHAPES = ["things/", "things/int:abc", "things/uuid:zz", "things/ejson:{", "$cmd", "", "things?n=%"]


async def test_texts_that_are_no_shapes_are_refused_by_name(served: Any) -> None:
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[*NO_SHAPES, "things"])
        refused = [await receive(connection, "error") for _ in NO_SHAPES]
        assert [error["shape"] for error in refused] == NO_SHAPES
        assert {error["code"] for error in refused} == {"malformed"}
        assert not any("retry_after" in error for error in refused)
        assert (await receive(connection, "live"))["shape"] == "things"
        for text in NO_SHAPES:
            for kind in ("subscribe", "unsubscribe"):
                await send(connection, type=kind, shape=text)
                error = await receive(connection, "error")
                assert (error["code"], error["shape"]) == ("malformed", text)
        await send(connection, type="subscribe", shape="things/str:x", position="nonsense")
        error = await receive(connection, "error")
        assert (error["code"], error["shape"]) == ("malformed", "things/x")


async def test_shapes_are_bounded(served: Any) -> None:
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[f"things/{n}" for n in range(51)])
        assert await closed(connection) == 4400
    async with opened(served) as connection:
        shapes = [f"things/{n}" for n in range(50)]
        await send(connection, type="hello", shapes=shapes, vector=dict.fromkeys(shapes, "k3f9ab2c:1"))
        refused = [await receive(connection, "error") for _ in shapes[5:]]
        assert [(error["code"], error["shape"]) for error in refused] == [("rate_limited", text) for text in shapes[5:]]
        await receive(connection, "live")
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=[f"things/{n}" for n in range(5)])
        await receive(connection, "live")
        await send(connection, type="subscribe", shape="things/5")
        assert (await receive(connection, "error"))["code"] == "rate_limited"


async def test_foreign_origins_are_4403(served: Any) -> None:
    async with opened(served, origin=Origin("https://evil.example")) as connection:
        assert await closed(connection) == 4403
    for origin in ("https://app.example", served.url):
        async with opened(served, origin=Origin(origin)) as connection:
            await send(connection, type="hello", shapes=[])
            await receive(connection, "welcome")


async def test_foreign_hosts_are_4403(served: Any) -> None:
    port = urlsplit(served.url).port
    async with connect(f"ws://evil.example:{port}/v1/sync", host="127.0.0.1", port=port, proxy=None) as connection:
        assert await closed(connection) == 4403


async def test_plain_http_request_is_426(root: httpx.AsyncClient) -> None:
    answer = await root.get("/v1/sync")
    assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/v1/sync/", "/v1/Sync", "/v1/sync/sse", "/v1/nothing", "/", "/healthz", "/v1/%ff"])
async def test_other_path_is_404_with_a_reason(served: Any, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(served.url.replace("http", "ws") + path, subprotocols=[Subprotocol("eventsync.v1")]):
            pass
    answer = refused.value.response
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert json.loads(answer.body)["code"] == "not_found"


async def test_foreign_origins_are_refused_on_other_paths(served: Any) -> None:
    address = served.url.replace("http", "ws") + "/v1/nothing"
    async with connect(address, origin=Origin("https://evil.example")) as connection:
        assert await closed(connection) == 4403


async def test_compression_is_refused(served: Any) -> None:
    async with opened(served, compression="deflate") as connection:
        assert connection.protocol.extensions == []


@pytest.mark.parametrize(
    ("seq", "log", "reason"), [(10**15, None, "future"), (0, "zzzzzzzz", "unknown_log")], ids=["future", "unknown log"]
)
async def test_position_that_can_not_be_continued_is_reset(
    served: Any, root: httpx.AsyncClient, seq: int, log: str | None, reason: str
) -> None:
    log = log or (await root.get("/readyz")).json()["position"].split(":")[0]
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=["things"], vector={"things": f"{log}:{seq}"})
        reset = await receive(connection, "reset", "snapshot", "events")
        assert (reset["type"], reset["reason"]) == ("reset", reason)
        assert (await receive(connection, "snapshot"))["shape"] == "things"


@pytest.mark.slow
async def test_slow_client_is_evicted(served: Any, api: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    port = urlsplit(served.url).port
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    raw.setblocking(False)
    async with connect(f"ws://127.0.0.1:{port}/v1/sync", sock=raw, max_queue=1, ping_interval=None) as connection:
        await send(connection, type="hello", shapes=[f"things/{key}"])
        await receive(connection, "live")
        reading = connection.transport.pause_reading
        reading()
        for number in range(150):
            await api.put(f"/{key}", json={"n": number, "text": "x" * 60_000})
        async with within(10), httpx.AsyncClient(base_url=served.url, timeout=patience(20)) as client:
            while (await client.get("/readyz")).json()["connections"]:  # noqa: ASYNC110 - the event is in the server
                await asyncio.sleep(0.02)
        connection.transport.abort()


@pytest.mark.slow
async def test_follower_of_an_untracked_collection_gets_an_error(served: Any, client: Any) -> None:
    tracking = Stores.of(client, served.settings).tracking
    await tracking.ask(["passing"])
    await tracked(served.url, ["passing"])
    async with opened(served) as connection:
        await send(connection, type="hello", shapes=["passing"])
        await receive(connection, "live")
        await tracking.forget(["passing"])
        told = await receive(connection, "error")
        assert (told["code"], told["shape"]) == ("not_tracked", "passing")
        await send(connection, type="ping")
        await receive(connection, "pong")
