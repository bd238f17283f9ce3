"""Ids of all types that other programs store: each listed id can be read, written, paged behind and followed."""

from __future__ import annotations

import json
import secrets
import struct
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import bson
import httpx
import httpx_sse
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, WriteError

from eventsync.domain.ids import MAX_ID_BYTES, MAX_READ_BYTES, format_id
from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from support.mutants import framed, text
from support.systems import tracked
from support.waiting import patience, within

MERGE = {"content-type": "application/merge-patch+json"}
COLLECTION = "others"


def stored(kind: int, value: bytes, more: bytes = b"") -> RawBSONDocument:
    """A document with an id of that type and those bytes."""
    body = b"%c_id\0%b%b" % (kind, value, more)
    return RawBSONDocument(struct.pack("<i", len(body) + 5) + body + b"\0")


def of(value: Any, **more: Any) -> RawBSONDocument:
    return RawBSONDocument(bson.encode({"_id": value, **more}, codec_options=CODEC))


DAMAGED = b"\x05$id\0\3\0\0\0\x02abc"

IDS: dict[str, RawBSONDocument] = {
    "object id": of(ObjectId()),
    "int": of(-77),
    "long": of(Int64(2**60)),
    "short long": of(Int64(78)),
    "double": of(5.25),
    "double zero": of(-0.0),
    "nan": of(float("nan")),
    "infinity": of(float("inf")),
    "decimal": of(Decimal128("7.50")),
    "decimal infinity": of(Decimal128("-Infinity")),
    "true": of(True),
    "null": of(None),
    "min key": of(MinKey()),
    "max key": of(MaxKey()),
    "date": of(datetime(1969, 1, 1, tzinfo=UTC)),
    "timestamp": of(Timestamp(1, 2)),
    "code": of(Code("f()")),
    "code with scope": of(Code("f()", {"a": 1})),
    "binary": of(b"\0\xff"),
    "uuid": of(uuid.uuid4()),
    "old uuid": of(Binary(bytes(16), 3)),
    "short uuid": stored(5, struct.pack("<i", 3) + b"\x04abc"),
    "other binary": of(Binary(b"x", 128)),
    "damaged binary": stored(5, struct.pack("<i", 6) + b"\x02" + struct.pack("<i", 99) + b"ab"),
    "reference": of(DBRef("x", 1)),
    "reference with more": of(DBRef("x", ObjectId(), "db", {"z": 2})),
    "nested reference": of({"k": DBRef("x", {"d": Decimal128("1")})}),
    "pointer": stored(0x0C, text(b"ns") + b"\1" * 12),
    "symbol": stored(0x0E, text(b"a symbol")),
    "object": of({"b": Int64(1), "a": [1.0, "x", {"y": None}]}),
    "empty object": of({}),
    "empty": of(""),
    "dot": of("."),
    "dots": of(".."),
    "up and away": of("../../../../../../etc"),
    "slash": of("/"),
    "slashes": of("a//b/"),
    "percent": of("100%"),
    "percent slash": of("a%2Fb"),
    "percent null": of("%00"),
    "null character": of("a\0b"),
    "only a null": of("\0"),
    "controls": of("\r\n\t\x1b\x7f"),
    "query": of("a?b=c&d#e"),
    "plus": of("a+b c"),
    "quotes": of("'\"\\"),
    "unicode": of("ü 漢字 🙂 \u2028 e\u0301"),
    "digits": of("42"),
    "hex": of("0123456789abcdef01234567"),
    "prefix": of("str:ejson:int:1"),
    "operator": of("$where"),
    "not text": stored(2, text(b"a\xff\xfeb")),
    "surrogate": stored(2, text(b"\xed\xa0\x80")),
    "not text within": stored(3, bson.encode({"a": "xxx"}).replace(b"xxx", b"x\xffx")),
    "undefined within": stored(3, framed(b"\x06u\0")),
    "undefined deep within": stored(3, framed(b"\x03u\0" + framed(b"\x04a\0" + framed(b"\x060\0")))),
    "symbol within": stored(3, framed(b"\x0es\0" + text(b"a symbol"))),
    "pointer within": stored(3, framed(b"\x0cp\0" + text(b"ns") + b"\1" * 12)),
    "pointer that is not text": stored(0x0C, text(b"\xff") + b"\1" * 12),
    "flags that nobody knows": stored(3, framed(b"\x0br\0(((\0zq\0")),
    "field twice within": stored(3, framed(b"\x10a\0\1\0\0\0", b"\x10a\0\2\0\0\0")),
    "array of no numbers within": stored(3, framed(b"\x04a\0" + framed(b"\x107\0\1\0\0\0"))),
    "reference to a damaged binary": stored(3, framed(b"\x02$ref\0" + text(b"c"), DAMAGED)),
    "nested reference to it": stored(3, framed(b"\x03r\0" + framed(b"\x02$ref\0" + text(b"c"), DAMAGED))),
    "reference to a short uuid": stored(3, framed(b"\x02$ref\0" + text(b"c"), b"\x05$id\0\1\0\0\0\x04a")),
    "reference of no text": stored(3, framed(b"\x02$ref\0" + text(b"\xff"), b"\x10$id\0\1\0\0\0")),
    "long id": of("x" * (MAX_ID_BYTES + 1)),
    "very long id": of("ü" * (MAX_READ_BYTES // 2)),
}


@pytest.fixture
async def collection(served: Any, client: Client) -> AsyncIterator[AsyncCollection[Any]]:
    """A collection of this test's own among the tracked ones, empty at first and at last."""
    found: AsyncCollection[Any] = client[served.settings.database].get_collection(COLLECTION)
    await found.delete_many({})
    yield found
    await found.delete_many({})


@pytest.fixture
async def others(served: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"{served.url}/v1/collections/{COLLECTION}/documents", timeout=patience(30)
    ) as opened:
        yield opened


async def listed(api: httpx.AsyncClient, limit: int = 100) -> list[str]:
    """The ids of all documents, page by page."""
    found: list[str] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        answer = await api.get(str(api.base_url).rstrip("/"), params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [row["id"] for row in page["documents"]]
        if "next" not in page:
            return found
        assert len(found) < 1000, "it goes round"
        query["after"] = page["next"]


async def history(api: httpx.AsyncClient, path: str, count: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    async with within(20):
        while len(events) < count:
            events = (await api.get(path + "/events")).json()["events"]
    return events


async def followed_ids(root: httpx.AsyncClient, shape: str) -> set[str]:
    """The ids of all that an event stream brings of the shape until it is live: a snapshot, and events behind it."""
    found: set[str] = set()
    async with httpx_sse.aconnect_sse(root, "GET", "/v1/sync/sse", params={"shape": shape}) as source:
        assert source.response.status_code == 200, await source.response.aread()
        async for event in source.aiter_sse():
            message = json.loads(event.data)
            assert message.get("shape", shape) == shape
            found |= {row["id"] for row in (*message.get("docs", ()), *message.get("events", ()))}
            if message["type"] == "live":
                break
    return found


@pytest.mark.parametrize("name", IDS)
async def test_each_listed_document_can_be_read_written_and_followed(
    root: httpx.AsyncClient, others: httpx.AsyncClient, collection: AsyncCollection[Any], name: str
) -> None:
    await collection.insert_one(IDS[name])
    (key,) = await listed(others)
    path = "/" + quote(key, safe="")
    read = await others.get(path)
    assert (read.status_code, read.json()["id"], read.json()["version"]) == (200, key, 0)
    patched = await others.patch(path, json={"a": 1}, headers=MERGE)
    assert (patched.status_code, patched.json()["id"]) == (200, key), patched.text
    tag = patched.headers["etag"]
    assert (await others.put(path, json={"a": 2}, headers={"if-match": '"99"'})).status_code == 412
    assert (await others.put(path, json={}, headers={"if-none-match": "*"})).status_code == 412
    assert (await others.put(path, json={"a": 3}, headers={"if-match": tag})).status_code == 200
    # A whole new form of the document, which can't be said by single fields.
    assert (await others.put(path, json={"b.c": {"": 1}, "a": 4})).status_code == 200
    assert await listed(others) == [key]

    events = await history(others, path, 4)
    assert {event["id"] for event in events} == {key}
    was = await others.get(path, params={"version": 1})
    assert was.status_code == 200, was.text
    assert was.json()["doc"]["a"] == 1
    difference = await others.get(path + "/diff", params={"from": "1", "to": "2"})
    assert difference.json()["patch"] == [{"op": "replace", "path": "/a", "value": 3}]

    shape = f"{COLLECTION}/{key}"
    if len(quote(shape, safe="")) < 40_000:
        assert await followed_ids(root, shape) == {key}
    moved = {"shape": shape, "position": f"{(await root.get('/readyz')).json()['position'].split(':')[0]}:0"}
    page = (await root.get("/v1/sync/log", params=moved)).json()
    assert {event["id"] for event in page["events"]} == {key}

    gone = await others.delete(path)
    assert (gone.status_code, gone.json()["id"]) == (200, key)
    assert (await others.get(path)).status_code == 404
    assert await listed(others) == []


@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_pages_continue_behind_each_id(
    others: httpx.AsyncClient, collection: AsyncCollection[Any], limit: int
) -> None:
    await collection.insert_many([*IDS.values(), of("y" * (MAX_READ_BYTES + 1)), of("y" * (MAX_READ_BYTES + 2))])
    whole = await listed(others)
    assert len(whole) == len(set(whole)) == len(IDS) + 2
    assert await listed(others, limit) == whole
    too_long = await others.get("/" + quote(whole[-1] if len(whole[-1]) > MAX_READ_BYTES else max(whole, key=len)))
    assert (too_long.status_code, too_long.json()["code"]) == (400, "malformed")
    assert str(MAX_READ_BYTES) in too_long.json()["detail"]


NO_CURSORS = ("[1]", "[-1,null]", "[true,null]", "[1,2]", "[", '[1.5,"a"]', f"[{2**40},null]", '[1,"int:x"]')


@pytest.mark.parametrize("after", [f"ejson:{text}" for text in NO_CURSORS])
async def test_malformed_cursors_are_refused(others: httpx.AsyncClient, after: str) -> None:
    answer = await others.get(str(others.base_url).rstrip("/"), params={"after": after})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


TWINS: list[tuple[Any, str]] = [
    (Decimal128("5"), "int:5"),
    (5, 'ejson:{"$numberDecimal":"5"}'),
    (5.0, "int:5"),
    (Decimal128("5.0"), 'ejson:{"$numberDecimal":"5"}'),
    (0.0, "ejson:-0.0"),
    ({"a": 1}, 'ejson:{"a":1.0}'),
]


@pytest.mark.parametrize(("there", "wanted"), TWINS, ids=str)
@pytest.mark.parametrize("keyed", [False, True])
async def test_ids_that_mongodb_considers_equal_are_refused_at_once(
    root: httpx.AsyncClient,
    others: httpx.AsyncClient,
    collection: AsyncCollection[Any],
    there: Any,
    wanted: str,
    keyed: bool,
) -> None:
    """Absent by our comparison, duplicate by MongoDB's index: 409 that says by which document, and no waiting."""
    await collection.insert_one(of(there, n=1))
    path, existing = "/" + quote(wanted, safe=""), format_id(there)
    headers = {"idempotency-key": secrets.token_hex(8)} if keyed else {}
    assert (await others.get(path)).status_code == 404
    for answer in (
        await others.put(path, json={}, headers=headers),
        await others.put(path, json={}, headers={"if-none-match": "*"}),
        await root.post(
            "/v1/transactions",
            json={"operations": [{"method": "PUT", "collection": COLLECTION, "id": wanted, "doc": {}}]},
        ),
    ):
        assert (answer.status_code, answer.json()["code"], answer.json()["existing"]) == (409, "conflict", existing)
        assert existing in answer.json()["detail"]
        assert "retry-after" not in answer.headers
    post = await root.post(
        f"/v1/collections/{COLLECTION}/documents", json={"_id": json.loads(wanted.partition(":")[2])}
    )
    assert post.status_code == 409
    assert (await others.delete(path)).status_code == 404
    assert await listed(others) == [existing]


async def test_ids_under_a_collation(served: Any, client: Client) -> None:
    name = f"folded_{secrets.token_hex(4)}"
    database = client[served.settings.database]
    await database.create_collection(name, collation={"locale": "en", "strength": 2, "numericOrdering": True})
    await database[name].insert_many([{"_id": word} for word in ("Abc", "b10", "b9", "ü")])
    tracking = client[served.settings.log_db]["collections"]
    await tracking.update_one({"_id": name}, {"$setOnInsert": {"_id": name}}, upsert=True)
    await tracked(served.url, [name])
    base = f"{served.url}/v1/collections/{name}/documents"
    try:
        async with httpx.AsyncClient(base_url=base, timeout=patience(30)) as api:
            for limit in (1, 2, 100):
                assert await listed(api, limit) == ["Abc", "b9", "b10", "ü"]
            assert (await api.get("/abc")).status_code == 404
            taken = await api.put("/abc", json={})
            assert (taken.status_code, taken.json()["existing"]) == (409, "Abc")
            for key in ("Abc", "b10"):
                assert (await api.patch(f"/{key}", json={"n": 1}, headers=MERGE)).status_code == 200
                assert (await api.put(f"/{key}", json={"n": 2})).status_code == 200
                assert (await api.delete(f"/{key}")).status_code == 200
            assert await listed(api) == ["b9", "ü"]
    finally:
        await tracking.delete_one({"_id": name})
        await database[name].drop()


async def test_ids_of_new_documents_are_bounded(others: httpx.AsyncClient) -> None:
    for key in ("x" * (MAX_ID_BYTES + 1), "ejson:null"):
        answer = await others.put("/" + quote(key, safe=""), json={})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1).map(lambda n: n if -(2**31) <= n < 2**31 else Int64(n))
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.binary(max_size=6)
    | st.builds(Binary, st.binary(max_size=17), st.sampled_from([3, 4, 5, 128]))
    | st.builds(lambda n, e: Decimal128(f"{n}E{e}"), st.integers(-99, 99), st.integers(-9, 9))
    | st.builds(DBRef, st.text("ab", min_size=1, max_size=3), st.integers(0, 9)),
    lambda inner: st.dictionaries(
        st.text("ab.é", min_size=1, max_size=3), inner | st.lists(inner, max_size=2), max_size=3
    ),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=1, max_size=6))
async def test_random_ids_work_on_all_routes(
    others: httpx.AsyncClient, collection: AsyncCollection[Any], values: list[Any]
) -> None:
    await collection.delete_many({})
    for value in values:
        with suppress(bson.errors.BSONError, DuplicateKeyError, WriteError):  # no id, or one that is there already
            await collection.insert_one(of(value))
    keys = await listed(others)
    assert len(set(keys)) == await collection.count_documents({})
    assert await listed(others, 1) == keys
    for key in keys:
        path = "/" + quote(key, safe="")
        assert (await others.get(path)).json()["id"] == key
        assert (await others.patch(path, json={"n": 1}, headers=MERGE)).status_code == 200
        assert (await others.delete(path)).status_code == 200
    assert await listed(others) == []


@pytest.mark.parametrize("version", [2**63 - 1, 2**53, -5, True, 7.0, "7"], ids=str)
async def test_foreign_sync_field_does_not_prevent_writes(
    others: httpx.AsyncClient, collection: AsyncCollection[Any], version: Any
) -> None:
    """A version that others leave in `_sync` counts only where every client could count on from it."""
    await collection.insert_one(
        {"_id": f"stamped {version}", "a": 0, "_sync": {"v": Int64(version) if type(version) is int else version}}
    )
    path = "/" + quote(f"stamped {version}")
    read = await others.get(path)
    assert (read.status_code, read.json()["version"]) == (200, 0)
    patched = await others.patch(path, json={"a": 1}, headers={**MERGE, "if-match": read.headers["etag"]})
    assert (patched.status_code, patched.json()["version"]) == (200, 1), patched.text
    _, told = await history(others, path, 2)
    assert (told["op"], told["base"], told["version"]) == ("update", 0, 1)
