"""`/v1/admin/clients/{id}/frames`: what passes between a session and its client, and why."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from eventsync.sync.sessions import inspections
from support.peers.python import connect
from support.ruled import CANARY, MERGE, THINGS, Ruled, made
from support.systems import running_server
from support.waiting import eventually, patience, within

from .test_openapi import check

Json = dict[str, Any]

PATH = "/v1/admin/clients/{id}/frames"


@asynccontextmanager
async def following(
    url: str, token: str, shape: str, client_id: str, vector: Json | None = None
) -> AsyncIterator[ClientConnection]:
    """A connected client that is live on a shape."""
    async with connect(f"{url.replace('http', 'ws')}/v1/sync") as socket:
        hello: Json = {"type": "hello", "token": token, "shapes": [shape], "client_id": client_id}
        await socket.send(json.dumps(hello if vector is None else hello | {"vector": vector}))
        while json.loads(await socket.recv())["type"] != "live":
            continue
        yield socket


async def next_message(socket: ClientConnection) -> Json:
    async with within(20):
        message: Json = json.loads(await socket.recv())
    return message


async def until_event(socket: ClientConnection, id_text: str) -> Json:
    """Read until an event of a document comes, and return its message."""
    while True:
        message = await next_message(socket)
        if any(event["id"] == id_text for event in message.get("events", ())):
            return message


async def session_of(operator: httpx.AsyncClient, client_id: str) -> str:
    """Return the id of a client's session, on whichever server."""

    async def listed() -> str | None:
        found = (await operator.get("/v1/admin/clients", params={"limit": 500})).json()["clients"]
        return next((each["id"] for each in found if each["client_id"] == client_id), None)

    session: str = await eventually(listed, 30)
    return session


async def inspected(operator: httpx.AsyncClient, session: str, after: int = 0) -> Json:
    found: Json = check(await operator.get(PATH.format(id=session), params={"after": after}), PATH, "get")
    return found


def events_of(found: Json) -> list[Json]:
    return [frame for frame in found["frames"] if frame["kind"] == "events"]


async def test_frames_have_their_extent_and_what_redaction_removed(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    name, key = new_id(), new_id()
    async with following(ruled.url, ruled.token("ada"), "things", name) as socket:
        session = await session_of(operator, name)
        begun = await inspected(operator, session)
        assert (begun["state"], begun["frames"], begun["missed"]) == ("running", [], 0)
        (shape,) = begun["shapes"]
        assert (shape["shape"], shape["hidden"]) == ("things", ["lines.cost", "secret"])
        plans = [(each["answer"], each["reason"], each["source"]) for each in shape["plans"]]
        assert plans == [("snapshot", "no_position", None), ("events", "in_window", "window")]
        await made(operator, key)
        message = await until_event(socket, key)
        await socket.send('{"type":"ping"}')
        while (await next_message(socket))["type"] != "progress":
            continue

        found = await inspected(operator, session, begun["next"])
        (frame,) = events_of(found)
        assert (frame["from"], frame["to"], frame["events"]) == (message["from"], message["to"], 1)
        assert frame["direct"]
        assert frame["removed"] == {"fields": {"secret": 1, "lines.*.cost": 1}, "searched": 1}
        assert [(each["kind"], each["direction"]) for each in found["frames"][1:3]] == [("ping", "in"), ("pong", "out")]
        assert CANARY not in json.dumps(found)
        assert (await inspected(operator, session, found["next"]))["frames"] == []

        changed = await operator.patch(f"{THINGS}/{key}", json={"secret": "x", "n": 2}, headers=MERGE)
        changed.raise_for_status()
        await until_event(socket, key)
        (frame,) = events_of(await inspected(operator, session, found["next"]))
        assert frame["removed"]["fields"] == {"secret": 1}


async def test_plan_has_the_numbers_that_decided(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    name = new_id()
    await made(operator, name)
    log = (await operator.get("/v1/admin/log")).json()["log"]
    async with following(ruled.url, ruled.token("root", roles=["ops"]), "open", name, {"open": f"{log}:999999"}):
        found = await inspected(operator, await session_of(operator, name))
        why = found["shapes"][0]["plans"][0]
        assert (why["answer"], why["reason"], why["from"]) == ("snapshot", "reset", f"{log}:999999")
        assert why["reset"] == "future"


async def test_catch_up_is_explained_by_its_costs(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    name = new_id()
    documents = "/v1/collections/open/documents"
    (await operator.put(f"{documents}/{name}", json={"n": 0})).raise_for_status()
    async with following(ruled.url, ruled.token("root", roles=["ops"]), "open", name) as socket:
        await socket.send('{"type":"ping"}')
        while (message := await next_message(socket))["type"] != "progress":
            continue
        vector = message["vector"]
    operations = [{"method": "PUT", "id": f"{name}-{n}", "doc": {"text": "x" * 1000}} for n in range(100)]
    (await operator.post(f"{documents}:batch", json={"operations": operations})).raise_for_status()
    small, other_id = ruled.settings.model_copy(update={"window_bytes": 64 * 1024}), new_id()
    async with (
        running_server(small) as other,
        following(other, ruled.token("root", roles=["ops"]), "open", other_id, vector),
        httpx.AsyncClient(base_url=other, headers=operator.headers, timeout=patience(20)) as beside,
    ):
        found = await inspected(beside, await session_of(beside, other_id))
    why = found["shapes"][0]["plans"][0]
    assert (why["reason"], why["from"], why["reset"]) == ("cheapest", vector["open"], None)
    assert why["source"] == ("hot" if why["answer"] == "events" else None)
    assert why["costs"][why["answer"]] == min(why["costs"].values())
    assert why["costs"].keys() == set(why["possible"]) == {"events", "squashed", "snapshot"}
    assert why["behind"]["log_events"] >= 100


async def test_disconnected_session_is_shown_as_ended(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    name = new_id()
    async with following(ruled.url, ruled.token("ada"), "open", name):
        session = await session_of(operator, name)
        await inspected(operator, session)

    async def ended() -> Json | None:
        found = await inspected(operator, session)
        return found if found["state"] == "ended" else None

    found = await eventually(ended, 20)
    assert [each["shape"] for each in found["shapes"]] == ["open"]


async def test_session_of_another_server_is_inspected(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    name, key = new_id(), new_id()
    async with (
        running_server(ruled.settings) as other,
        following(other, ruled.token("ada"), "things", name) as socket,
    ):
        session = await session_of(operator, name)

        async def running() -> Json | None:
            found = await inspected(operator, session)
            return found if found["state"] == "running" else None

        begun = await eventually(running, 30)
        assert begun["server"] != (await operator.get("/v1/admin/overview")).json()["answered_by"]
        await made(operator, key)
        message = await until_event(socket, key)

        async def noted() -> Json | None:
            found = await inspected(operator, session, begun["next"])
            return found if events_of(found) else None

        (frame,) = events_of(await eventually(noted, 30))
        assert (frame["to"], frame["removed"]["fields"]["secret"]) == (message["to"], 1)


async def test_inspection_is_for_observers_and_logged(
    operator: httpx.AsyncClient,
    ada: httpx.AsyncClient,
    ruled: Ruled,
    new_id: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = new_id()
    async with (
        following(ruled.url, ruled.token("ada"), "open", name),
        ruled.client("otto", roles=["watch"]) as observer,
    ):
        session = await session_of(operator, name)
        assert (await ada.get(PATH.format(id=session))).status_code == 403
        with caplog.at_level(logging.INFO, logger="eventsync.access.audit"):
            # The number of a note is the client's word: beyond the newest one, all are shown.
            for _ in range(2):
                assert (await inspected(observer, session, 2**40))["state"] == "running"
            assert (await inspected(operator, session, 1))["state"] == "running"
    lines = [record.getMessage() for record in caplog.records if '"inspect"' in record.getMessage()]
    assert ['subject="otto"' in line for line in lines] == [True, False]
    assert all(session in line for line in lines)
    for unknown in ("none", "0" * 32):
        assert (await observer_status(ruled, unknown)) == 404


@pytest.mark.slow
async def test_one_inspection_too_many_is_refused_until_another_is_left_alone(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [new_id() for _ in range(inspections.MAX_INSPECTIONS + 1)]
    async with AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(following(ruled.url, ruled.token("ada"), "open", name))
        *inspected_ones, other_one = [await session_of(operator, name) for name in names]

        async def answered(session: str) -> bool:
            return (await operator.get(PATH.format(id=session))).status_code == 200

        async def all_answered() -> bool:
            return all([await answered(session) for session in inspected_ones])

        # Those of other tests lapse, and meanwhile none of these may.
        await eventually(all_answered, 30)
        refused = await operator.get(PATH.format(id=other_one))
        assert check(refused, PATH, "get")["code"] == "rate_limited"
        assert "inspects 8 sessions already; wait until one is left alone" in refused.json()["detail"]
        other = await stack.enter_async_context(running_server(ruled.settings))
        beside = httpx.AsyncClient(base_url=other, headers=operator.headers, timeout=patience(20))
        await stack.enter_async_context(beside)
        await session_of(beside, names[-1])

        async def refused_for_another_server() -> bool:
            for session in inspected_ones:
                assert (await inspected(operator, session))["state"] == "running"
            return bool((await inspected(beside, other_one))["state"] == "refused")

        await eventually(refused_for_another_server, 30)
        monkeypatch.setattr(inspections, "LAPSES_AFTER", 0.1)
        assert await answered(inspected_ones[0])
        await eventually(partial(answered, other_one), 30)


async def observer_status(ruled: Ruled, session: str) -> int:
    async with ruled.client("otto", roles=["watch"]) as observer:
        return (await observer.get(PATH.format(id=session))).status_code
