"""`/openapi.json` against the server: routes, errors, and the schemas of bodies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
from starlette.routing import Route, WebSocketRoute

from eventsync import errors
from eventsync.api import openapi
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.application import create_app
from eventsync.server import problems
from eventsync.settings import Settings
from support.json_schema import faults, resolve
from support.peers.python import connect
from support.systems import events_of

DOCUMENT = openapi.document()
METHODS = {"get", "put", "post", "patch", "delete"}
MERGE = {"content-type": "application/merge-patch+json"}
THINGS = "/v1/collections/things/documents"

Json = dict[str, Any]


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, item in DOCUMENT["paths"].items():
        yield from ((path, method, operation) for method, operation in item.items() if method in METHODS)


def parameters(path: str, operation: Json) -> list[Json]:
    found = DOCUMENT["paths"][path].get("parameters", []) + operation.get("parameters", [])
    return [resolve(DOCUMENT, parameter) for parameter in found]


def nodes(node: Any) -> Iterator[Json]:
    """Every object in the document but those inside examples."""
    if isinstance(node, dict):
        yield node
        for name, child in node.items():
            if name not in {"example", "examples"}:
                yield from nodes(child)
    elif isinstance(node, list):
        for child in node:
            yield from nodes(child)


# --- the document by itself -------------------------------------------------------------------------------------


def test_document_is_the_same_in_each_process() -> None:
    """Its entity tag must not depend on the process that serves it."""
    code = "import orjson; from eventsync.api import openapi; print(orjson.dumps(openapi.document()).decode())"
    made = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(made) == 1


def test_documented_credentials_are_those_that_the_routes_take() -> None:
    levels: dict[tuple[str, str], AccessLevel] = {}
    for route in create_app(Settings(mongodb_uri="mongodb://unused")).routes:
        if isinstance(route, Endpoint):
            levels |= {(route.path, method.lower()): route.access for method in route.methods or ()}
    for path, method, operation in operations():
        level = levels[path, method]
        if (path, method) != ("/v1/sync", "get"):  # the upgrade to a WebSocket, which authenticates by itself
            assert (operation.get("security") == []) == (level is AccessLevel.PUBLIC), path
        named = "for operators only" in operation.get("description", "")
        assert named == (level is AccessLevel.OPERATOR), path
        observed = "for operators and observers only" in operation.get("description", "")
        assert observed == (level is AccessLevel.OBSERVER), path


def test_routes_and_documented_paths_are_the_same() -> None:
    routes: set[tuple[str, str]] = set()
    for route in create_app(Settings(mongodb_uri="mongodb://unused")).routes:
        if isinstance(route, WebSocketRoute):
            routes.add((route.path, "get"))
        else:
            assert isinstance(route, Route)
            routes |= {(route.path, method.lower()) for method in (route.methods or ()) if method != "HEAD"}
    assert {(path, method) for path, method, _ in operations()} == routes


def test_document_has_the_required_members() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"].keys() >= {"title", "version"}
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    for path, method, operation in operations():
        assert operation["summary"], (path, method)
        assert set(operation["tags"]) <= tags


def test_references_resolve_and_components_are_used() -> None:
    used = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    for reference in used:
        resolve(DOCUMENT, {"$ref": reference})
    needed = [DOCUMENT["security"], *(operation.get("security", []) for _, _, operation in operations())]
    used |= {f"#/components/securitySchemes/{name}" for listed in needed for each in listed for name in each}
    kept = {f"#/components/{kind}/{name}" for kind, named in DOCUMENT["components"].items() for name in named}
    # The lines of an NDJSON body have no place for a schema in OpenAPI; the description names this one.
    assert kept - used == {"#/components/schemas/SnapshotHead"}


def test_parameters_are_complete() -> None:
    for path, method, operation in operations():
        found = parameters(path, operation)
        assert len({(item["in"], item["name"]) for item in found}) == len(found), (path, method)
        in_path = {item["name"] for item in found if item["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        for item in found:
            assert item["description"], item["name"]
            assert item["required"] is (item["in"] == "path") or item["in"] == "query"
            assert not list(faults(DOCUMENT, item["schema"], item["example"])), item["name"]


def test_response_examples_match_their_schemas() -> None:
    checked = 0
    for path, method, operation in operations():
        bodies = [operation.get("requestBody", {})]
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d|default", status)
            assert response["description"], (path, method, status)
            bodies.append(response)
        for media in (media for body in bodies for media in body.get("content", {}).values()):
            examples = [item["value"] for item in media.get("examples", {}).values()]
            for example in [*examples, *([media["example"]] if "example" in media else [])]:
                assert not list(faults(DOCUMENT, media["schema"], example)), (path, method, example)
                checked += 1
    assert checked > 60


def test_each_error_has_a_problem_with_its_status() -> None:
    found: dict[str, set[str]] = {}
    for _, _, operation in operations():
        for status, response in operation["responses"].items():
            examples = response.get("content", {}).get("application/problem+json", {}).get("examples", {})
            for code, example in examples.items():
                assert (example["value"]["code"], str(example["value"]["status"])) == (code, status)
                found.setdefault(code, set()).add(status)
    # An operation that was not attempted: said among the results of a batch.
    told = {kind: problem for kind, problem in problems.TABLE.items() if kind is not errors.NotAttempted}
    assert found == {kind.code: {str(problem.status.value)} for kind, problem in told.items()}


# --- the document against the running server --------------------------------------------------------------------


def check(answer: httpx.Response, path: str, method: str) -> Any:
    """The body of an answer, which must have a status, type, headers and shape that the document names."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    assert str(answer.status_code) in responses, f"{answer.status_code} {answer.text}"
    response = responses[str(answer.status_code)]
    for name in {"etag", "location", "retry-after"} & set(answer.headers):
        assert name in {header.lower() for header in response.get("headers", {})}, name
    if not answer.content:
        assert "content" not in response
        return None
    media = response["content"][answer.headers["content-type"].partition(";")[0]]
    body = answer.json() if "json" in answer.headers["content-type"] and "ndjson" not in str(answer.headers) else None
    if body is not None:
        assert not list(faults(DOCUMENT, media["schema"], body)), body
    return body


async def test_document_responses_match_their_schemas(root: httpx.AsyncClient, new_id: Callable[[], str]) -> None:
    one, key = THINGS.replace("things", "{collection}") + "/{id}", new_id()
    many, where = one.removesuffix("/{id}"), f"{THINGS}/{key}"
    made = await root.post(THINGS, json={"_id": key, "n": 1})
    assert check(made, many, "post")["version"] == 1
    assert made.headers.keys() >= {"etag", "location"}
    check(await root.post(THINGS, json={"_id": key}), many, "post")
    check(await root.post(THINGS, content=b"{"), many, "post")
    check(await root.post(THINGS, content=b"{", headers={"content-type": "application/json"}), many, "post")
    assert check(await root.get(THINGS, params={"limit": 1}), many, "get")["next"]
    check(await root.get(where), one, "get")
    check(await root.get(where, headers={"if-none-match": made.headers["etag"]}), one, "get")
    check(await root.get(where, headers={"if-match": '"5"'}), one, "get")
    check(await root.get(f"{THINGS}/missing"), one, "get")
    check(await root.get("/v1/collections/untracked/documents/1"), one, "get")
    check(await root.put(where, json={"n": 2}), one, "put")
    check(await root.put(f"{THINGS}/{new_id()}", json={"n": 2}), one, "put")
    check(await root.put(where, json={"n": 2}, headers={"if-match": '"1"'}), one, "put")
    check(await root.patch(where, json={"n": 3}, headers=MERGE), one, "patch")
    minimal = await root.patch(where, json={"n": 4}, headers=MERGE | {"prefer": "return=minimal"})
    assert check(minimal, one, "patch").keys() == {"id", "version"}
    failed = [{"op": "remove", "path": "/missing"}]
    typed = {"content-type": "application/json-patch+json"}
    check(await root.patch(where, json=failed, headers=typed), one, "patch")
    check(await root.delete(where, headers={"if-match": '"1"'}), one, "delete")
    assert check(await root.delete(where), one, "delete")["doc"] is None
    check(await root.delete(where), one, "delete")


async def test_transaction_and_health_responses_match_their_schemas(
    root: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    key = new_id()
    listed = [
        {"method": "POST", "collection": "things", "id": key, "doc": {"n": 1}},
        {"method": "PATCH", "collection": "things", "id": key, "patch": [{"op": "add", "path": "/m", "value": 1}]},
    ]
    done = await root.post("/v1/transactions", json={"operations": listed})
    assert len(check(done, "/v1/transactions", "post")["results"]) == 2
    check(await root.post("/v1/transactions", json={}), "/v1/transactions", "post")
    assert {"name": "things"} in check(await root.get("/v1/collections"), "/v1/collections", "get")["collections"]
    check(await root.get("/healthz"), "/healthz", "get")
    check(await root.get("/readyz"), "/readyz", "get")
    events = await events_of(str(root.base_url), f"things/{key}", 2)
    assert [event["txn"]["n"] for event in events] == [1, 2]
    event_schema = {"$ref": "#/components/schemas/Event"}
    assert not [fault for event in events for fault in faults(DOCUMENT, event_schema, event)]


async def test_batch_responses_match_their_schemas(root: httpx.AsyncClient, new_id: Callable[[], str]) -> None:
    path, url, key = THINGS.replace("things", "{collection}") + ":batch", f"{THINGS}:batch", new_id()
    listed: list[Any] = [
        {"method": "PUT", "id": key, "doc": {"n": 1}, "if_none_match": "*", "idempotency_key": key},
        {"method": "PATCH", "id": key, "patch": {"n": 2}, "if_match": 3},
        {"method": "DELETE", "collection": "things", "id": key},
        {"method": "DELETE", "id": key},
        17,
    ]
    done = await root.post(url, json={"operations": listed}, headers={"prefer": "return=representation"})
    assert [item["status"] for item in check(done, path, "post")["results"]] == [201, 412, 200, 404, 400]
    item = {"$ref": "#/components/schemas/BatchOperation"}
    assert not [fault for operation in listed[:-1] for fault in faults(DOCUMENT, item, operation)]
    lines = await root.post(url, content=b"\n17", headers={"content-type": "application/x-ndjson"})
    check(lines, path, "post")
    problem = {"$ref": "#/components/schemas/BatchProblem"}
    assert not [fault for line in lines.content.splitlines() for fault in faults(DOCUMENT, problem, orjson.loads(line))]
    check(await root.post(url, json={}), path, "post")
    check(await root.post(url, content=b"{}"), path, "post")


async def test_history_and_log_responses_match_their_schemas(
    root: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    key = new_id()
    for number in (1, 2):
        (await root.put(f"{THINGS}/{key}", json={"n": number})).raise_for_status()
    events = await events_of(str(root.base_url), f"things/{key}", 2)
    history = THINGS.replace("things", "{collection}") + "/{id}/events"
    assert check(await root.get(f"{THINGS}/{key}/events"), history, "get")["events"] == events
    assert check(await root.get(f"{THINGS}/{key}/events", params={"limit": 1}), history, "get")["next"]

    start = (await root.get("/readyz")).json()["position"].split(":")[0] + ":0"
    query: dict[str, str | int] = {"shape": f"things/{key}", "position": start}
    assert check(await root.get("/v1/sync/log", params=query), "/v1/sync/log", "get")["live"] is True
    full = await root.get("/v1/sync/log", params=query | {"limit": 1})
    assert check(full, "/v1/sync/log", "get")["live"] is False
    cached = {"if-none-match": full.headers["etag"]}
    assert (await root.get("/v1/sync/log", params=query | {"limit": 1}, headers=cached)).status_code == 304
    elsewhere = await root.get("/v1/sync/log", params=query | {"position": "nowhere:1"})
    assert check(elsewhere, "/v1/sync/log", "get")["reason"] == "unknown_log"
    check(await root.get("/v1/sync/snapshot", params={"shape": f"things/{key}"}), "/v1/sync/snapshot", "get")
    for path in ("/v1/sync/snapshot", "/v1/sync/sse"):
        assert check(await root.get(path, params={"shape": "untracked"}), path, "get")["code"] == "not_tracked"
        assert check(await root.get(path, params={"shape": "undeclared?"}), path, "get")["code"] == "unknown_shape"
        assert check(await root.get(path, params={"shape": "undeclared?a"}), path, "get")["code"] == "malformed"


async def test_page_responses_match_their_schemas(root: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/openapi.json"):
        check(await root.get(path), path, "get")
    check(await root.get("/assets/client.js"), "/assets/{name}", "get")
    assert check(await root.get("/assets/missing"), "/assets/{name}", "get")["status"] == 404
    foreign = await root.get("/healthz", headers={"origin": "https://elsewhere.example"})
    assert check(foreign, "/healthz", "get")["code"] == "forbidden"


async def test_messages_match_their_schemas(root: httpx.AsyncClient, new_id: Callable[[], str]) -> None:
    key = new_id()
    await root.post(THINGS, json={"_id": key})
    said: list[Json] = [{"type": "hello", "shapes": [f"things/{key}"]}, {"type": "ping"}, {"type": "write"}]
    schema, seen = {"$ref": "#/components/schemas/ServerMessage"}, set[str]()
    url = str(root.base_url).replace("http", "ws") + "/v1/sync"
    async with connect(url, subprotocols=["eventsync.v1"]) as socket:
        for message in said:
            await socket.send(orjson.dumps(message).decode())
        while seen < {"welcome", "snapshot", "live", "pong", "error", "progress"}:
            message = orjson.loads(await socket.recv())
            assert not list(faults(DOCUMENT, schema, message)), message
            seen.add(message["type"])
