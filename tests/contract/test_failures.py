"""Errors never contain texts of MongoDB, on any route and transport."""

from __future__ import annotations

import asyncio
import re
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from pymongo.asynchronous.database import AsyncDatabase
from websockets.exceptions import ConnectionClosed

from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from support.failpoints import faults
from support.peers.python import connect
from support.systems import running_system
from support.waiting import STREAM_WAIT, eventually, patience, time_limits, within

SECRET = "s3cret"
STRICT = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "_id": {},
            "_sync": {"bsonType": "object"},
            "name": {"bsonType": "string", "description": f"{SECRET} description"},
            "kind": {"enum": [f"{SECRET} kind", "none"]},
        },
    }
}
CLOSED = {"$jsonSchema": {"additionalProperties": False, "properties": {"_id": {}, "name": {}}}}

LEAKS = re.compile(
    r"failpoint|failCommand|lsid|clusterTime|signature|txnNumber|errmsg|codeName|E11000|dup key|findAndModify|"
    r"\$db|\$\$ROOT|WriteError|OperationFailure|pymongo|bson\.|Topology|ServerDescription|timeoutMS|Traceback|"
    r"mongodb://|127\.0\.0\.1:\d+|localhost:\d+|/work/|/tmp/|/home/|" + SECRET,
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Served:
    url: str
    settings: Settings
    data: AsyncDatabase[dict[str, Any]]
    position: str


@pytest.fixture(scope="module")
async def served(mongodb_uri: str, client: Client) -> AsyncIterator[Served]:
    """A system with the time to answer, also on a busy machine."""
    async with system(mongodb_uri, client, **time_limits()) as opened:
        yield opened


@pytest.fixture(scope="module")
async def hasty(mongodb_uri: str, client: Client) -> AsyncIterator[Served]:
    """A system that gives up soon, for what it would try again until then: any request may be answered 503.

    A read waits for the feed, whose own commands fail too, for `send_timeout`.
    """
    async with system(mongodb_uri, client, mongodb_timeout=1.0, write_deadline=0.2, send_timeout=1.0) as opened:
        yield opened


@asynccontextmanager
async def system(mongodb_uri: str, client: Client, **limits: Any) -> AsyncIterator[Served]:
    settings = Settings(
        mongodb_uri=mongodb_uri,
        database=f"failures_{secrets.token_hex(6)}",
        collections=("things", "unique", "strict", "closed", "seen"),
        checkpoint_interval=0.1,
        stream_wait=STREAM_WAIT,
        write_attempts=3,
        heartbeat=1.0,
        **limits,
    )
    data = client[settings.database]
    await data.create_collection("strict", validator=STRICT)
    await data.create_collection("closed", validator=CLOSED)
    await data["unique"].create_index([("email", 1), ("tenant", 1)], unique=True)
    await data["things"].insert_one({"_id": "one", "text": SECRET})
    await data["unique"].insert_one({"_id": "first", "email": f"{SECRET}@example.com", "tenant": SECRET})
    await data.create_collection("view", viewOn="things", pipeline=[])
    async with running_system(settings) as url:
        yield Served(url, settings, data, await _position(url))
    await client.drop_database(settings.database)
    await client.drop_database(settings.log_db)


async def _position(url: str) -> str:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as root:
        return str((await root.get("/readyz")).json()["position"])


@pytest.fixture
async def root(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(served) as opened:
        yield opened


def asking(served: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=served.url, timeout=patience(30))


def told(answer: httpx.Response, status: int, code: str, *, lasting: bool = False) -> str:
    """The detail of a problem, in which nothing leaks."""
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert not LEAKS.search(answer.text), answer.text
    assert ("retry-after" in answer.headers) is (status in {409, 429, 503} and code != "reset" and not lasting)
    return str(body["detail"])


# --- refusals of a write ------------------------------------------------------------------------------------------

DOCUMENTS = "/v1/collections/{}/documents"


def writes(collection: str, doc: dict[str, Any]) -> list[tuple[str, str, Any, dict[str, str]]]:
    """The ways to write a document: method, path, body and headers."""
    path, key = DOCUMENTS.format(collection), f"n{secrets.token_hex(4)}"
    operations = [{"method": "POST", "collection": collection, "doc": doc}]
    return [
        ("POST", path, doc, {}),
        ("PUT", f"{path}/{key}", doc, {}),
        ("PUT", f"{path}/{key}", doc, {"idempotency-key": key}),
        ("POST", "/v1/transactions", {"operations": operations}, {}),
    ]


async def test_unique_index_violation_names_the_fields(root: httpx.AsyncClient) -> None:
    taken = {"email": f"{SECRET}@example.com", "tenant": SECRET}
    for method, path, body, headers in writes("unique", taken):
        answer = await root.request(method, path, json=body, headers=headers)
        assert "another document has the same email, tenant" in told(answer, 409, "conflict", lasting=True)


async def test_existing_id_is_a_permanent_conflict(root: httpx.AsyncClient) -> None:
    answer = await root.post(DOCUMENTS.format("unique"), json={"_id": "first"})
    assert "it exists already" in told(answer, 409, "conflict", lasting=True)


async def test_validator_violation_names_the_rules(root: httpx.AsyncClient) -> None:
    broken = {"name": 5, "kind": f"{SECRET} other", "more": f"{SECRET} more"}
    for method, path, body, headers in writes("strict", broken):
        detail = told(await root.request(method, path, json=body, headers=headers), 400, "malformed")
        for rule in ("additionalProperties (more)", "properties.name.bsonType", "properties.kind.enum"):
            assert rule in detail
    done = await root.put(DOCUMENTS.format("strict") + "/good", json={"name": "x"})
    assert done.status_code == 201
    patch = await root.patch(
        DOCUMENTS.format("strict") + "/good", json={"name": 7}, headers={"content-type": "application/merge-patch+json"}
    )
    assert "properties.name.bsonType" in told(patch, 400, "malformed")


async def test_strict_schema_error_names_the_sync_field(root: httpx.AsyncClient) -> None:
    for method, path, body, headers in writes("closed", {"name": "x"}):
        detail = told(await root.request(method, path, json=body, headers=headers), 400, "malformed")
        assert "additionalProperties (_sync)" in detail
        assert 'a strict schema needs a place for _sync, which each write sets: "properties": {"_sync"' in detail


async def _accepted(root: httpx.AsyncClient, path: str) -> bool:
    return (await root.put(path, json={})).is_success


async def test_collection_that_has_become_a_view_is_refused(root: httpx.AsyncClient, served: Served) -> None:
    put = f"/v1/collections/seen/documents/{uuid.uuid4()}"
    await eventually(lambda: _accepted(root, put))  # the collection is active
    await served.data["seen"].drop()
    await served.data.create_collection("seen", viewOn="things", pipeline=[])
    for method, path, body, headers in writes("seen", {"name": SECRET}):
        answer = await root.request(method, path, json=body, headers=headers)
        if answer.status_code != 404:  # by then the server knows that nothing is tracked here
            assert "a view" in told(answer, 403, "forbidden")


async def test_value_too_large_for_mongodb_is_refused(root: httpx.AsyncClient, served: Served, client: Client) -> None:
    async with failing(client, served, ["insert", "update", "findAndModify"], errorCode=10334):
        for method, path, body, headers in writes("things", {"name": "x"}):
            told(await root.request(method, path, json=body, headers=headers), 413, "too_large")


async def test_failed_patch_shows_no_stored_values(root: httpx.AsyncClient) -> None:
    for operation in (
        {"op": "remove", "path": "/nothing"},
        {"op": "remove", "path": "/text/x"},
        {"op": "replace", "path": "/a/b", "value": 1},
        {"op": "add", "path": "/a/b", "value": 1},
        {"op": "test", "path": "/text", "value": "x"},
        {"op": "move", "from": "/a", "path": "/b"},
        {"op": "copy", "from": "/text/0", "path": "/b"},
    ):
        headers = {"content-type": "application/json-patch+json"}
        told(
            await root.patch(DOCUMENTS.format("things") + "/one", json=[operation], headers=headers),
            422,
            "patch_failed",
        )


# --- MongoDB fails ------------------------------------------------------------------------------------------------

COMMANDS = ["find", "getMore", "aggregate", "count", "insert", "update", "delete", "findAndModify", "commitTransaction"]
FORBIDDEN = [13, 166, 263]
CODES = [*FORBIDDEN, 1, 18, 43, 50, 91, 112, 121, 189, 246, 286, 10107, 11000, 17419]
"""One of each kind: refused for good, unknown, timed out, not primary, a lost race, lost history, refused by a rule."""


def failing(client: Client, served: Served, commands: list[str], **how: Any) -> AbstractAsyncContextManager[None]:
    """These commands of the server's requests fail while the block runs."""
    return faults(client, commands, app=app_name(served.settings, "serve"), **how)


def requests(served: Served) -> list[tuple[str, str, Any]]:
    """One request of each route that asks MongoDB."""
    one, log = DOCUMENTS.format("things") + "/one", served.position.partition(":")[0]
    operation = {"method": "PUT", "collection": "things", "id": "two", "doc": {"n": 1}}
    return [
        ("GET", one, None),
        ("GET", f"{one}?position={served.position}", None),
        ("GET", f"{one}?version=1", None),
        ("GET", f"{one}/events", None),
        ("GET", f"{one}/diff?from={log}:0", None),
        ("GET", DOCUMENTS.format("things"), None),
        ("POST", DOCUMENTS.format("things"), {"n": 1}),
        ("PUT", one, {"n": secrets.token_hex(4)}),
        ("PATCH", one, {"n": secrets.token_hex(4)}),
        ("DELETE", one, None),
        ("POST", "/v1/transactions", {"operations": [operation]}),
        ("GET", f"/v1/sync/log?shape=things&position={log}:0", None),
        ("GET", "/v1/sync/snapshot?shape=things", None),
        ("GET", "/v1/sync/segments", None),
        ("GET", f"/v1/sync/segments/{log}:1", None),
        ("GET", "/v1/state-vectors", None),
        ("GET", "/v1/state-vectors/nobody", None),
        ("PUT", "/v1/state-vectors/me", {"vector": {"things": served.position}}),
        ("DELETE", "/v1/state-vectors/nobody", None),
        ("GET", "/v1/collections", None),
        ("GET", "/readyz", None),
        ("GET", "/metrics", None),
    ]


async def check_routes(root: httpx.AsyncClient, served: Served) -> dict[str, int]:
    """The statuses of all routes, asked at once, of which no answer leaks."""
    asked = requests(served)
    statuses = await asyncio.gather(*(check_route(root, *request) for request in asked))
    return {f"{method} {path}": status for (method, path, _), status in zip(asked, statuses, strict=True)}


async def check_route(root: httpx.AsyncClient, method: str, path: str, body: Any) -> int:
    """The status of one route, whose answer leaks nothing."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer = await root.request(method, path, json=body, headers={"content-type": kind} if body else {})
    if answer.status_code >= 400:
        assert not LEAKS.search(answer.text), (method, path, answer.text)
        assert answer.status_code != 500, (method, path, answer.text)
    if answer.status_code == 403:
        assert "retry-after" not in answer.headers
    return answer.status_code


async def check_all(served: Served) -> dict[str, int]:
    """Ask everything on all transports at once: most of it waits until the server gives up. Return the statuses."""
    async with asking(served) as root:
        statuses, *in_band = await asyncio.gather(check_routes(root, served), by_sse(served), by_websocket(served))
    assert not [text for text in in_band if LEAKS.search(text)]
    return statuses


@pytest.mark.parametrize("code", CODES)
async def test_no_error_of_mongodb_leaks(hasty: Served, client: Client, code: int) -> None:
    async with failing(client, hasty, COMMANDS, errorCode=code):
        await check_all(hasty)


@pytest.mark.parametrize("code", FORBIDDEN)
async def test_a_forbidden_operation_is_not_retried(served: Served, client: Client, code: int) -> None:
    async with failing(client, served, COMMANDS, errorCode=code):
        statuses = await check_all(served)
    document = DOCUMENTS.format("things")
    for request in (f"GET {document}/one", f"GET {document}", f"PUT {document}/one", f"POST {document}"):
        assert statuses[request] == 403


@pytest.mark.parametrize(
    "how",
    [
        {"closeConnection": True},
        {"writeConcernError": {"code": 64, "errmsg": f"waiting for replication timed out {SECRET}"}},
        {"writeConcernError": {"code": 91, "errmsg": f"shutdown in progress {SECRET}"}},
        {"errorCode": 112, "errorLabels": ["TransientTransactionError"]},
        {"errorCode": 50, "errorLabels": ["UnknownTransactionCommitResult"]},
    ],
)
async def test_no_lost_connection_leaks(hasty: Served, client: Client, how: Any) -> None:
    async with failing(client, hasty, COMMANDS, **how):
        await check_all(hasty)
    await client.admin.command({"killAllSessions": []})


async def by_sse(served: Served) -> str:
    """All that an event stream says until it says an error, goes live, or ends."""
    text = ""
    async with (
        httpx.AsyncClient(base_url=served.url, timeout=patience(30)) as root,
        root.stream("GET", "/v1/sync/sse", params={"shape": "unique", "client_id": "sse"}) as answer,
        within(30),
    ):
        async for piece in answer.aiter_text():
            text += piece
            if "event: error" in text or "event: live" in text:
                break
    return withheld(text)


async def by_websocket(served: Served) -> str:
    """All that a WebSocket says until it says an error, goes live, or is closed; with the reason of its close."""
    text = ""
    async with connect(served.url.replace("http", "ws") + "/v1/sync") as socket, within(30):
        hello = {"type": "hello", "shapes": ["unique"], "client_id": "socket"}
        await socket.send(orjson.dumps(hello).decode())
        try:
            while '"type":"error"' not in text and '"type":"live"' not in text:
                text += str(await socket.recv()) + "\n"
        except ConnectionClosed:
            text += str(socket.close_reason)
    return withheld(text)


def withheld(text: str) -> str:
    """Return what an answer says, but for the documents of a snapshot, which are what was asked for."""
    return "\n".join(line for line in text.splitlines() if '"type":"snapshot"' not in line)


# --- why a collection is refused ------------------------------------------------------------------------------------


async def refused(root: httpx.AsyncClient) -> dict[str, str]:
    """The collections that can't be tracked, and why."""
    return {item["name"]: item["reason"] for item in (await root.get("/v1/collections")).json().get("refused", ())}


async def test_refused_collection_has_a_reason(root: httpx.AsyncClient, served: Served, client: Client) -> None:
    await client[served.settings.log_db]["collections"].update_one({"_id": "view"}, {"$set": {}}, upsert=True)
    async with within(20):
        while "view" not in (reasons := await refused(root)):  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.02)
    assert reasons["view"] == "it is a view, which has no changes of its own"
    for path in (DOCUMENTS.format("view"), DOCUMENTS.format("view") + "/one", "/v1/sync/snapshot?shape=view"):
        assert "it is a view" in told(await root.get(path), 404, "not_tracked")
