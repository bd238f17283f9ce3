"""Barriers: the position that a server names is at or past all that was acknowledged before, by whoever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest
from pymongo import WriteConcern

from eventsync.domain.positions import START, LogId, Seq
from eventsync.mongodb.clocks import confirmed_time
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.peers.python import connect
from support.systems import running_server, running_worker, tracked
from support.waiting import eventually, patience, within


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No heartbeat comes while a test runs."""
    changed = {"collections": ("docs", "others"), "barrier_timeout": patience(8), "heartbeat": 3600.0}
    return settings.model_copy(update=changed)


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    """A server whose worker runs."""
    async with running_server(settings) as started, running_worker(settings):
        await tracked(started, settings.collections)
        yield started


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=patience(20))


async def barrier(client: httpx.AsyncClient) -> tuple[LogId, Seq]:
    answer = await client.post("/v1/barrier", json={})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body.keys() == {"log", "seq"}
    return LogId(body["log"]), Seq(body["seq"])


async def seqs(stores: Stores, log: LogId) -> dict[str, int]:
    """Return the seq of the last event of each document in the log."""
    async with aclosing(stores.events.read(log, START, await stores.events.head(log))) as events:
        return {event.id: event.seq async for event in events}


async def test_barrier_is_past_all_that_was_acknowledged_by_any_server_and_program(
    url: str, settings: Settings, stores: Stores
) -> None:
    """Writers of every kind ask another server for a barrier right after each acknowledgement, all at once."""
    found: list[tuple[str, LogId, Seq]] = []
    docs = stores.data["docs"]

    async with running_server(settings) as other, client_of(url) as writing, client_of(other) as asking:

        async def passed(id_: str) -> None:
            found.append((id_, *await barrier(asking)))

        async def by_server(number: int) -> None:
            for n in range(3):
                answer = await writing.put(f"/v1/collections/docs/documents/server-{number}-{n}", json={})
                answer.raise_for_status()
                await passed(f"server-{number}-{n}")

        async def by_program(number: int, concern: WriteConcern) -> None:
            for n in range(3):
                await docs.with_options(write_concern=concern).insert_one({"_id": f"program-{number}-{n}"})
                await passed(f"program-{number}-{n}")

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(by_server(number), name="a server's writes")
                concern = WriteConcern(w="majority") if number % 2 else WriteConcern(w=1)
                group.create_task(by_program(number, concern), name="another program's writes")
    written = await seqs(stores, found[0][1])
    assert len(found) == 24
    assert [item for item in found if written[item[0]] > item[2]] == []


async def test_barrier_needs_no_checkpoint_while_others_write(settings: Settings, stores: Stores) -> None:
    """A later event proves that all before it are in the log, also one of a transaction that is not whole."""
    rare = settings.model_copy(update={"checkpoint_interval": patience(100), "stale_after": patience(200)})
    async with running_server(rare) as url, running_worker(rare), client_of(url) as client:
        await tracked(url, settings.collections)
        stop = asyncio.Event()

        async def write() -> None:
            n = 0
            while not stop.is_set():
                async with stores.data.client.start_session() as session, await session.start_transaction():
                    for _ in range(3):
                        await stores.data["others"].insert_one({"n": (n := n + 1)}, session=session)

        writing = asyncio.create_task(write(), name="others write")
        try:
            for n in range(5):
                (await client.put(f"/v1/collections/docs/documents/{n}", json={})).raise_for_status()
                log, seq = await barrier(client)
                assert (await seqs(stores, log))[str(n)] <= seq
        finally:
            stop.set()
            await writing


async def test_barrier_fails_in_time_while_no_worker_makes_progress(settings: Settings, stores: Stores) -> None:
    hasty = settings.model_copy(update={"barrier_timeout": 0.3})
    async with running_server(hasty) as url, client_of(url) as client:
        answer = await client.post("/v1/barrier", json={})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")  # there is no log yet
        async with running_worker(settings):
            await tracked(url, settings.collections)
        (await client.put("/v1/collections/docs/documents/a", json={})).raise_for_status()
        answer = await client.post("/v1/barrier", json={})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert "worker" in answer.json()["detail"]
    async with running_server(settings) as url, client_of(url) as client, running_worker(settings):
        log, seq = await barrier(client)
        assert (await seqs(stores, log))["a"] <= seq


async def test_barrier_takes_an_empty_object(url: str) -> None:
    async with client_of(url) as client:
        for body in (b'{"shape":"docs"}', b"[]", b"null", b"7", b""):
            answer = await client.post("/v1/barrier", content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), body
        assert (await client.post("/v1/barrier?wait=1", json={})).json()["code"] == "malformed"
        assert (await client.get("/v1/barrier")).status_code == 405


async def test_quiet_shape_reaches_the_barrier_by_ping(url: str) -> None:
    """No event of the shape comes: `progress` says that there is none up to the barrier."""
    async with client_of(url) as client, connect(url.replace("http", "ws") + "/v1/sync") as connection, within(30):
        await connection.send(json.dumps({"type": "hello", "shapes": ["docs"]}))
        while json.loads(await connection.recv())["type"] != "live":
            continue
        (await client.put("/v1/collections/others/documents/a", json={})).raise_for_status()
        log, seq = await barrier(client)
        reached = START
        while reached < seq:
            await connection.send(json.dumps({"type": "ping"}))
            assert json.loads(await connection.recv()) == {"type": "pong"}
            progress = json.loads(await connection.recv())
            assert progress["type"] == "progress"
            assert progress["vector"]["docs"].split(":")[0] == log
            reached = Seq(int(progress["vector"]["docs"].split(":")[1]))


async def test_progress_after_a_ping_comes_behind_what_there_is_to_send(url: str) -> None:
    async with client_of(url) as client, connect(url.replace("http", "ws") + "/v1/sync") as connection, within(30):
        await connection.send(json.dumps({"type": "hello", "shapes": ["docs"]}))
        while json.loads(await connection.recv())["type"] != "live":
            continue
        for n in range(20):
            (await client.put(f"/v1/collections/docs/documents/{n}", json={})).raise_for_status()
        _, seq = await barrier(client)
        await eventually(lambda: _is_at(client, seq), 20)
        await connection.send(json.dumps({"type": "ping"}))
        seen, at = 0, ""
        while not at:
            message = json.loads(await connection.recv())
            seen += len(message.get("events", ()))
            at = message["vector"]["docs"] if message["type"] == "progress" else ""
        assert (seen, int(at.split(":")[1]) >= seq) == (20, True)


async def _is_at(client: httpx.AsyncClient, seq: Seq) -> bool:
    return int((await client.get("/readyz")).json()["position"].split(":")[1]) >= seq


async def test_confirmed_time_is_past_each_write_before(stores: Stores) -> None:
    for _ in range(20):
        await stores.data["docs"].insert_one({})
        written = (await stores.data.command("ping"))["operationTime"]
        assert await confirmed_time(stores.log, timeout=patience(5)) > written
