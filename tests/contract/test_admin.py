"""`/v1/admin/…`: what operators and observers see and do, and what nobody else does."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.application import ROUTES
from eventsync.domain.positions import Seq
from eventsync.stores.readiness import connected
from eventsync.stores.stats.processes import Process
from eventsync.stores.stores import Stores
from support.peers.python import connect
from support.ruled import CANARY, MERGE, THINGS, Ruled, made
from support.systems import running_server
from support.waiting import eventually, patience

from .test_openapi import check

Json = dict[str, Any]

ADMIN = [route for route in ROUTES if isinstance(route, Endpoint) and route.path.startswith("/v1/admin/")]


@pytest.fixture
async def observer(ruled: Ruled) -> AsyncIterator[httpx.AsyncClient]:
    async with ruled.client("otto", roles=["watch"]) as opened:
        yield opened


async def read(client: httpx.AsyncClient, path: str, **query: Any) -> Json:
    """Return an answer of the admin API, which must have the documented form."""
    found: Json = check(await client.get(path, params=query), path, "get")
    return found


async def code_of(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> tuple[int, str]:
    answer = await client.request(method, path, **options)
    return answer.status_code, answer.json()["code"]


# --- who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ADMIN, ids=lambda route: f"{min(route.methods)} {route.path}")
async def test_observer_reads_everything_and_changes_nothing(observer: httpx.AsyncClient, route: Endpoint) -> None:
    path = route.path.format(collection="things", id="none")

    async def answered(method: str) -> httpx.Response | None:
        found = await observer.request(method, path)
        # The history of a collection begins with its first snapshot.
        return None if found.status_code == 503 else found

    for method in sorted(route.methods or ()):
        answer = await eventually(partial(answered, method), patience(20))
        if method in {"GET", "HEAD"}:
            assert route.access is AccessLevel.OBSERVER
            assert answer.status_code == (404 if "{id}" in route.path else 200)
        else:
            assert route.access is AccessLevel.OPERATOR
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


# --- overview --------------------------------------------------------------------------------------------------------


async def test_overview_names_processes_rates_and_problems(operator: httpx.AsyncClient, ruled: Ruled) -> None:
    async def reported() -> Json | None:
        found = await read(operator, "/v1/admin/overview", since=0)
        return found if found["servers"] and found["workers"] and len(found["history"]) > 1 else None

    found = await eventually(reported, 30)
    assert found["answered_by"] in {server["name"] for server in found["servers"]}
    assert found["leader"] in {worker["name"] for worker in found["workers"] if worker["leads"]}
    assert found["standbys"] == []
    assert found["may_change"]
    assert found["log"]["head"].startswith(found["log"]["id"])
    codes = [problem["code"] for problem in found["problems"]]
    assert "no_standby" in codes
    assert "no_rules" not in codes
    assert [sample["at"] for sample in found["history"]] == sorted(sample["at"] for sample in found["history"])
    newest = found["history"][-1]["at"]
    later = await read(operator, "/v1/admin/overview", since=int(newest) + 1)
    assert all(sample["at"] > newest for sample in later["history"])
    assert "history" not in await read(operator, "/v1/admin/overview")


async def test_overview_warns_of_a_server_without_rules(root: httpx.AsyncClient) -> None:
    found = await read(root, "/v1/admin/overview")
    assert "no_rules" in [problem["code"] for problem in found["problems"]]
    assert found["sub"] == "anonymous"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/admin/overview", {"since": "yesterday"}),
        ("/v1/admin/overview", {"sort": "name"}),
        ("/v1/admin/clients", {"limit": "0"}),
        ("/v1/admin/log", {"op": "truncate"}),
        ("/v1/admin/log", {"id": "x"}),
        ("/v1/admin/log", {"collection": "things/x"}),
        ("/v1/admin/log", {"up_to": "other:1"}),
        ("/v1/admin/log", {"up_to": "none"}),
        ("/v1/admin/log", {"from": "yesterday"}),
        ("/v1/admin/log", {"limit": "-1"}),
    ],
)
async def test_bad_input_is_malformed(operator: httpx.AsyncClient, path: str, query: dict[str, str]) -> None:
    assert await code_of(operator, "GET", path, params=query) == (400, "malformed")


# --- clients ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def following(url: str, token: str, shape: str, client_id: str) -> AsyncIterator[ClientConnection]:
    """A connected client that has a snapshot of a shape."""
    async with connect(f"{url.replace('http', 'ws')}/v1/sync") as socket:
        hello = {"type": "hello", "token": token, "shapes": [shape], "client_id": client_id}
        await socket.send(json.dumps(hello))
        while json.loads(await socket.recv())["type"] != "live":
            continue
        yield socket


async def closed(socket: ClientConnection) -> int | None:
    """Return the code that a connection is closed with."""
    with suppress(ConnectionClosed):
        async for _ in socket:
            continue
    return socket.close_code


async def test_session_is_listed_and_disconnected(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    name = new_id()
    async with following(ruled.url, ruled.token("ada"), "open", name) as socket:
        found = await read(operator, "/v1/admin/clients", sub="ada", shape="open")
        (session,) = [each for each in found["clients"] if each["client_id"] == name]
        assert session["transport"] == "websocket"
        assert session["roles"] == ["user"]
        assert session["lag_events"] == 0
        assert session["shapes"][0]["shape"] == "open"
        assert session["shapes"][0]["position"]
        assert await read(operator, "/v1/admin/clients", sub="nobody") | {"servers": []} == {
            "clients": [],
            "servers": [],
            "complete": True,
        }
        one = await operator.get(f"/v1/admin/clients/{session['id']}")
        assert check(one, "/v1/admin/clients/{id}", "get")["id"] == session["id"]
        with caplog.at_level(logging.INFO, logger="eventsync.access.audit"):
            gone = await operator.delete(f"/v1/admin/clients/{session['id']}")
        check(gone, "/v1/admin/clients/{id}", "delete")
        assert gone.status_code == 204
        assert await closed(socket) == 1013
    (line,) = [record.getMessage() for record in caplog.records if "disconnect" in record.getMessage()]
    assert 'subject="root"' in line
    assert session["id"] in line
    assert await code_of(operator, "DELETE", f"/v1/admin/clients/{session['id']}") == (404, "not_found")


async def test_sessions_are_paged_by_id(operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]) -> None:
    token = ruled.token("ada")
    async with following(ruled.url, token, "open", new_id()), following(ruled.url, token, "open", new_id()):
        found: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = await read(operator, "/v1/admin/clients", limit=1, sub="ada", **after)
            found += [each["id"] for each in page["clients"]]
            if "next" not in page:
                break
            assert len(page["clients"]) == 1
            after = {"after": page["next"]}
        assert len(found) >= 2
        assert found == sorted(set(found))


async def test_sessions_of_another_server_are_listed_and_closed(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    name = new_id()
    async with (
        running_server(ruled.settings) as other,
        following(other, ruled.token("ada"), "open", name) as socket,
    ):

        async def listed() -> Json | None:
            found = await read(operator, "/v1/admin/clients")
            named = [each for each in found["clients"] if each["client_id"] == name]
            return {"session": named[0]} | found if named else None

        found = await eventually(listed, 30)
        assert found["complete"]
        session = found["session"]
        query = {"sub": "ada", "shape": "open", "transport": "websocket", "server": session["server"], "limit": 1}
        chosen = await read(operator, "/v1/admin/clients", **query)
        assert [each["id"] for each in chosen["clients"]] == [session["id"]]
        assert "next" not in chosen
        assert (await read(operator, "/v1/admin/clients", **query, after=session["id"]))["clients"] == []
        assert (await operator.get(f"/v1/admin/clients/{session['id']}")).json()["server"] == session["server"]
        assert session["server"] != (await read(operator, "/v1/admin/overview"))["answered_by"]
        gone = await operator.delete(f"/v1/admin/clients/{found['session']['id']}")
        assert gone.status_code == 202
        assert await closed(socket) == 1013


# --- log -------------------------------------------------------------------------------------------------------------


async def delivered(operator: httpx.AsyncClient, collection: str, id_text: str, count: int) -> list[Json]:
    """Return a document's events as the log has them, the newest first, once there are so many."""

    async def found() -> list[Json] | None:
        page = await read(operator, "/v1/admin/log", collection=collection, id=id_text)
        return page["events"] if len(page["events"]) >= count else None

    events: list[Json] = await eventually(found, 20)
    return events


async def test_log_is_searched_by_everything_an_event_has(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    key = new_id()
    await made(operator, key)
    (await ada.patch(f"{THINGS}/{key}", json={"n": 2}, headers=MERGE)).raise_for_status()
    (await operator.delete(f"{THINGS}/{key}")).raise_for_status()
    events = await delivered(operator, "things", key, 3)
    assert [event["op"] for event in events] == ["delete", "update", "create"]
    deleted, updated, created = events

    async def seqs(**query: Any) -> list[int]:
        page = await read(operator, "/v1/admin/log", collection="things", id=key, **query)
        return [event["seq"] for event in page["events"]]

    log = (await read(operator, "/v1/admin/log"))["log"]
    assert await seqs(by="ada") == [updated["seq"]]
    assert await seqs(op="create") == [created["seq"]]
    assert await seqs(after=f"{log}:{created['seq']}") == [deleted["seq"], updated["seq"]]
    assert await seqs(up_to=f"{log}:{updated['seq']}") == [updated["seq"], created["seq"]]
    assert await seqs(**{"from": "2001-01-01T00:00:00Z", "to": "2002-01-01T00:00:00Z"}) == []
    assert await seqs(to="2999-01-01T00:00:00Z") == [event["seq"] for event in events]
    # Without a document: the events of all others are between them.
    found = await read(operator, "/v1/admin/log", by="ada", op="update", collection="things")
    assert updated["seq"] in [event["seq"] for event in found["events"]]


async def test_log_pages_lead_back_to_its_beginning(operator: httpx.AsyncClient, new_id: Callable[[], str]) -> None:
    key = new_id()
    for number in range(5):
        (await operator.put(f"/v1/collections/open/documents/{key}", json={"n": number})).raise_for_status()
    await delivered(operator, "open", key, 5)
    found: list[int] = []
    query: dict[str, Any] = {}
    while True:
        page = await read(operator, "/v1/admin/log", limit=2, **query)
        assert len(page["events"]) <= 2
        found += [event["seq"] for event in page["events"]]
        if "next" not in page:
            break
        query = {"up_to": page["next"]}
    head = int((await read(operator, "/v1/admin/log"))["head"].split(":")[1])
    assert found[:1] <= [head]
    assert found == list(range(found[0], 0, -1))


async def test_observer_gets_no_content_of_documents(
    operator: httpx.AsyncClient, observer: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    key = new_id()
    await made(operator, key)
    changed = await operator.patch(f"{THINGS}/{key}", json={"secret": f"{CANARY}-2"}, headers=MERGE)
    changed.raise_for_status()
    await delivered(operator, "things", key, 2)
    seen = await observer.get("/v1/admin/log", params={"collection": "things", "id": key})
    assert CANARY not in seen.text
    update, create = seen.json()["events"]
    assert update["paths"] == ["/secret"]
    assert "patch" not in update
    assert "doc" not in create
    assert CANARY in (await operator.get("/v1/admin/log", params={"collection": "things", "id": key})).text


# --- collections, settings -------------------------------------------------------------------------------------------


async def test_collection_is_tracked_snapshotted_and_untracked(
    root: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    name = f"made_{new_id().replace('-', '_')}"
    path = "/v1/admin/collections/{collection}"
    assert check(await root.put(f"/v1/admin/collections/{name}"), path, "put")["state"] == "asked"

    async def tracked() -> bool | None:
        listed = (await read(root, "/v1/admin/collections"))["collections"]
        return True if {"name": name, "state": "tracked"} in [_named(item) for item in listed] else None

    await eventually(tracked, 20)
    snapshots = await root.post(f"/v1/admin/collections/{name}/snapshots")
    assert check(snapshots, path + "/snapshots", "post")["request"]
    assert (await root.delete(f"/v1/admin/collections/{name}")).status_code == 204
    assert await code_of(root, "DELETE", f"/v1/admin/collections/{name}") == (404, "not_found")
    assert await code_of(root, "POST", f"/v1/admin/collections/{name}/snapshots") == (404, "not_found")
    assert await code_of(root, "PUT", "/v1/admin/collections/$bad") == (400, "malformed")


def _named(item: Json) -> Json:
    return {name: item[name] for name in ("name", "state")}


async def test_settings_have_sources_and_no_secret(operator: httpx.AsyncClient, ruled: Ruled) -> None:
    found = {item["name"]: item for item in (await read(operator, "/v1/admin/settings"))["settings"]}
    assert found["database"]["value"] == ruled.settings.database
    assert found["database"]["source"] == "option"
    assert found["heartbeat"]["source"] == "default"
    assert found["mongodb_uri"]["env"] == "EVENTSYNC_MONGODB_URI"


# --- jobs ------------------------------------------------------------------------------------------------------------


async def test_jobs_say_what_they_did_last(observer: httpx.AsyncClient, ruled: Ruled) -> None:
    async def found() -> Json | None:
        jobs = {job["name"]: job for job in (await read(observer, "/v1/admin/jobs"))["jobs"]}
        return jobs if jobs["snapshotting"]["worked"] and jobs["archiving"]["succeeded"] else None

    jobs = await eventually(found, 30)
    assert set(jobs) == {"snapshotting", "archiving", "compacting"}
    snapshotting = jobs["snapshotting"]
    assert snapshotting["worked"]["done"]["snapshots"] >= 1
    assert snapshotting["worked"]["at"] <= snapshotting["succeeded"]["at"] <= time.time() + 1
    assert snapshotting["worker"] == (await read(observer, "/v1/admin/overview"))["jobs"]["snapshotting"]
    assert snapshotting["failed"] is None


async def test_segments_and_snapshots_are_listed(observer: httpx.AsyncClient, ruled: Ruled) -> None:
    async def found() -> Json | None:
        snapshots = await read(observer, "/v1/admin/snapshots")
        return snapshots if {each["collection"] for each in snapshots["snapshots"]} >= {"things", "open"} else None

    snapshots = await eventually(found, 20)
    numbers = [each["seq"] for each in snapshots["snapshots"]]
    assert numbers == sorted(numbers, reverse=True)
    (one,) = (await read(observer, "/v1/admin/snapshots", collection="things", limit=1))["snapshots"]
    assert (one["collection"], one["position"]) == ("things", f"{snapshots['log']}:{one['seq']}")
    segments = await read(observer, "/v1/admin/segments", before=10**15)
    assert (segments["log"], segments["next"]) == (snapshots["log"], None)
    assert await code_of(observer, "GET", "/v1/admin/segments?before=0") == (400, "malformed")
    assert await code_of(observer, "GET", "/v1/admin/snapshots?collection=a/b") == (400, "malformed")


async def test_repairs_and_resets_are_listed_with_their_reasons(observer: httpx.AsyncClient, ruled: Ruled) -> None:
    async with connected(ruled.settings, "test") as client:
        stores = Stores.of(client, ruled.settings)
        log = await stores.logs.require()
        id_ = await stores.repairs.begin(log.id, "history", "the stream was lost", Seq(3))
        unfinished = await stores.repairs.begin(log.id, "history", "the stream was lost", Seq(3))
        await stores.repairs.end(id_, Seq(5), {"things": 2, "open": 0})
    found = await read(observer, "/v1/admin/repairs")
    later, earlier = found["repairs"][:2]
    assert (later["ended"], later["up_to"], later["events"]) == (None, None, 0), unfinished
    assert (earlier["after"], earlier["up_to"], earlier["events"]) == (3, 5, 2)
    assert earlier["collections"] == [{"name": "things", "events": 2}]
    assert (found["logs"][-1]["kind"], found["logs"][-1]["previous"]) == ("first", None)


async def test_runs_of_a_worker_that_lost_the_job_are_shown(observer: httpx.AsyncClient, ruled: Ruled) -> None:
    """Beside a worker of an earlier release, which publishes none."""
    failed = {"at": time.time(), "seconds": 0.5, "done": {}, "reason": "the archive can't be read"}
    job = {"running_since": 1.0, "next_at": None, "succeeded": None, "worked": None, "failed": failed}
    earlier, other = Process.new("worker"), Process.new("worker")

    async def found() -> dict[str, Any] | None:
        """Return the job once a worker has it: between two leases, nobody does."""
        jobs = {job["name"]: job for job in (await read(observer, "/v1/admin/jobs"))["jobs"]}
        return jobs["compacting"] if jobs["compacting"]["worker"] is not None else None

    async with connected(ruled.settings, "test") as client:
        processes = Stores.of(client, ruled.settings).stats.processes
        await processes.renew(earlier, {})
        await processes.renew(other, {"jobs": {"compacting": job}})
        try:
            compacting = await eventually(found, 20)
        finally:
            await processes.remove(earlier)
            await processes.remove(other)
    assert (compacting["failed"], compacting["running_since"]) == (failed, None)
    assert compacting["worker"] != other.name
