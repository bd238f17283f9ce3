"""Conditional requests (RFC 9110 section 13): obeyed, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bson
import httpx
import pytest
from starlette.routing import WebSocketRoute
from websockets.exceptions import ConnectionClosed

from eventsync.api import openapi
from eventsync.api.endpoint import SAFE, Endpoint
from eventsync.application import ROUTES
from support.json_schema import resolve
from support.peers.python import connect
from support.systems import events_of

NewId = Callable[[], str]
MERGE = {"content-type": "application/merge-patch+json"}
DOCUMENTS = "/v1/collections/things/documents"
DOCUMENT = openapi.document()


@pytest.fixture
async def path(api: httpx.AsyncClient, new_id: NewId) -> str:
    made = "/" + new_id()
    assert (await api.put(made, json={"n": 1})).status_code == 201
    return made


async def tag_of(api: httpx.AsyncClient, path: str) -> str:
    return str((await api.get(path)).headers["etag"])


async def write(api: httpx.AsyncClient, method: str, path: str, **conditions: str) -> httpx.Response:
    """A write with these conditions: `if_match` and `if_none_match`."""
    headers = {name.replace("_", "-"): value for name, value in conditions.items()}
    body: dict[str, Any] = {} if method == "DELETE" else {"json": {"n": 2}}
    return await api.request(method, path, headers=headers | (MERGE if method == "PATCH" else {}), **body)


def resembling(tag: str) -> str:
    """The tag of another state of the same version."""
    return f'{tag[:-2]}{"1" if tag[-2] == "0" else "0"}"'


def weakened(tag: str) -> str:
    return f"W/{tag}"


# --- a tag names one state ----------------------------------------------------------------------------------------


async def test_write_of_another_program_changes_the_tag(api: httpx.AsyncClient, served: Any, path: str) -> None:
    before = await tag_of(api, path)
    for change in ({"$set": {"n": 5}}, {"$set": {"n": 5.0}}, {"$unset": {"n": ""}}):
        await served.collection.update_one({"_id": path[1:]}, change)
        after = await tag_of(api, path)
        assert after.startswith('"1.')
        assert after != before
        assert (await api.get(path, headers={"if-none-match": before})).status_code == 200
        for method in ("PUT", "PATCH", "DELETE"):
            refused = await write(api, method, path, if_match=before)
            assert (refused.status_code, refused.json()["current"], refused.headers["etag"]) == (412, 1, after)
        before = after
    assert (await write(api, "PUT", path, if_match='"1"')).status_code == 200, "the version alone is compared"


async def test_recreated_document_has_other_tags(api: httpx.AsyncClient, path: str) -> None:
    first = await tag_of(api, path)
    await api.delete(path)
    second = (await api.put(path, json={"n": "second life"})).headers["etag"]
    assert second.startswith('"1.')
    assert second != first
    assert (await api.get(path, headers={"if-none-match": first})).status_code == 200
    assert (await write(api, "PUT", path, if_match=first)).status_code == 412
    await api.delete(path)
    assert (await api.put(path, json={"n": 1})).headers["etag"] == first, "the same content is the same state"


async def test_tag_of_a_state_is_the_same_in_each_response(
    api: httpx.AsyncClient, root: httpx.AsyncClient, served: Any, path: str
) -> None:
    body = '{"d": {"$date": "2026-01-01T00:00:00Z"}, "u": {"$uuid": "9f1c5a52-8b3e-4d5e-9a0c-0a9f2c6a7b11"}, "b": 1.0}'
    written = await api.put(path, content=body, headers={"content-type": "application/json"})
    again = await api.put(path, json=(await api.get(path)).json()["doc"])
    patched = await api.patch(path, json={"l": {"$numberLong": "5"}, "n": {"$numberDouble": "NaN"}}, headers=MERGE)
    assert written.headers["etag"] == again.headers["etag"]
    events = await events_of(served.url, "things" + path, 3)
    log = (await root.get("/readyz")).json()["position"].partition(":")[0]
    for event, answer in zip(events[1:], (written, patched), strict=True):
        for point in ({"position": f"{log}:{event['seq']}"}, {"version": str(event["version"])}):
            assert (await api.get(path, params=point)).headers["etag"] == answer.headers["etag"]
    tag = await tag_of(api, path)
    assert tag == patched.headers["etag"]
    assert (await write(api, "PATCH", path, if_match=tag)).status_code == 200


async def test_large_document_has_the_same_tags(api: httpx.AsyncClient, served: Any, path: str) -> None:
    """A helper process decides and encodes what is large."""
    part = {"text": "x" * 60_000, "n": {"$numberLong": "5"}}
    written, *_ = [await api.patch(path, json={name: part}, headers=MERGE) for name in ("a", "b", "c")][::-1]
    stored = await served.collection.find_one({"_id": path[1:]})
    assert len(bson.encode(stored)) > served.settings.offload_above
    tag = await tag_of(api, path)
    assert tag == written.headers["etag"]
    await events_of(served.url, "things" + path, 4)
    assert (await api.get(path, params={"version": 4})).headers["etag"] == tag
    assert (await api.get(path, headers={"if-none-match": tag})).status_code == 304
    await served.collection.update_one({"_id": path[1:]}, {"$set": {"n": 5}})
    for method in ("PUT", "PATCH", "DELETE"):
        assert (await write(api, method, path, if_match=tag)).status_code == 412
    assert (await write(api, "PATCH", path, if_match=await tag_of(api, path))).status_code == 200


async def test_document_of_another_program_has_a_tag(api: httpx.AsyncClient, served: Any, new_id: NewId) -> None:
    key = new_id()
    await served.collection.insert_one({"_id": key, "n": 1})
    tag = await tag_of(api, f"/{key}")
    assert tag.startswith('"0.')
    assert (await api.get(f"/{key}", headers={"if-none-match": tag})).status_code == 304
    assert (await write(api, "PATCH", f"/{key}", if_match=tag)).json()["version"] == 1


async def test_deleted_document_has_no_tag(api: httpx.AsyncClient, path: str) -> None:
    assert "etag" not in (await api.delete(path)).headers


# --- reading ------------------------------------------------------------------------------------------------------


async def test_conditional_reads(api: httpx.AsyncClient, path: str) -> None:
    tag = await tag_of(api, path)
    for value, status in [
        (tag, 304),
        (weakened(tag), 304),
        (f'"a", {tag}', 304),
        (f'"a",,W/{tag}', 304),
        ("*", 304),
        ('"1"', 200),
        ('"a"', 200),
        ("1", 400),
        ('*, "a"', 400),
        ("", 400),
    ]:
        answer = await api.get(path, headers={"if-none-match": value})
        assert answer.status_code == status, value
        if status == 304:
            assert (answer.content, answer.headers["etag"]) == (b"", tag)
    for value, status in [
        (tag, 200),
        (weakened(tag), 200),
        ("*", 200),
        ('"1"', 200),
        ('"2"', 412),
        ('"a"', 412),
        ("1", 400),
    ]:
        assert (await api.get(path, headers={"if-match": value})).status_code == status, value
    lines = [("if-none-match", '"a"'), ("if-none-match", tag)]
    assert (await api.get(path, headers=lines)).status_code == 304, "several lines are one list"


async def test_precedence_of_conditions(api: httpx.AsyncClient, path: str) -> None:
    tag, always = await tag_of(api, path), "Sat, 01 Jan 2000 00:00:00 GMT"
    for headers, status in [
        ({"if-match": '"a"', "if-none-match": tag}, 412),
        ({"if-match": tag, "if-none-match": tag}, 304),
        ({"if-match": tag, "if-none-match": '"a"'}, 200),
        ({"if-none-match": tag, "if-modified-since": always}, 304),
        ({"if-none-match": '"a"', "if-modified-since": "Sat, 01 Jan 2033 00:00:00 GMT"}, 200),
        # Without a modification date, and without ranges, both kinds are ignored.
        ({"if-modified-since": "Sat, 01 Jan 2033 00:00:00 GMT"}, 200),
        ({"if-unmodified-since": always}, 200),
        ({"range": "bytes=0-1", "if-range": tag}, 200),
        ({"range": "bytes=0-1"}, 200),
    ]:
        assert (await api.get(path, headers=headers)).status_code == status, headers
    missing = await api.get(path + "-missing", headers={"if-match": tag})
    assert missing.status_code == 404, "conditions are about what is there"


@pytest.mark.parametrize("query", ["", "?version=1", "/diff?from=1"])
async def test_head_is_get_without_a_body(api: httpx.AsyncClient, served: Any, path: str, query: str) -> None:
    await events_of(served.url, "things" + path, 1)
    got, head = await api.get(path + query), await api.head(path + query)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    for name in ("etag", "content-type", "content-length", "cache-control"):
        assert head.headers[name] == got.headers[name]
    for headers, status in [
        ({"if-none-match": got.headers["etag"]}, 304),
        ({"if-match": '"a"'}, 412),
        ({"if-match": "a"}, 400),
    ]:
        answer = await api.head(path + query, headers=headers)
        assert (answer.status_code, answer.content) == (status, b"")
        assert (await api.get(path + query, headers=headers)).status_code == status


@pytest.mark.parametrize("route", ["/v1/sync/sse", "/v1/sync/snapshot"])
async def test_head_of_a_stream_ends(root: httpx.AsyncClient, route: str) -> None:
    answer = await root.head(route, params={"shape": "things"})
    assert (answer.status_code, answer.content) == (200, b"")


# --- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_conditional_writes_that_fail(api: httpx.AsyncClient, path: str, method: str) -> None:
    tag = await tag_of(api, path)
    refused: list[tuple[dict[str, str], int]] = [
        ({"if_match": '"2"'}, 412),
        ({"if_match": '"a"'}, 412),
        ({"if_match": f'"a", {resembling(tag)}'}, 412),
        ({"if_none_match": tag}, 412),
        ({"if_none_match": weakened(tag)}, 412),
        ({"if_none_match": f'"a", {tag}'}, 412),
        ({"if_none_match": '"1"'}, 412),
        ({"if_none_match": "*"}, 412),
        ({"if_match": tag, "if_none_match": "*"}, 412),
        ({"if_match": tag, "if_none_match": tag}, 412),
        ({"if_match": "1"}, 400),
        ({"if_match": ""}, 400),
        ({"if_none_match": "1"}, 400),
        ({"if_match": f"*, {tag}"}, 400),
        ({"if_unmodified_since": "Sat, 01 Jan 2000 00:00:00 GMT"}, 400),
        ({"content_range": "bytes 0-1/5"}, 400),
    ]
    for conditions, status in refused:
        answer = await write(api, method, path, **conditions)
        assert (answer.status_code, await tag_of(api, path)) == (status, tag), conditions
        assert answer.json()["code"] == {412: "version_mismatch", 400: "malformed"}[status]
        if status == 412:
            assert (answer.json()["current"], answer.headers["etag"]) == (1, tag)
    assert (await write(api, method, path, if_match=tag, if_none_match='"a"')).status_code == 200


@pytest.mark.parametrize("spelled", ["{}", "W/{}", '"a", {}', "*", '"1"', ', ,{} ,"b"'])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_conditional_writes_that_succeed(api: httpx.AsyncClient, path: str, method: str, spelled: str) -> None:
    tag = await tag_of(api, path)
    answer = await write(api, method, path, if_match=spelled.format(tag))
    assert (answer.status_code, answer.json()["version"]) == (200, 2)


async def test_several_header_lines_are_one_list(api: httpx.AsyncClient, path: str) -> None:
    tag = await tag_of(api, path)
    lines = [("if-match", '"a"'), ("if-match", tag)]
    assert (await api.put(path, json={"n": 2}, headers=lines)).status_code == 200
    assert (await api.put(path, json={"n": 3}, headers=[("if-match", '"a"'), ("if-match", '"b"')])).status_code == 412
    excluded = [("if-none-match", '"a"'), ("if-none-match", await tag_of(api, path))]
    assert (await api.put(path, json={"n": 3}, headers=excluded)).status_code == 412


async def test_missing_document_matches_no_tag(api: httpx.AsyncClient, new_id: NewId) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        for value in ("*", '"1"', '"1.0000000000000000"'):
            answer = await write(api, method, "/" + new_id(), if_match=value)
            assert (answer.status_code, answer.json()["current"]) == (412, None)
    assert (await write(api, "PUT", "/" + new_id(), if_none_match="*")).status_code == 201
    assert (await write(api, "PUT", "/" + new_id(), if_none_match='"1"')).status_code == 201
    assert (await write(api, "PATCH", "/" + new_id(), if_none_match="*")).status_code == 404


@pytest.mark.parametrize("header", ["if-match", "if-none-match", "if-unmodified-since"])
async def test_conditions_on_a_collection_are_refused(root: httpx.AsyncClient, header: str) -> None:
    operation = {"method": "PUT", "collection": "things", "id": "never", "doc": {}}
    for target, body in ((DOCUMENTS, {"_id": "never"}), ("/v1/transactions", {"operations": [operation]})):
        answer = await root.post(target, json=body, headers={header: "*"})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert (await root.get(f"{DOCUMENTS}/never")).status_code == 404


async def test_conditions_of_a_transaction(root: httpx.AsyncClient, api: httpx.AsyncClient, path: str) -> None:
    tag = await tag_of(api, path)

    async def put(**members: Any) -> httpx.Response:
        operation = {"method": "PUT", "collection": "things", "id": path[1:], "doc": {"n": 2}, **members}
        return await root.post("/v1/transactions", json={"operations": [operation]})

    refused: list[tuple[dict[str, Any], int]] = [
        ({"if_match": '"2"'}, 412),
        ({"if_match": 2}, 412),
        ({"if_match": resembling(tag)}, 412),
        ({"if_none_match": tag}, 412),
        ({"if_none_match": "*"}, 412),
        ({"if_match": "1"}, 400),
        ({"if_match": True}, 400),
        ({"if_match": []}, 400),
        ({"if_none_match": 1}, 400),
        ({"ifMatch": tag}, 400),
        ({"patch": {}}, 400),
    ]
    for members, status in refused:
        answer = await put(**members)
        assert (answer.status_code, await tag_of(api, path)) == (status, tag), members
        assert "operation 0" in answer.json()["detail"]
    done = await put(if_match=weakened(tag), if_none_match='"a"')
    assert done.status_code == 200
    assert done.json()["results"][0]["etag"] == await tag_of(api, path) != tag
    for value in (1, "*"):
        post: dict[str, Any] = {"method": "POST", "collection": "things", "doc": {}, "if_match": value}
        assert (await root.post("/v1/transactions", json={"operations": [post]})).status_code == 400
    delete = {"method": "DELETE", "collection": "things", "id": path[1:], "if_match": await tag_of(api, path)}
    gone = await root.post("/v1/transactions", json={"operations": [delete]})
    assert "etag" not in gone.json()["results"][0]


# --- every route --------------------------------------------------------------------------------------------------


def parameters(route: Endpoint, method: str, where: str) -> set[str]:
    item = DOCUMENT["paths"][route.path]
    found = [resolve(DOCUMENT, item) for item in item.get("parameters", []) + item[method].get("parameters", [])]
    return {parameter["name"] for parameter in found if parameter["in"] == where}


ENDPOINTS = [route for route in ROUTES if not isinstance(route, WebSocketRoute)]
EACH = [
    pytest.param(route, method, id=f"{method} {route.path}")
    for route in ENDPOINTS
    if isinstance(route, Endpoint)
    for method in sorted(route.methods or ())
]


def test_each_route_declares_its_query_parameters() -> None:
    assert all(isinstance(route, Endpoint) for route in ENDPOINTS)
    for route in ENDPOINTS:
        assert isinstance(route, Endpoint)
        for method in (route.methods or set()) - {"HEAD"}:
            assert route.query | route.repeated == parameters(route, method.lower(), "query")
            assert route.tagged is bool(parameters(route, method.lower(), "header") & {"If-Match", "If-None-Match"})


def url_of(route: Endpoint) -> str:
    names = {"collection": "things", "id": "one", "client_id": "me", "position": "log:1", "name": "client.js"}
    return route.path.format(**names)


@pytest.mark.parametrize(("route", "method"), EACH)
async def test_unsupported_requests_are_refused(root: httpx.AsyncClient, route: Endpoint, method: str) -> None:
    url = url_of(route)
    requests: list[tuple[str, dict[str, str], int]] = [
        ("?unknown=1", {}, 400),
        *((f"?{name}=1&{name}=1", {}, 400) for name in route.query),
        ("", {"content-encoding": "gzip"}, 415),
        ("", {"if-match": "no tag"} if route.tagged or method in SAFE else {"if-match": '"a"'}, 400),
    ]
    if route.tagged and url.endswith(("/one", ":1")):
        requests.pop()  # what is not there has no state: 404 comes first
    for query, headers, status in requests:
        answer = await root.request(method, url + query, headers=headers)
        assert answer.status_code == status, (query, headers, answer.text)
        if method != "HEAD":
            assert answer.json()["code"] == {400: "malformed", 415: "unsupported_media_type"}[status]


async def test_websocket_refuses_query_parameters(root: httpx.AsyncClient) -> None:
    url = str(root.base_url).replace("http", "ws") + "/v1/sync?shape=things"
    async with connect(url) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4400
    assert "'shape'" in closed.value.rcvd.reason
