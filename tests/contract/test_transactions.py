"""`POST /v1/transactions`: all or nothing, and one frame of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from support.systems import events_of

NewId = Callable[[], str]
ODD: list[Any] = [[], {}, 7, None, "a..b"]


async def post(root: httpx.AsyncClient, *operations: Any, **headers: str) -> httpx.Response:
    return await root.post("/v1/transactions", json={"operations": list(operations)}, headers=headers)


async def test_transaction_writes_several_documents_and_collections(
    root: httpx.AsyncClient, served: Any, new_id: NewId
) -> None:
    one, two, three = new_id(), new_id(), new_id()
    await root.put(f"/v1/collections/things/documents/{two}", json={"n": 1})
    await root.put(f"/v1/collections/things/documents/{three}", json={})
    answer = await post(
        root,
        {"method": "POST", "collection": "others", "doc": {"_id": one}},
        {"method": "PATCH", "collection": "things", "id": two, "if_match": '"1"', "patch": {"n": 2}},
        {"method": "DELETE", "collection": "things", "id": three},
    )
    assert answer.status_code == 200, answer.text
    assert [(item["id"], item["version"]) for item in answer.json()["results"]] == [(one, 1), (two, 2), (three, 2)]
    _, gone = await events_of(served.url, f"things/{three}", 2)
    assert (gone["op"], gone["txn"]["n"], gone["txn"]["of"]) == ("delete", 3, 3)


async def test_failed_operation_undoes_all(root: httpx.AsyncClient, new_id: NewId) -> None:
    one, two = new_id(), new_id()
    create = {"method": "PUT", "collection": "things", "id": one, "doc": {"n": 1}}
    failing: list[tuple[Any, int, str]] = [
        ({"method": "PATCH", "collection": "things", "id": two, "patch": {"n": 1}}, 404, "not_found"),
        ({"method": "PUT", "collection": "things", "id": two, "doc": {}, "if_match": 3}, 412, "version_mismatch"),
        (
            {"method": "PATCH", "collection": "things", "id": one, "patch": [{"op": "remove", "path": "/x"}]},
            422,
            "patch_failed",
        ),
        ({"method": "PUT", "collection": "nowhere", "id": two, "doc": {}}, 404, "not_tracked"),
        ({"method": "PUT", "collection": "things", "id": two, "doc": {"$a": 1}}, 400, "malformed"),
        *[({"method": "DELETE", "collection": odd, "id": two}, 400, "malformed") for odd in ODD],
        *[({"method": odd, "collection": "things", "id": two}, 400, "malformed") for odd in ODD],
    ]
    for operation, status, code in failing:
        answer = await post(root, create, operation)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert "operation 1" in answer.json()["detail"]
        assert (await root.get(f"/v1/collections/things/documents/{one}")).status_code == 404


async def test_idempotency_key_covers_the_whole_transaction(root: httpx.AsyncClient, new_id: NewId) -> None:
    one = new_id()
    operation = {"method": "POST", "collection": "things", "doc": {"_id": one}}
    key = {"idempotency-key": new_id()}
    first, again = await post(root, operation, **key), await post(root, operation, **key)
    assert first.status_code == again.status_code == 200
    etag = first.json()["results"][0]["etag"]
    assert again.json() == {"results": [{"id": one, "version": 1, "repeated": True, "etag": etag}]}


@pytest.mark.parametrize(
    "body", [{}, [], {"operations": []}, {"operations": {}}, {"operations": [1]}, {"operations": [{"method": "GET"}]}]
)
async def test_malformed_transactions_are_refused(root: httpx.AsyncClient, body: Any) -> None:
    answer = await root.post("/v1/transactions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


@pytest.mark.parametrize("name", ["if_match", "if_none_match"])
@pytest.mark.parametrize("value", [None, False, {}, [], ["*"], 1.5, -1])
async def test_malformed_conditions_are_refused(root: httpx.AsyncClient, new_id: NewId, name: str, value: Any) -> None:
    one = new_id()
    contents: dict[str, dict[str, Any]] = {"PUT": {"doc": {}}, "PATCH": {"patch": {}}, "DELETE": {}}
    for method, content in contents.items():
        answer = await post(root, {"method": method, "collection": "things", "id": one, name: value, **content})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), method
        assert name in answer.json()["detail"]
    assert (await root.get(f"/v1/collections/things/documents/{one}")).status_code == 404


async def test_number_of_operations_is_bounded(root: httpx.AsyncClient) -> None:
    answer = await post(root, *[{"method": "DELETE", "collection": "things", "id": "x"}] * 6)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
