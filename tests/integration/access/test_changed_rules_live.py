"""Rules and owners that change while clients are connected, on running servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.settings import Settings
from integration.access.test_identity import SETTINGS
from support.ruled import EVERYTHING, Ruled, Socket, apply_rules, event_stream, moved_system, socket
from support.waiting import eventually, within

CANARY = "canary-77d1"
OWNED = {"read": {"owner": "$claims.sub"}, "hide": ["secret"]}
OF_TEAM = {"read": {"team": "$claims.team"}, "hide": ["secret"]}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=SETTINGS)


def tree_of(user: dict[str, Any], **collections: Any) -> dict[str, Any]:
    """Return rules by which users see a part of `docs`, and backends may do everything."""
    return {
        "roles": {"user": {"backend": {"$exists": False}}, "backend": {"backend": True}},
        "collections": {"docs": {"user": user, "backend": EVERYTHING}, **collections},
    }


@pytest.fixture
async def two(settings: Settings, tmp_path: Path) -> AsyncIterator[Ruled]:
    """Two servers, by whose rules users see what they own."""
    async with moved_system(settings, tmp_path, tree_of(OWNED), servers=2) as system:
        yield system


async def until_served(system: Ruled, number: int) -> None:
    """Wait until a server shows users what they own, and nothing else."""

    async def is_served() -> bool:
        async with system.bearing(system.token(), number) as client:
            found = await client.get("/v1/sync/snapshot", params={"shape": "docs"})
            return found.status_code == httpx.codes.OK and "." in found.text.splitlines()[0]

    await eventually(is_served, 20)


async def put(system: Ruled, id_: str, **document: Any) -> None:
    """Write as a principal that may do everything."""
    async with system.bearing(system.token(sub="backend", backend=True)) as client:
        (await client.put(f"/v1/collections/docs/documents/{id_}", json=document)).raise_for_status()


def rows_of(client: Socket) -> set[str]:
    return {row["id"] for message in client.messages if message["type"] == "snapshot" for row in message["docs"]}


async def until_has(client: Socket, *ids: str) -> None:
    """Wait until a client is live and has exactly these documents, by a snapshot or by events. Then forget how."""
    await client.until("live")
    while len(rows_of(client) | set(client.ids())) < len(ids):
        await client.until("events")
    assert rows_of(client) | set(client.ids()) == set(ids)
    client.messages.clear()


# --- owners -----------------------------------------------------------------------------------------------------------


async def test_change_of_owner_reaches_both_owners_with_the_events_around_it(two: Ruled) -> None:
    await put(two, "moved", owner="ada", secret=CANARY, note="of ada")
    async with (
        socket(two, two.token(sub="ada")) as ada,
        socket(two, two.token(sub="bob"), 1) as bob,
        two.bearing(two.token(sub="ada")) as http,
        event_stream(http) as stream,
    ):
        await until_has(ada, "moved")
        await until_has(bob)
        async for event in stream:
            if event.event == "live":
                break
        await put(two, "before", owner="ada")
        await put(two, "moved", owner="bob", secret=CANARY, note="of bob")
        await put(two, "after", owner="ada")
        while ada.ids()[-1:] != ["after"]:
            await ada.until("events")
        assert ada.ids() == ["before", "moved", "after"]
        events = [event for message in ada.messages if message["type"] == "events" for event in message["events"]]
        left = events[1]
        assert (left["op"], left["leave"]) == ("delete", True)
        assert "doc" not in left
        assert "patch" not in left
        assert "of bob" not in json.dumps(ada.messages)
        await bob.until("events")
        (entered,) = bob.messages[-1]["events"]
        assert (entered["op"], entered["enter"]) == ("create", True)
        assert entered["doc"] == {"_id": "moved", "owner": "bob", "note": "of bob"}
        seen = ""
        async with within(15):
            async for event in stream:
                seen += event.data
                if '"after"' in event.data:
                    break
        assert "of bob" not in seen
        assert CANARY not in seen + json.dumps([*ada.messages, *bob.messages])


# --- rules ------------------------------------------------------------------------------------------------------------


async def test_another_rule_resets_the_clients_of_every_server(two: Ruled, tmp_path: Path) -> None:
    await put(two, "owned", owner="ada", team="red")
    await put(two, "shared", owner="bob", team="blue")
    token = two.token(sub="ada", team="blue")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(socket(two, token, number)) for number in range(2)]
        http = await stack.enter_async_context(two.bearing(token, 1))
        stream = await stack.enter_async_context(event_stream(http))
        for client in clients:
            await until_has(client, "owned")
        position = await newest(http)
        query = {"shape": "docs", "position": position, "wait": "20"}
        poll = asyncio.create_task(http.get("/v1/sync/log", params=query))
        await until_polling(two, 1)
        await apply_rules(two.stores, tmp_path, tree_of(OF_TEAM))
        for client in clients:
            assert (await client.until("reset"))["reason"] == "scope_changed"
            client.messages.clear()
            await until_has(client, "shared")
        await put(two, "owned", owner="ada", team="red", note="not for her")
        await put(two, "shared", owner="bob", team="blue", note="for her")
        for client in clients:
            while "shared" not in client.ids():
                await client.until("events")
            assert set(client.ids()) == {"shared"}
        async with within(15):
            answer = await poll
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                # The poll was answered before the new rule was active, by which it comes back.
                answer = await http.get("/v1/sync/log", params=query)
            kinds = [event async for event in _until(stream, "for her")]
        assert (answer.status_code, answer.json()["reason"]) == (409, "scope_changed")
        assert "reset" in [event.event for event in kinds]
        assert "not for her" not in "".join(event.data for event in kinds)


async def test_rules_of_others_are_noticed_by_nobody(two: Ruled, tmp_path: Path) -> None:
    async with socket(two, two.token(sub="ada")) as client:
        await client.until("live")
        client.messages.clear()
        await put(two, "one", owner="ada")
        number = two.sync()._accesses._control._number
        await apply_rules(two.stores, tmp_path, tree_of(OWNED, users={"user": {"read": True}}))
        await put(two, "two", owner="ada")
        await eventually(lambda: two.sync()._accesses._control._number != number, 20)
        await put(two, "three", owner="ada")
        while client.ids()[-1:] != ["three"]:
            await client.until("events")
        assert client.ids() == ["one", "two", "three"]
        assert {message["type"] for message in client.messages} <= {"events", "progress"}


async def test_rule_that_is_taken_away_ends_subscriptions_and_no_connection(two: Ruled, tmp_path: Path) -> None:
    token = two.token(sub="ada")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(socket(two, token, number)) for number in range(2)]
        http = await stack.enter_async_context(two.bearing(token))
        for client in clients:
            await until_has(client)
        position = await newest(http)
        query = {"shape": "docs", "position": position, "wait": "20"}
        poll = asyncio.create_task(http.get("/v1/sync/log", params=query))
        await until_polling(two, 0)
        await apply_rules(two.stores, tmp_path, tree_of({"read": False, "create": True}))
        for client in clients:
            refused = await client.until("error")
            assert (refused["code"], refused["shape"]) == ("forbidden", "docs")
        assert (await poll).status_code == httpx.codes.FORBIDDEN
        await put(two, "one", owner="ada", note=CANARY)
        for client in clients:
            await client.send(type="ping")
            await client.until("pong")
            assert client.ids() == []
        await apply_rules(two.stores, tmp_path, tree_of(OWNED))
        for number in range(2):
            await until_served(two, number)
        for client in clients:
            await client.send(type="subscribe", shape="docs")
            await until_has(client, "one")


async def test_server_beyond_loopback_refuses_everything_while_there_is_no_auth(two: Ruled, tmp_path: Path) -> None:
    control = two.sync()._accesses._control
    control._settings = control._settings.model_copy(update={"host": "0.0.0.0"})
    token = two.token(sub="ada")
    async with socket(two, token) as client, two.bearing(token) as http:
        await client.until("live")
        await two.stores.definitions.apply([])
        assert (await client.until("error"))["code"] == "unavailable"
        assert (await client.closed())[0] == 1013
        for path in ("/v1/collections", "/v1/collections/docs/documents", "/v1/sync/snapshot?shape=docs"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert (await http.post("/v1/collections/docs/documents", json={"owner": "ada"})).status_code == 503
        async with socket(two, token) as refused:
            assert (await refused.closed())[0] == 1013
        await apply_rules(two.stores, tmp_path, tree_of(OWNED))
        await until_served(two, 0)
        async with socket(two, token) as again:
            await again.until("live")


async def newest(client: httpx.AsyncClient) -> str:
    """Return the newest position of what a client may see of `docs`."""
    first = (await client.get("/v1/sync/snapshot", params={"shape": "docs"})).text.splitlines()[0]
    page = await client.get("/v1/sync/log", params={"shape": "docs", "position": json.loads(first)["position"]})
    position: str = page.json()["to"]
    return position


async def until_polling(system: Ruled, number: int) -> None:
    """Wait until a poll waits on a server, beside the sessions."""
    sync = system.sync(number)
    await eventually(lambda: len(sync._accesses._live) == len(sync.sessions) + 1, 10)


async def _until(stream: AsyncIterator[Any], text: str) -> AsyncIterator[Any]:
    """Yield the events of a stream up to the one that ends with a text."""
    async for event in stream:
        yield event
        if f'"{text}"' in event.data:
            return
