"""State vectors: acknowledged on each transport, read and removed over HTTP, used on return."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from httpx_sse import aconnect_sse
from websockets.asyncio.client import ClientConnection

from eventsync.settings import Settings
from support.peers.python import connect
from support.systems import events_of, running_server, running_system, tracked
from support.waiting import patience, within

NewId = Callable[[], str]
PATH = "/v1/state-vectors"


@asynccontextmanager
async def greeted(url: str, **hello: Any) -> AsyncIterator[ClientConnection]:
    async with connect(url.replace("http", "ws") + "/v1/sync") as connection:
        await connection.send(json.dumps({"type": "hello"} | hello))
        yield connection


async def received(connection: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """The messages up to one of this kind."""
    messages = []
    async with within(10):
        async for text in connection:
            messages.append(json.loads(text))
            if messages[-1]["type"] == kind:
                return messages
    raise AssertionError("the connection ended")


async def acknowledge(connection: ClientConnection, vector: dict[str, str]) -> None:
    """Send an `ack`; returns when the server has read it."""
    await connection.send(json.dumps({"type": "ack", "vector": vector}))
    await connection.send(json.dumps({"type": "ping"}))
    messages = await received(connection, "pong")
    assert not [message for message in messages if message["type"] == "error"]


def seq(position: str) -> int:
    return int(position.split(":")[1])


async def test_client_with_its_id_alone_resumes(served: Any, api: httpx.AsyncClient, new_id: NewId) -> None:
    key, me = new_id(), new_id()
    shape = f"things/{key}"
    await api.put(f"/{key}", json={"n": 1})
    await events_of(served.url, shape, 1)
    async with greeted(served.url, client_id=me, shapes=[shape]) as connection:
        first = await received(connection, "live")
        assert first[0]["vector"] == {}
        assert "snapshot" in {message["type"] for message in first}
        vector = {shape: first[-1]["position"]}
        await acknowledge(connection, vector)
    await api.put(f"/{key}", json={"n": 2})
    await events_of(served.url, shape, 2)
    # Not stored yet, perhaps: this server offers it all the same.
    async with greeted(served.url, client_id=me, shapes=[shape]) as connection:
        welcome, events, live = await received(connection, "live")
        assert welcome["vector"] == vector
        assert (events["type"], events["from"]) == ("events", vector[shape])
        assert [event["version"] for event in events["events"]] == [2]
        assert live["type"] == "live"


async def test_sent_vector_takes_precedence_over_the_stored_one(
    served: Any, api: httpx.AsyncClient, new_id: NewId
) -> None:
    key, me = new_id(), new_id()
    shape = f"things/{key}"
    for number in range(3):
        await api.put(f"/{key}", json={"n": number})
    events = await events_of(served.url, shape, 3)
    log = (await api.get(f"{served.url}/readyz")).json()["position"].split(":")[0]
    at = [f"{log}:{event['seq']}" for event in events]
    put = await api.put(f"{served.url}{PATH}/{me}", json={"vector": {shape: at[2]}})
    assert put.status_code == 200
    async with greeted(served.url, client_id=me, shapes=[shape], vector={shape: at[0]}) as connection:
        welcome, missed, _ = await received(connection, "live")
        assert welcome["vector"] == {shape: at[2]}
        assert [event["version"] for event in missed["events"]] == [2, 3]
    # An empty vector is one, too: this client says that it has nothing.
    async with greeted(served.url, client_id=me, shapes=[shape], vector={}) as connection:
        assert "snapshot" in {message["type"] for message in await received(connection, "live")}


async def test_stored_vector_resumes_an_event_stream(
    served: Any, root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId
) -> None:
    key, me = new_id(), new_id()
    shape = f"things/{key}"
    await api.put(f"/{key}", json={"n": 1})
    await events_of(served.url, shape, 1)

    async def kinds(**query: str) -> list[str]:
        found = []
        asked = {"shape": shape, "client_id": me} | query
        async with within(10), aconnect_sse(root, "GET", "/v1/sync/sse", params=asked) as source:
            async for event in source.aiter_sse():
                if event.event != "progress":
                    found.append(event.event)
                if event.event == "live":
                    position = event.json()["position"]
                    (await root.put(f"{PATH}/{me}", json={"vector": {shape: position}})).raise_for_status()
                    return found
        raise AssertionError("the stream ended")

    assert "snapshot" in await kinds()
    await api.put(f"/{key}", json={"n": 2})
    await events_of(served.url, shape, 2)
    assert await kinds() == ["welcome", "events", "live"]
    assert await kinds() == ["welcome", "live"]
    assert "snapshot" in await kinds(vector="")
    client = (await root.get(f"{PATH}/{me}")).json()
    assert client["transport"] == "sse"


async def test_put_returns_the_stored_vector(root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId) -> None:
    key, me = new_id(), new_id()
    shape = f"things/{key}"
    for number in range(3):
        await api.put(f"/{key}", json={"n": number})
    events = await events_of(str(root.base_url), shape, 3)
    log = (await root.get("/readyz")).json()["position"].split(":")[0]
    at = [f"{log}:{event['seq']}" for event in events]
    stored = (await root.put(f"{PATH}/{me}", json={"vector": {shape: at[1]}})).raise_for_status().json()
    assert stored["client_id"] == me
    assert stored["vector"] == {shape: at[1]}
    assert stored["transport"] == "http"
    assert stored["lag"][shape]["events"] == 1
    assert 0 <= stored["lag"][shape]["seconds"] < 10
    behind = (await root.put(f"{PATH}/{me}", json={"vector": {shape: at[0]}})).raise_for_status().json()
    assert behind["vector"] == {shape: at[1]}, "it never goes backwards"
    there = (await root.put(f"{PATH}/{me}", json={"vector": {shape: at[2]}})).raise_for_status().json()
    assert there["lag"] == {shape: {"events": 0, "seconds": 0.0}}
    assert (await root.get(f"{PATH}/{me}")).json() | {"seen": ""} == there | {"seen": ""}


async def test_list_returns_pages_of_clients(root: httpx.AsyncClient, new_id: NewId) -> None:
    prefix = new_id()
    ids = [f"{prefix}/{letter} %" for letter in "cab"]
    for name in ids:
        answer = await root.put(f"{PATH}/{quote(name, safe='')}", json={"vector": {}})
        assert answer.raise_for_status().json()["client_id"] == name
    found: list[str] = []
    after = prefix
    while len(found) < 3:
        page = (await root.get(PATH, params={"after": after, "limit": 2})).raise_for_status().json()
        found += [client["client_id"] for client in page["clients"]]
        after = page.get("next", "")
    assert found[:3] == sorted(ids)


async def test_removed_client_gets_a_snapshot(served: Any, root: httpx.AsyncClient, new_id: NewId) -> None:
    me, shape = new_id(), f"things/{new_id()}"
    async with greeted(served.url, client_id=me, shapes=[shape]) as connection:
        live = (await received(connection, "live"))[-1]
        await acknowledge(connection, {shape: live["position"]})
    (await root.put(f"{PATH}/{me}", json={"vector": {shape: live["position"]}})).raise_for_status()
    assert (await root.delete(f"{PATH}/{me}")).status_code == 204
    assert (await root.get(f"{PATH}/{me}")).status_code == 404
    assert (await root.delete(f"{PATH}/{me}")).status_code == 404
    async with greeted(served.url, client_id=me, shapes=[shape]) as connection:
        messages = await received(connection, "live")
        assert messages[0]["vector"] == {}
        assert messages[1]["type"] == "snapshot"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"vector": {"things": "zzzzzzzz:1"}}, 409, "reset"),
        ({"vector": {"things": "LOG:999999999"}}, 409, "reset"),
        ({"vector": {"things": "LOG:-1"}}, 400, "malformed"),
        ({"vector": {"things": "LOG:99999999999999999999"}}, 400, "malformed"),
        ({"vector": {"things": 5}}, 400, "malformed"),
        ({"vector": {"": "LOG:0"}}, 400, "malformed"),
        ({"vector": {"nothing": "LOG:0"}}, 404, "not_tracked"),
        ({"vector": {f"things/{number}": "LOG:0" for number in range(6)}}, 400, "malformed"),
        ({"vector": ["things"]}, 400, "malformed"),
        ({"vectors": {}}, 400, "malformed"),
        ([], 400, "malformed"),
    ],
)
async def test_put_refuses_invalid_vectors(
    root: httpx.AsyncClient, new_id: NewId, body: Any, status: int, code: str
) -> None:
    me = new_id()
    log = (await root.get("/readyz")).json()["position"].split(":")[0]
    text = json.dumps(body).replace("LOG", log)
    answer = await root.put(f"{PATH}/{me}", content=text, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await root.get(f"{PATH}/{me}")).status_code == 404, "nothing is stored of it"


@pytest.mark.parametrize("client_id", ["%00", "x" * 200, "%ff"])
async def test_malformed_client_ids_are_refused(root: httpx.AsyncClient, client_id: str) -> None:
    answer = await root.put(f"{PATH}/{client_id}", json={"vector": {}})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


@pytest.mark.slow
async def test_shutdown_stores_the_last_acknowledgements(settings: Settings) -> None:
    settings = settings.model_copy(update={"collections": ("docs",), "ack_interval": 3600.0})
    async with running_system(settings) as url:
        async with running_server(settings) as other:
            await tracked(other, ["docs"])
            async with greeted(other, client_id="me", shapes=["docs"]) as connection:
                live = (await received(connection, "live"))[-1]
                await acknowledge(connection, {"docs": live["position"]})
            async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
                assert (await client.get(f"{PATH}/me")).status_code == 404
        # By another server: only what is stored is known there.
        async with greeted(url, client_id="me", shapes=["docs"]) as connection:
            welcome, live = await received(connection, "live")
            assert welcome["vector"] == {"docs": live["position"]}


async def test_new_clients_beyond_the_bound_are_not_remembered(settings: Settings) -> None:
    settings = settings.model_copy(update={"collections": ("docs",), "max_clients": 1})
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        head = (await client.get("/readyz")).json()["position"]
        vector = {"vector": {"docs": head}}
        assert (await client.put(f"{PATH}/known", json=vector)).status_code == 200
        refused = await client.put(f"{PATH}/new", json=vector)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert (await client.put(f"{PATH}/known", json=vector)).status_code == 200
        for name, remembered in (("known", None), ("new", False)):
            async with greeted(url, client_id=name, shapes=["docs"], vector={"docs": head}) as connection:
                [welcome] = await received(connection, "welcome")
                assert welcome.get("remembered") is remembered
                await received(connection, "live")
        assert 'eventsync_refused_total{for="clients"} 2.0' in (await client.get("/metrics")).text
