"""`/v1/collections/{c}/documents`: reads, writes, listing and history."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import bson
import httpx
import pytest
from bson import json_util

from eventsync.domain.values.extended_json import CODEC
from support.systems import events_of

NewId = Callable[[], str]
DOCUMENTS = "/v1/collections/things/documents"
PATCH = {"content-type": "application/json-patch+json"}
MERGE = {"content-type": "application/merge-patch+json"}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code), body
    assert body["title"]
    assert body["detail"]
    return body


async def test_create_returns_a_location_that_can_be_read(
    api: httpx.AsyncClient, root: httpx.AsyncClient, new_id: NewId
) -> None:
    key = new_id()
    made = await root.post(DOCUMENTS, json={"_id": key, "name": "Ada"})
    assert made.status_code == 201
    tag = made.headers["etag"]
    assert re.fullmatch(r'"1\.[0-9a-f]{16}"', tag)
    body = made.json()
    assert (body["id"], body["version"], body["doc"]) == (key, 1, {"_id": key, "name": "Ada"})
    read = await root.get(made.headers["location"])
    assert read.json() == {"id": key, "version": 1, "doc": {"_id": key, "name": "Ada"}}
    assert read.headers["etag"] == tag
    again = await api.get(f"/{key}", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert (await api.get(f"/{key}", headers={"if-none-match": '"2"'})).status_code == 200


async def test_create_generates_an_id_and_refuses_a_taken_one(api: httpx.AsyncClient, root: httpx.AsyncClient) -> None:
    made = (await root.post(DOCUMENTS, json={"a": 1})).json()
    assert len(made["id"]) == 24
    assert made["doc"]["_id"] == {"$oid": made["id"]}
    problem(await root.post(DOCUMENTS, json={"_id": {"$oid": made["id"]}}), 409, "conflict")


@pytest.mark.parametrize(
    "text",
    [
        "int:42",
        "int:4611686018427387904",
        "uuid:9f1c5a52-8b3e-4d5e-9a0c-0a9f2c6a7b11",
        "a/b",
        "a%2Fb",
        "ü €",
        "str:int:4",
    ],
)
async def test_ids_of_each_form_work_in_paths(api: httpx.AsyncClient, text: str) -> None:
    path = "/" + quote(text, safe="")
    await api.delete(path)
    made = await api.put(path, json={"n": 1})
    assert (made.status_code, made.json()["id"]) == (201, text)
    read = await api.get(path)
    assert (read.status_code, read.json()["id"]) == (200, text)
    events = (await api.get(path + "/events")).json()["events"]
    assert all(event["id"] == text for event in events)
    assert (await api.delete(path)).status_code == 200
    problem(await api.get(path), 404, "not_found")


async def test_list_returns_pages_by_id(api: httpx.AsyncClient, root: httpx.AsyncClient, new_id: NewId) -> None:
    prefix = "~" + new_id()
    names = [f"{prefix}-{number}" for number in range(5)]
    for name in names:
        await api.put(f"/{name}", json={})
    found, after = [], prefix
    for _ in range(3):
        page = (await root.get(DOCUMENTS, params={"limit": 2, "after": after})).json()
        found += [row["id"] for row in page["documents"]]
        if (after := page.get("next", "")) == "":
            break
    assert found[:5] == names
    problem(await root.get(DOCUMENTS, params={"limit": "0"}), 400, "malformed")
    problem(await root.get(DOCUMENTS, params={"limit": "x"}), 400, "malformed")


async def test_replace_creates_or_replaces(api: httpx.AsyncClient, new_id: NewId) -> None:
    path = "/" + new_id()
    assert (await api.put(path, json={"a": 1, "b": 2})).status_code == 201
    replaced = await api.put(path, json={"a": 3})
    assert (replaced.status_code, replaced.json()["version"]) == (200, 2)
    assert replaced.json()["doc"] == {"_id": path[1:], "a": 3}
    assert sorted(op["op"] for op in replaced.json()["patch"]) == ["remove", "replace"]
    problem(await api.put(path, json={}, headers={"if-none-match": "*"}), 412, "version_mismatch")
    problem(await api.put(path, json={"_id": "other"}), 400, "malformed")
    absent = await api.put("/" + new_id(), json={}, headers={"if-match": '"1"'})
    assert problem(absent, 412, "version_mismatch")["current"] is None


async def test_conditional_writes(api: httpx.AsyncClient, new_id: NewId) -> None:
    path = "/" + new_id()
    await api.put(path, json={"n": 0})
    patch = [{"op": "replace", "path": "/n", "value": 1}]
    stale = await api.patch(path, json=patch, headers=PATCH | {"if-match": '"7"'})
    assert problem(stale, 412, "version_mismatch")["current"] == 1
    assert stale.headers["etag"] == (await api.get(path)).headers["etag"]
    done = await api.patch(path, json=patch, headers=PATCH | {"if-match": '"1"'})
    assert (done.json()["version"], done.headers["etag"]) == (2, (await api.get(path)).headers["etag"])
    problem(await api.delete(path, headers={"if-match": '"1"'}), 412, "version_mismatch")
    problem(await api.delete(path, headers={"if-match": "2"}), 400, "malformed")
    assert (await api.delete(path, headers={"if-match": '"2"'})).json()["version"] == 3
    problem(await api.delete(path), 404, "not_found")
    problem(await api.patch(path, json=patch, headers=PATCH), 404, "not_found")


async def test_json_patch_and_merge_patch_are_applied(api: httpx.AsyncClient, new_id: NewId) -> None:
    path = "/" + new_id()
    await api.put(path, json={"a": {"b": [1, 2]}, "c": 1})
    done = await api.patch(path, json=[{"op": "add", "path": "/a/b/-", "value": 3}], headers=PATCH)
    assert done.json()["patch"] == [{"op": "add", "path": "/a/b/2", "value": 3}]
    merged = await api.patch(path, json={"c": None, "a": {"d": True}}, headers=MERGE)
    assert merged.json()["doc"] == {"_id": path[1:], "a": {"b": [1, 2, 3], "d": True}}
    minimal = await api.patch(path, json={"e": 1}, headers=MERGE | {"prefer": "return=minimal"})
    assert minimal.json() == {"id": path[1:], "version": 4}


async def test_patch_without_effect_writes_nothing(api: httpx.AsyncClient, new_id: NewId) -> None:
    path = "/" + new_id()
    await api.put(path, json={"a": 1})
    same = await api.patch(path, json={"a": 1}, headers=MERGE)
    assert (same.status_code, same.json()["version"], same.json()["patch"]) == (200, 1, [])


async def test_idempotency_key_writes_once(api: httpx.AsyncClient, new_id: NewId) -> None:
    path, key = "/" + new_id(), {"idempotency-key": new_id()}
    await api.put(path, json={"n": 0})
    patch = [{"op": "add", "path": "/list", "value": []}]
    first = await api.patch(path, json=patch, headers=PATCH | key)
    await api.patch(path, json={"n": 5}, headers=MERGE)
    again = await api.patch(path, json=patch, headers=PATCH | key)
    assert (again.status_code, again.headers["etag"]) == (first.status_code, first.headers["etag"])
    said = first.json()
    assert again.json() == {"id": said["id"], "version": said["version"], "repeated": True}
    assert (await api.get(path)).json()["version"] == 3
    problem(await api.patch(path, json={"n": 9}, headers=MERGE | key), 409, "conflict")
    problem(await api.patch(path, json={"n": 9}, headers=MERGE | {"idempotency-key": "x" * 129}), 400, "malformed")


async def test_idempotency_key_is_the_op_id_of_the_event(api: httpx.AsyncClient, served: Any, new_id: NewId) -> None:
    path, key = "/" + new_id(), new_id()
    await api.put(path, json={"n": 0})
    await api.delete(path, headers={"idempotency-key": key})
    made, gone = await events_of(served.url, "things" + path, 2)
    assert (made["op"], made["version"], made["by"]) == ("create", 1, "anonymous")
    assert (gone["op"], gone["base"], gone["version"], gone["op_id"], gone["by"]) == ("delete", 1, 2, key, "anonymous")
    assert gone["seq"] > made["seq"]


async def test_history_returns_pages(api: httpx.AsyncClient, served: Any, new_id: NewId) -> None:
    path = "/" + new_id()
    for number in range(5):
        await api.put(path, json={"n": number})
    await events_of(served.url, "things" + path, 5)
    events = (await api.get(path + "/events")).json()["events"]
    assert [event["version"] for event in events] == [1, 2, 3, 4, 5]
    later = (await api.get(path + "/events", params={"after_version": 3})).json()["events"]
    assert [event["version"] for event in later] == [4, 5]
    first = (await api.get(path + "/events", params={"limit": 2})).json()
    second = (await api.get(path + "/events", params={"limit": 3, "after": first["next"]})).json()
    assert first["events"] + second["events"] == events


ALL_TYPES = """{
  "oid": {"$oid": "5ca4bbc7a2dd94ee5816238c"}, "date": {"$date": {"$numberLong": "226117231000"}},
  "old": {"$date": {"$numberLong": "-62135596800001"}}, "far": {"$date": {"$numberLong": "253402300800000"}},
  "dec": {"$numberDecimal": "1.10"}, "i32": {"$numberInt": "7"}, "i64": {"$numberLong": "7"},
  "big": {"$numberLong": "9007199254740993"}, "dbl": {"$numberDouble": "7.0"}, "nan": {"$numberDouble": "NaN"},
  "bin": {"$binary": {"base64": "AAEC", "subType": "80"}},
  "regex": {"$regularExpression": {"pattern": "^a/b", "options": "im"}},
  "uuid": {"$uuid": "9f1c5a52-8b3e-4d5e-9a0c-0a9f2c6a7b11"}, "ts": {"$timestamp": {"t": 5, "i": 6}},
  "min": {"$minKey": 1}, "max": {"$maxKey": 1}, "code": {"$code": "f()"}, "null": null,
  "list": [{"$numberLong": "1"}, []]
}"""


async def test_values_keep_their_types(api: httpx.AsyncClient, served: Any, new_id: NewId) -> None:
    path = "/" + new_id()
    headers = {"content-type": "application/json"}
    made = await api.put(path, content=ALL_TYPES, headers=headers)
    assert made.status_code == 201, made.text
    options = json_util.CANONICAL_JSON_OPTIONS.with_options(
        uuid_representation=CODEC.uuid_representation, tz_aware=True, datetime_conversion=CODEC.datetime_conversion
    )
    want = {"_id": path[1:]} | json_util.loads(ALL_TYPES, json_options=options)

    async def stored() -> bytes:
        document = await served.collection.find_one({"_id": path[1:]})
        document.pop("_sync")
        return bson.encode(document, codec_options=CODEC)

    assert await stored() == bson.encode(want, codec_options=CODEC)
    # What the server answers goes in again and changes nothing: neither value nor type.
    answered = (await api.get(path)).json()["doc"]
    assert (await api.put(path, json=answered)).json()["patch"] == []
    # A patch leaves alone the types of what it does not touch, and a plain number takes the type that it replaces.
    await api.patch(path, json=[{"op": "replace", "path": "/i64", "value": 8}], headers=PATCH)
    want["i64"] = type(want["i64"])(8)
    assert await stored() == bson.encode(want, codec_options=CODEC)
    await api.patch(path, json={"dbl": {"$numberInt": "8"}}, headers=MERGE)
    want["dbl"] = 8
    assert await stored() == bson.encode(want, codec_options=CODEC)
    # So with a whole document: what names its type gets it, also in the place of another.
    await api.put(path, json={"i64": {"$numberInt": "9"}, "dec": 2})
    want = {"_id": path[1:], "dec": 2, "i64": 9}  # fields stay where they stood
    assert await stored() == bson.encode(want, codec_options=CODEC)


async def test_missing_documents_and_collections_are_404(root: httpx.AsyncClient) -> None:
    problem(await root.get("/v1/collections/untracked/documents"), 404, "not_tracked")
    problem(await root.post("/v1/collections/untracked/documents", json={}), 404, "not_tracked")
    problem(await root.get("/v1/collections/system.users/documents"), 400, "malformed")
    problem(await root.get("/v1/nothing"), 404, "not_found")
    refused = await root.request("DELETE", "/healthz")
    problem(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD"
    refused = await root.post("/v1/collections/things/documents/x")
    assert refused.headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"


async def test_collections_are_listed(root: httpx.AsyncClient) -> None:
    assert (await root.get("/v1/collections")).json() == {"collections": [{"name": "others"}, {"name": "things"}]}


async def test_health_endpoints_respond(root: httpx.AsyncClient) -> None:
    assert (await root.get("/healthz")).json() == {"status": "ok"}
    ready = await root.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["leader"]


async def test_a_filter_lists_the_documents_that_it_finds_page_by_page(root: httpx.AsyncClient, new_id: NewId) -> None:
    prefix = new_id()
    for number in range(5):
        await root.put(f"{DOCUMENTS}/{prefix}{number}", json={"n": number % 3})
    query = {"filter": json.dumps({"_id": {"$gt": prefix, "$lt": prefix + "9"}, "n": {"$lt": 2}}), "limit": "1"}
    found = []
    while True:
        answer = await root.get(DOCUMENTS, params=query | {"sort": "-n,_id"})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [(row["id"].removeprefix(prefix), row["version"], row["doc"]["n"]) for row in page["documents"]]
        if "next" not in page:
            break
        query["after"] = page["next"]
    assert found == [("1", 1, 1), ("4", 1, 1), ("0", 1, 0), ("3", 1, 0)]


@pytest.mark.parametrize(
    ("query", "code", "detail"),
    [
        ({"filter": "{"}, "invalid_predicate", "filter: is not valid JSON"),
        ({"filter": "[]"}, "invalid_predicate", "filter: a filter is an object"),
        ({"filter": '{"a":{"$regex":"x"}}'}, "invalid_predicate", "filter.a.$regex: a regular expression"),
        ({"filter": '{"a":{"$oid":"x"}}'}, "invalid_predicate", "filter.a: "),
        ({"filter": '{"a":5}'}, "index_needed", "no index of things finds these documents: create one on a, or"),
        ({"filter": '{"$where":"true"}'}, "invalid_predicate", "filter.$where: code is not evaluated"),
        ({"sort": "a"}, "index_needed", "no index of things has this order: create one on a: 1, _id: 1"),
        ({"sort": "a,-a"}, "invalid_predicate", "sort: a stands there twice"),
        ({"sort": '{"a": -1}'}, "invalid_predicate", "sort: takes paths and no object: -created,name"),
        ({"filter": '{"_id":5}', "after": "5"}, "malformed", "after takes what `next` gave"),
        ({"filter": '{"_id":5}', "limit": "0"}, "malformed", "limit"),
    ],
)
async def test_a_filter_or_sort_that_is_not_served_is_refused_with_the_way_round(
    root: httpx.AsyncClient, new_id: NewId, query: dict[str, str], code: str, detail: str
) -> None:
    await root.put(f"{DOCUMENTS}/{new_id()}", json={"a": 5})
    assert detail in problem(await root.get(DOCUMENTS, params=query), 400, code)["detail"]
