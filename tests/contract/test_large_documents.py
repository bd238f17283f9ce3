"""Large bodies and documents, which helper processes work on, behave like small ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from bson import Int64, ObjectId

from support.systems import events_of

NewId = Callable[[], str]
DOCUMENTS = "/v1/collections/things/documents"
PATCH = {"content-type": "application/json-patch+json"}
MERGE = {"content-type": "application/merge-patch+json"}
OID = {"$oid": "65a000000000000000000001"}
FILL = "x" * 12_000
"""With its weight more than what is worked on at once."""


async def test_large_documents_keep_their_types(api: httpx.AsyncClient, served: Any, new_id: NewId) -> None:
    key = new_id()
    made = await api.put(f"/{key}", json={"fill": FILL, "n": {"$numberLong": "5"}, "o": OID, "f": 1.0})
    assert made.status_code == 201, made.text
    assert made.json()["doc"] == {"_id": key, "fill": FILL, "n": 5, "o": OID, "f": 1.0}
    # Plain numbers keep the types that they replace.
    patched = await api.patch(f"/{key}", json={"n": 6, "f": 2, "fill": FILL * 2}, headers=MERGE)
    assert patched.json()["version"] == 2
    assert {step["path"] for step in patched.json()["patch"]} == {"/n", "/f", "/fill"}
    stored = await served.collection.find_one({"_id": key})
    assert (stored["n"], type(stored["n"]), stored["f"], type(stored["f"])) == (6, Int64, 2.0, float)
    assert (stored["o"], stored["_sync"]["v"]) == (ObjectId(OID["$oid"]), 2)
    replaced = await api.put(f"/{key}", json={"fill": FILL, "n": 7}, headers={"if-match": '"2"'})
    assert replaced.status_code == 200, replaced.text
    read = await api.get(f"/{key}")
    assert read.json() == {"id": key, "version": 3, "doc": {"_id": key, "fill": FILL, "n": 7}}
    events = await events_of(served.url, f"things/{key}", 3)
    assert [event["op"] for event in events] == ["create", "replace", "replace"]  # a patch would be longer


async def test_large_documents_are_refused_like_small_ones(api: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    body = {"fill": FILL}
    assert (await api.put(f"/{key}", json=body, headers={"if-match": '"1"'})).status_code == 412
    assert (await api.patch(f"/{key}", json=body, headers=MERGE)).json()["code"] == "not_found"
    await api.put(f"/{key}", json=body)
    assert (await api.put(f"/{key}", json=body, headers={"if-none-match": "*"})).status_code == 412
    stale = await api.patch(f"/{key}", json=body, headers=MERGE | {"if-match": '"9"'})
    assert (stale.status_code, stale.json()["current"]) == (412, 1)
    for wrong in (
        b'{"fill": "%b"' % FILL.encode(),
        b'{"$a": 1, "fill": "%b"}' % FILL.encode(),
        b"[%b]" % (b"1," * 9000),
    ):
        refused = await api.put(f"/{key}", content=wrong, headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["code"]) == (400, "malformed")
    failing = [{"op": "test", "path": "/fill", "value": FILL * 2}]
    assert (await api.patch(f"/{key}", json=failing, headers=PATCH)).json()["code"] == "patch_failed"
    nothing = await api.put(f"/{key}", json=body)
    assert (nothing.json()["version"], nothing.json()["patch"]) == (1, [])


async def test_large_documents_are_created_and_listed(
    root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId
) -> None:
    made = await root.post(DOCUMENTS, json={"fill": FILL})
    assert made.status_code == 201
    assert made.json()["doc"] == {"_id": {"$oid": made.json()["id"]}, "fill": FILL}
    assert (await root.post(DOCUMENTS, json={"_id": {"$oid": made.json()["id"]}, "f": FILL})).status_code == 409
    key = new_id()
    await api.put(f"/{key}a", json={"n": 1})
    for number in range(5):
        await api.patch(f"/{key}a", json={f"fill{number}": FILL * 4}, headers=MERGE)
    page = (await root.get(DOCUMENTS, params={"after": key, "limit": 1})).json()
    assert [(row["id"], row["version"], len(row["doc"])) for row in page["documents"]] == [(f"{key}a", 6, 7)]


async def test_repeated_large_write_has_the_same_response(api: httpx.AsyncClient, new_id: NewId) -> None:
    key = new_id()
    once = {"idempotency-key": key}
    first = await api.put(f"/{key}", json={"fill": FILL}, headers=once)
    again = await api.put(f"/{key}", json={"fill": FILL}, headers=once)
    assert (first.status_code, first.json()["version"]) == (201, 1)
    assert (again.json()["id"], again.json()["version"]) == (key, 1)
    assert (await api.put(f"/{key}", json={"fill": FILL + "y"}, headers=once)).status_code == 409


async def test_large_transactions_are_written(root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId) -> None:
    one, two = new_id(), new_id()

    async def transact(*operations: Any) -> httpx.Response:
        return await root.post("/v1/transactions", json={"operations": list(operations)})

    create = {"method": "POST", "collection": "things", "id": one, "doc": {"fill": FILL, "n": {"$numberLong": "1"}}}
    done = await transact(
        create,
        {"method": "PUT", "collection": "others", "id": two, "doc": {"a": [1]}},
        {"method": "PATCH", "collection": "things", "id": one, "if_match": 1, "patch": {"n": 2}},
        {"method": "PATCH", "collection": "others", "id": two, "patch": [{"op": "add", "path": "/a/-", "value": 2}]},
    )
    assert done.status_code == 200, done.text
    results = done.json()["results"]
    assert [(item["id"], item["version"]) for item in results] == [(one, 1), (two, 1), (one, 2), (two, 2)]
    assert results[3]["doc"] == {"_id": two, "a": [1, 2]}
    failed = await transact(create | {"id": new_id()}, {"method": "PUT", "collection": "things", "id": one, "doc": 5})
    assert (failed.status_code, failed.json()["code"]) == (400, "malformed")
    assert failed.json()["detail"].startswith("operation 1:")
    other = await transact(create | {"doc": {"_id": "another", "fill": FILL}})
    assert "differ" in other.json()["detail"]
    assert (await api.get(f"/{one}")).json()["doc"] == {"_id": one, "fill": FILL, "n": 2}


async def test_work_of_small_json_is_offloaded_and_bounded(api: httpx.AsyncClient, new_id: NewId) -> None:
    """A helper does work of more steps than the event loop can spare; more than `patch_steps` is refused."""
    key = new_id()
    await api.put(f"/{key}", json={"x": "y" * 8_000})
    doubling = [{"op": "copy", "from": "/x", "path": f"/x{number}"} for number in range(25)]
    grown = await api.patch(f"/{key}", json=doubling, headers=PATCH)
    assert (grown.status_code, len(grown.json()["doc"])) == (200, 27)
