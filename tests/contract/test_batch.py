"""`POST /v1/collections/{collection}/documents:batch`: independent writes, an answer for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from support.systems import events_of

NewId = Callable[[], str]
Item = dict[str, Any]
BATCH = "/v1/collections/things/documents:batch"
NDJSON = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}


async def post(root: httpx.AsyncClient, *operations: Any, **headers: str) -> list[Item]:
    """The results of a batch that was sent as JSON."""
    answer = await root.post(BATCH, json={"operations": list(operations)}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    return list(answer.json()["results"])


async def post_lines(root: httpx.AsyncClient, *lines: Any, **headers: str) -> list[Item]:
    """The results of a batch that was sent as lines, each as it is or to be encoded."""
    body = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    answer = await root.post(BATCH, content=body, headers=NDJSON | headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON["content-type"]), answer.text
    assert answer.content.endswith(b"\n")
    return [orjson.loads(line) for line in answer.content.splitlines()]


def put(key: str, **fields: Any) -> Item:
    return {"method": "PUT", "id": key, "doc": fields}


async def test_each_kind_of_write_is_answered_as_a_single_one_is(root: httpx.AsyncClient, new_id: NewId) -> None:
    old, gone, new = new_id(), new_id(), new_id()
    for key in (old, gone):
        await root.put(f"/v1/collections/things/documents/{key}", json={"n": 1})
    operations: list[Item] = [
        {"method": "POST", "doc": {"_id": new, "n": 1}},
        {"method": "PATCH", "id": old, "patch": {"n": 2}},
        {"method": "DELETE", "id": gone},
        {"method": "POST", "collection": "things", "doc": {"n": 5}},
        {"method": "PATCH", "id": old, "patch": [{"op": "add", "path": "/m", "value": 1}]},
    ]
    for send in (post, post_lines):
        created, patched, deleted, unnamed, again = await send(root, *operations)
        assert (created["status"], created["id"], created["version"]) == (201, new, 1)
        assert (patched["status"], patched["version"], deleted["status"], deleted["version"]) == (200, 2, 200, 2)
        assert (unnamed["status"], len(unnamed["id"])) == (201, 24)
        assert (again["status"], again["version"]) == (200, 3)
        assert created.keys() == patched.keys() == {"status", "id", "version", "etag"}
        assert deleted.keys() == {"status", "id", "version"}
        stored = await root.get(f"/v1/collections/things/documents/{old}")
        assert stored.headers["etag"] == again["etag"]
        assert stored.json()["doc"] == {"_id": old, "n": 2, "m": 1}
        for key in (old, new):
            await root.delete(f"/v1/collections/things/documents/{key}")
        for key in (old, gone):
            await root.put(f"/v1/collections/things/documents/{key}", json={"n": 1})


async def test_preferred_representation_has_document_and_patch(root: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    operations = [put(key, n=1), {"method": "PATCH", "id": key, "patch": {"n": 2}}]
    created, patched = await post(root, *operations, prefer="return=representation")
    assert (created["doc"], created["patch"]) == ({"_id": key, "n": 1}, [])
    assert (patched["doc"]["n"], patched["patch"]) == (2, [{"op": "replace", "path": "/n", "value": 2}])


async def test_failed_operations_keep_their_place_and_stop_no_others(root: httpx.AsyncClient, new_id: NewId) -> None:
    one, two = new_id(), new_id()
    failing: list[tuple[Any, int, str]] = [
        ({"method": "PATCH", "id": two, "patch": {"n": 1}}, 404, "not_found"),
        ({"method": "PUT", "id": two, "doc": {}, "if_match": 3}, 412, "version_mismatch"),
        ({"method": "PATCH", "id": one, "patch": [{"op": "remove", "path": "/x"}]}, 422, "patch_failed"),
        ({"method": "PUT", "id": two, "doc": {"$a": 1}}, 400, "malformed"),
        ({"method": "PUT", "collection": "others", "id": two, "doc": {}}, 400, "malformed"),
        ({"method": "PUT", "id": two, "doc": {}, "if_macht": "*"}, 400, "malformed"),
        ({"method": "POST", "doc": {"_id": one}}, 409, "conflict"),
        ({"method": "GET", "id": one}, 400, "malformed"),
        ({"method": "PUT", "id": two, "doc": {}, "idempotency_key": ""}, 400, "malformed"),
        (17, 400, "malformed"),
    ]
    for send in (post, post_lines):
        results = await send(root, put(one, n=1), *(operation for operation, _, _ in failing), put(one, n=2))
        assert [(item["status"], item["code"]) for item in results[1:-1]] == [
            (status, code) for _, status, code in failing
        ]
        assert results[0]["status"] in {200, 201}
        assert results[-1]["status"] == 200
        for item in results[1:-1]:
            assert item.keys() >= {"type", "title", "status", "code", "detail"}
        assert (await root.get(f"/v1/collections/things/documents/{two}")).status_code == 404


async def test_malformed_items_are_named_by_line_or_number(root: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    lines = [put(key, n=1), b'{"method": "PUT", "id"', b"", b"\xff", put(key, n=2)]
    first, cut, empty, binary, last = await post_lines(root, *lines)
    assert (first["version"], last["version"]) == (1, 2)
    for number, item in enumerate((cut, empty, binary), 2):
        assert (item["status"], item["code"]) == (400, "malformed")
        assert item["detail"].startswith(f"line {number}: ")
    _, unknown = await post(root, put(key, n=3), {"method": "LIST"})
    assert unknown["detail"].startswith("operation 1: ")


async def test_operations_of_one_document_are_applied_in_order(root: httpx.AsyncClient, new_id: NewId) -> None:
    keys = [new_id() for _ in range(4)]
    operations: list[Item] = [{"method": "POST", "doc": {"_id": key, "n": 0}} for key in keys]
    operations += [
        {"method": "PATCH", "id": key, "patch": {"n": n}, "if_match": n} for n in range(1, 6) for key in keys
    ]
    operations += [{"method": "DELETE", "id": key, "if_match": 6} for key in keys]
    results = await post_lines(root, *operations)
    assert [item["version"] for item in results] == [version for version in range(1, 8) for _ in keys]
    for key in keys:
        events = await events_of(str(root.base_url), f"things/{key}", 7)
        assert [event["op"] for event in events] == ["create", *["update"] * 5, "delete"]
        assert all("txn" not in event for event in events[:6]), "an operation has its own event"
        assert len({event["op_id"] for event in events}) == 7
        assert {event["by"] for event in events} == {"anonymous"}


async def test_condition_of_one_operation_concerns_it_alone(root: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    create = {"method": "PUT", "id": key, "doc": {"n": 1}, "if_none_match": "*"}
    first, second, third = await post(root, create, create, {"method": "PATCH", "id": key, "patch": {"n": 2}})
    assert (first["status"], third["version"]) == (201, 2)
    assert (second["status"], second["current"], second["etag"]) == (412, 1, first["etag"])
    assert "retry_after" not in second


async def test_idempotency_key_of_an_operation_writes_once(root: httpx.AsyncClient, new_id: NewId) -> None:
    key, name = new_id(), new_id()
    operation = {"method": "POST", "doc": {"_id": key}, "idempotency_key": name}
    for send, repeated in ((post, False), (post, True), (post_lines, True)):
        (item,) = await send(root, operation)
        assert (item["status"], item["version"], item.get("repeated", False)) == (201, 1, repeated)
    (other,) = await post(root, operation | {"doc": {"_id": new_id()}})
    assert (other["status"], other["code"], "retry_after" in other) == (409, "conflict", False)
    (event,) = await events_of(str(root.base_url), f"things/{key}", 1)
    assert event["op_id"] == name


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", NDJSON, 400),
        (b" \n", NDJSON, 400),
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b'{"operations": []}', JSON, 400),
        (b'{"operations": {}}', JSON, 400),
        (b'{"method":"DELETE","id":"x"}\n' * 51, NDJSON, 413),
        (b'{"operations":[' + b",".join([b"1"] * 51) + b"]}", JSON, 413),
        (b" " * 64 * 1024 + b"{}", NDJSON, 413),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {}, 415),
        (b"{}", NDJSON | {"content-encoding": "gzip"}, 415),
        (b"{}", NDJSON | {"idempotency-key": "one"}, 400),
        (b"{}", NDJSON | {"if-match": '"1"'}, 400),
    ],
)
async def test_batch_that_cannot_begin_is_refused(
    root: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    codes = {400: "malformed", 413: "too_large", 415: "unsupported_media_type"}
    answer = await root.post(BATCH, content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, codes[status]), answer.text


async def test_batch_of_an_untracked_collection_is_refused(root: httpx.AsyncClient) -> None:
    answer = await root.post("/v1/collections/nowhere/documents:batch", content=b"{}", headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_tracked")


async def test_batch_of_the_largest_number_is_written(root: httpx.AsyncClient, new_id: NewId) -> None:
    keys = [new_id() for _ in range(50)]
    results = await post_lines(root, *(put(key, n=1) for key in keys))
    assert [(item["status"], item["id"]) for item in results] == [(201, key) for key in keys]


async def test_large_documents_are_written_and_refused_one_by_one(root: httpx.AsyncClient, new_id: NewId) -> None:
    """Such items are parsed in a helper process."""
    one, two = new_id(), new_id()
    text = "x" * 12_000
    for send in (post, post_lines):
        results = await send(
            root,
            put(one, text=text),
            {"method": "POST", "doc": {"_id": two, "$bad": text}},
            {"method": "PATCH", "id": one, "patch": [{"op": "test", "path": "/text", "value": text}]},
        )
        assert [item["status"] for item in results] == [results[0]["status"], 400, 200]
        assert results[0]["etag"] == results[2]["etag"]
    stored = await root.get(f"/v1/collections/things/documents/{one}")
    assert stored.json() == {"id": one, "version": 1, "doc": {"_id": one, "text": text}}


async def test_create_is_ordered_by_the_id_in_a_large_document(root: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    created, patched = await post_lines(
        root,
        {"method": "POST", "doc": {"_id": key, "text": "x" * 12_000}},
        {"method": "PATCH", "id": key, "patch": {"n": 1}},
    )
    assert (created["status"], patched["version"]) == (201, 2)
