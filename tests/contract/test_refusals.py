"""Bad input: an error with a stable code, no change, and never a query operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import orjson
import pytest

from support.waiting import within

NewId = Callable[[], str]
DOCUMENTS = "/v1/collections/things/documents"
JSON = "application/json"
PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"


@pytest.fixture
async def path(api: httpx.AsyncClient, new_id: NewId) -> str:
    """A document that each refusal must leave as it is."""
    made = "/" + new_id()
    assert (await api.put(made, json={"a": 1, "list": [1], "text": "x"})).status_code == 201
    return made


async def refused(api: httpx.AsyncClient, path: str, body: bytes, kind: str, method: str = "PATCH") -> tuple[int, str]:
    before = (await api.get(path)).json()
    answer = await api.request(method, path, content=body, headers={"content-type": kind})
    assert (await api.get(path)).json() == before
    return answer.status_code, answer.json()["code"]


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


MALFORMED_DOCUMENTS = [
    b"",
    b"{",
    b"[]",
    b"1",
    b"null",
    b'{"a": 1, "a": 2}',
    b'{"a": NaN}',
    b'{"a": 18446744073709551617}',
    b'{"$set": {"a": 1}}',
    b'{"a": {"$ne": null}}',
    b'{"a": {"$where": "sleep(1000)"}}',
    b'{"a": {"$oid": "nonsense"}}',
    b'{"a": {"$oid": "5ca4bbc7a2dd94ee5816238c", "b": 1}}',
    b'{"a": {"$date": "tomorrow"}}',
    b'{"a": {"$numberInt": "2147483648"}}',
    b'{"a\\u0000b": 1}',
    b'{"a": "\\ud800"}',
    b'\xff\xfe{"a": 1}',
    b'{"_sync": {"v": 9}}',
    b'{"_id": null}',
    nested(200),
]


@pytest.mark.parametrize("body", MALFORMED_DOCUMENTS, ids=lambda body: body[:32].decode("latin-1") or "empty")
async def test_malformed_documents_are_refused(api: httpx.AsyncClient, path: str, body: bytes) -> None:
    assert await refused(api, path, body, JSON, "PUT") == (400, "malformed")


MALFORMED_PATCHES: list[Any] = [
    {},
    "remove",
    [1],
    [{}],
    [{"op": "add"}],
    [{"op": "add", "path": "/b"}],
    [{"op": "jump", "path": "/b", "value": 1}],
    [{"op": "add", "path": "b", "value": 1}],
    [{"op": "add", "path": 1, "value": 1}],
    [{"op": "copy", "path": "/b"}],
    [{"op": "add", "path": "/~2", "value": 1}],
    [{"op": "replace", "path": "", "value": {}}],
    [{"op": "remove", "path": ""}],
    [{"op": "move", "from": "/a", "path": ""}],
    [{"op": "replace", "path": "/_id", "value": "other"}],
    [{"op": "remove", "path": "/_id"}],
    [{"op": "add", "path": "/_id/x", "value": 1}],
    [{"op": "move", "from": "/_id", "path": "/b"}],
    [{"op": "replace", "path": "/_sync", "value": {"v": 99}}],
    [{"op": "add", "path": "/_sync/v", "value": 99}],
    [{"op": "copy", "from": "/a", "path": "/_sync"}],
    [{"op": "add", "path": "/b", "value": {"$ne": 1}}],
    [{"op": "add", "path": "/$b", "value": 1}],
    [{"op": "add", "path": "/b", "value": 1}] * 51,
]


@pytest.mark.parametrize("patch", MALFORMED_PATCHES, ids=lambda patch: orjson.dumps(patch)[:60].decode())
async def test_malformed_patches_are_refused(api: httpx.AsyncClient, path: str, patch: Any) -> None:
    status, code = await refused(api, path, orjson.dumps(patch), PATCH)
    assert (status, code) in {(400, "malformed"), (413, "too_large")}


FAILING_PATCHES: list[Any] = [
    [{"op": "remove", "path": "/missing"}],
    [{"op": "replace", "path": "/missing", "value": 1}],
    [{"op": "add", "path": "/missing/b", "value": 1}],
    [{"op": "add", "path": "/list/5", "value": 1}],
    [{"op": "add", "path": "/list/01", "value": 1}],
    [{"op": "add", "path": "/list/x", "value": 1}],
    [{"op": "test", "path": "/a", "value": 2}],
    [{"op": "test", "path": "/a", "value": True}],
    [{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a", "value": 2}],
    [{"op": "add", "path": "/text/0", "value": 1}],
    [{"op": "copy", "from": "/missing", "path": "/b"}],
]


@pytest.mark.parametrize("patch", FAILING_PATCHES, ids=lambda patch: orjson.dumps(patch)[:60].decode())
async def test_patches_that_do_not_apply_are_refused(api: httpx.AsyncClient, path: str, patch: Any) -> None:
    assert await refused(api, path, orjson.dumps(patch), PATCH) == (422, "patch_failed")


@pytest.mark.parametrize("body", [b"[]", b"1", b'{"_id": "x"}', b'{"_sync": null}', b'{"$a": 1}', b'{"a": {"$gt": 1}}'])
async def test_malformed_merge_patches_are_refused(api: httpx.AsyncClient, path: str, body: bytes) -> None:
    assert await refused(api, path, body, MERGE) == (400, "malformed")


async def test_copies_in_a_patch_are_bounded(api: httpx.AsyncClient, path: str) -> None:
    bomb = [{"op": "add", "path": "/x", "value": ["y" * 1000]}]
    bomb += [{"op": "copy", "from": "/x", "path": "/x/-"}] * 30
    assert await refused(api, path, orjson.dumps(bomb), PATCH) == (413, "too_large")


async def test_nesting_by_patches_is_bounded(api: httpx.AsyncClient, path: str) -> None:
    patch = [{"op": "add", "path": "/d", "value": orjson.loads(nested(60))}]
    deep = "/d" + "/a" * 59
    patch += [{"op": "replace", "path": deep, "value": orjson.loads(nested(60))}]
    assert await refused(api, path, orjson.dumps(patch), PATCH) == (400, "malformed")


async def test_other_media_types_are_refused(api: httpx.AsyncClient, path: str) -> None:
    assert await refused(api, path, b"{}", "text/plain") == (415, "unsupported_media_type")
    assert await refused(api, path, b"{}", JSON) == (415, "unsupported_media_type")
    assert await refused(api, path, b"{}", PATCH, "PUT") == (415, "unsupported_media_type")


async def test_bodies_are_bounded(api: httpx.AsyncClient, path: str) -> None:
    large = orjson.dumps({"a": "x" * 70_000})
    assert await refused(api, path, large, JSON, "PUT") == (413, "too_large")

    async def chunks() -> Any:
        for _ in range(9):
            yield b"x" * 8192

    answer = await api.put(path, content=chunks(), headers={"content-type": JSON})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_documents_are_bounded(api: httpx.AsyncClient, path: str) -> None:
    for number in range(4):
        done = await api.patch(path, json={f"f{number}": "x" * 60_000}, headers={"content-type": MERGE})
        assert done.status_code == 200
    body = orjson.dumps({"g": "x" * 60_000})
    assert await refused(api, path, body, MERGE) == (413, "too_large")


async def test_body_that_does_not_arrive_times_out(served: Any) -> None:
    host, port = urlsplit(served.url).hostname, urlsplit(served.url).port
    reader, writer = await asyncio.open_connection(host, port)
    lines = ["PUT /v1/collections/things/documents/x HTTP/1.1", f"Host: {host}", f"Content-Type: {JSON}"]
    writer.write("\r\n".join([*lines, "Content-Length: 9", "", "{"]).encode())
    async with within(10):
        status = await reader.readline()
    writer.close()
    assert b" 400 " in status


@pytest.mark.parametrize(
    "text", ["", "int:x", "int:9223372036854775808", "uuid:no", "x" * 16385, "ejson:[1]", 'ejson:{"$ne":1}']
)
async def test_malformed_ids_are_refused(api: httpx.AsyncClient, text: str) -> None:
    answer = await api.get("/" + quote(text, safe=""))
    assert answer.status_code in {400, 404}
    if text:
        assert answer.json()["code"] == "malformed"


async def test_path_that_is_not_utf8_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.get("/%ff")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


async def test_operators_in_ids_are_values(api: httpx.AsyncClient, root: httpx.AsyncClient, path: str) -> None:
    for text in ('{"$gt":""}', "$where", 'str:{"$ne":null}'):
        answer = await api.get("/" + quote(text, safe=""))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    made = await root.post(DOCUMENTS, content=b'{"_id": {"$gt": ""}}', headers={"content-type": JSON})
    assert (made.status_code, made.json()["code"]) == (400, "malformed")


async def test_unknown_query_parameters_are_refused(api: httpx.AsyncClient, root: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path, params={"verison": "1"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert answer.json()["detail"] == ("there is no query parameter 'verison' here; this takes at, position, version")
    twice = await root.get(DOCUMENTS, params=[("limit", "1"), ("limit", "2")])
    assert (twice.status_code, twice.json()["code"]) == (400, "malformed")
    assert "limit is given 2 times" in twice.json()["detail"]
    before = (await api.get(path)).json()
    written = await api.put(path + "?if_match=7", json={"a": 2})
    assert (written.status_code, (await api.get(path)).json()) == (400, before)


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "x-gzip", "nonsense"])
async def test_encoded_bodies_are_refused(api: httpx.AsyncClient, path: str, coding: str) -> None:
    answer = await api.put(path, json={}, headers={"content-encoding": coding})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert (await api.get(path)).json()["version"] == 1
    assert (await api.put(path, json={"a": 3}, headers={"content-encoding": "Identity"})).status_code == 200


async def test_error_about_long_input_is_short(api: httpx.AsyncClient, path: str) -> None:
    text = "1" * 50_000
    bodies: list[tuple[str, Any]] = [
        (JSON, {"a": {"$oid": text}}),
        (JSON, {"a": {"$date": text}}),
        (JSON, {"a": {"$" + text: 1}}),
        (JSON, {"_id": text}),
        (PATCH, [{"op": text, "path": "/a"}]),
        (PATCH, [{"op": "add", "path": text, "value": 1}]),
        (PATCH, [{"op": "test", "path": "/" + text, "value": 1}]),
        (PATCH, [{"op": "move", "from": "/" + text, "path": "/a"}]),
    ]
    for kind, body in bodies:
        method = "PUT" if kind == JSON else "PATCH"
        answer = await api.request(method, path, content=orjson.dumps(body), headers={"content-type": kind})
        assert answer.status_code in {400, 422}, (body, answer.text[:200])
        assert len(answer.content) < 5_000
