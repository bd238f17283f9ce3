"""Declared shapes, as docs/reference/protocol.md has them, with real clients of every make on all transports.

What a client has to hold is asked of MongoDB itself, by a filter that stands in the test.
"""

from __future__ import annotations

import uuid
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from pymongo import UpdateOne

from conformance.declared import REFETCHED, Rules, everybody, found, streams, told
from eventsync.stores.stores import Stores
from support.peers.peer import Peer
from support.peers.python import Websockets
from support.peers.served import Served
from support.peers.talk import Copy, talking
from support.replay import caught_up
from support.replica import log_of
from support.writers import PATCH

LONG: Final = "x" * 200
"""Text that makes a patch shorter than its document."""


@everybody
async def test_documents_enter_and_leave_exactly(
    peer: Peer, door: str, served: Served, rules: Rules, api: httpx.AsyncClient, key: str
) -> None:
    """Declared shapes: "**Enter**: … with the whole document"; "**Leave**: … and has nothing of the content"."""
    cards, shape = served.collection("cards"), f"my_cards?board={key}"
    path, copy = f"/cards/documents/{key}", Copy(shape)

    async def moved(**fields: Any) -> None:
        patch = [{"op": "add", "path": f"/{name}", "value": value} for name, value in fields.items()]
        (await api.patch(path, json=patch, headers=PATCH)).raise_for_status()

    await api.put(path, json={"board": "elsewhere", "n": 0})
    async with talking(peer, door, copy) as talk:
        await talk.live()
        assert copy.only.documents == {}
        await moved(n=1)  # nobody here sees this
        await moved(board=key)
        await moved(n=2)
        await moved(archived=True)
        await moved(n=3)  # nor this
        await moved(archived=False)
        await api.put(path, json={"board": "elsewhere", "secret": "x"})
        await api.put(path, json={"board": key})
        await api.delete(path)
        await cards.insert_one({"_id": f"{key}-end", "board": key})
        await talk.has(shape, f"{key}-end")
    assert told(talk)[:-1] == [
        {
            "id": key, "op": "create", "enter": True, "base": 2, "version": 3,
            "doc": {"_id": key, "board": key, "n": 1},
        },
        {
            "id": key, "op": "update", "base": 3, "version": 4,
            "patch": [{"op": "replace", "path": "/n", "value": 2}],
        },
        {"id": key, "op": "delete", "leave": True, "base": 4, "version": 5},
        {
            "id": key, "op": "create", "enter": True, "base": 6, "version": 7,
            "doc": {"_id": key, "archived": False, "board": key, "n": 3},
        },
        {"id": key, "op": "delete", "leave": True, "base": 7, "version": 8},
        {"id": key, "op": "create", "enter": True, "base": 8, "version": 9, "doc": {"_id": key, "board": key}},
        {"id": key, "op": "delete", "base": 9, "version": 10},
    ]  # fmt: skip
    assert copy.only.documents == {f"{key}-end": {"_id": f"{key}-end", "board": key}}
    log, _, scope = log_of(copy.only.position or "").partition(".")
    assert (len(log), len(scope)) == (8, 8)


@everybody
async def test_client_resumes_across_enter_and_leave(
    peer: Peer, door: str, served: Served, rules: Rules, key: str
) -> None:
    """Declared shapes: "a client that comes back gets the events … those that enter and leave included"."""
    cards, shape, copy = served.collection("cards"), f"my_cards?board={key}", Copy(f"my_cards?board={key}")
    names = ("stays", "leaves", "returns", "enters", "passes", "goes")
    for name in names:
        board = "elsewhere" if name in {"enters", "passes"} else key
        await cards.insert_one({"_id": f"{key}-{name}", "board": board, "n": 0})
    async with talking(peer, door, copy) as talk:
        await talk.has(shape, f"{key}-goes")
    assert len(copy.only.documents) == 4

    async def moved(name: str, board: str) -> None:
        await cards.update_one({"_id": f"{key}-{name}"}, {"$set": {"board": board}})

    await cards.update_one({"_id": f"{key}-stays"}, {"$inc": {"n": 1}})
    await moved("leaves", "elsewhere")
    await cards.update_one({"_id": f"{key}-leaves"}, {"$set": {"secret": "x"}})
    await moved("returns", "elsewhere")
    await cards.update_one({"_id": f"{key}-returns"}, {"$inc": {"n": 7}})
    await moved("returns", key)
    await moved("enters", key)
    await moved("passes", key)
    await moved("passes", "elsewhere")
    await cards.delete_one({"_id": f"{key}-goes"})
    await cards.insert_one({"_id": f"{key}-end", "board": key})
    async with talking(peer, door, copy) as talk:
        await talk.has(shape, f"{key}-end")
    assert copy.only.documents == await found(served, "cards", {"board": key, "archived": {"$ne": True}})
    assert sorted(copy.only.documents) == [f"{key}-{name}" for name in ("end", "enters", "returns", "stays")]
    assert not REFETCHED & set(talk.kinds)
    words = [(event["id"].removeprefix(f"{key}-"), event["op"], *({"enter", "leave"} & event.keys()))
             for event in talk.events]  # fmt: skip
    assert words == [
        ("stays", "update"),
        ("leaves", "delete", "leave"),
        ("returns", "delete", "leave"),
        ("returns", "create", "enter"),
        ("enters", "create", "enter"),
        ("passes", "create", "enter"),
        ("passes", "delete", "leave"),
        ("goes", "delete"),
        ("end", "create"),
    ]
    assert all("x" not in event.get("doc", {}).values() for event in talk.events)


@everybody
async def test_transaction_counts_what_the_shape_shows(
    peer: Peer, door: str, rules: Rules, api: httpx.AsyncClient, key: str
) -> None:
    """Declared shapes: "`n` and `of` of a `txn` count the events that the shape shows"."""
    copy = Copy(f"my_cards?board={key}")
    await api.put(f"/cards/documents/{key}-in", json={"board": key})

    def put(name: str, board: str) -> dict[str, Any]:
        return {"method": "PUT", "collection": "cards", "id": f"{key}-{name}", "doc": {"board": board}}

    async with talking(peer, door, copy) as talk:
        await talk.has(copy.only.shape, f"{key}-in")
        for operations in (
            [put("out", "elsewhere"), put("a", key), put("in", "elsewhere"), put("b", key)],
            [put("out", "further"), put("c", key)],
        ):
            answer = await api.post("/../transactions", json={"operations": operations})
            assert answer.status_code == 200, answer.text
        await talk.has(copy.only.shape, f"{key}-c")
    seen = [(event["id"].removeprefix(f"{key}-"), event["op"], event.get("txn")) for event in talk.events]
    (name,) = {txn["id"] for _, _, txn in seen if txn}
    assert seen[-4:] == [
        ("a", "create", {"id": name, "n": 1, "of": 3}),
        ("in", "delete", {"id": name, "n": 2, "of": 3}),
        ("b", "create", {"id": name, "n": 3, "of": 3}),
        ("c", "create", None),
    ]
    frames = [message["events"] for message in talk.seen if message["type"] == "events"]
    assert any([event["id"] for event in events if "txn" in event] == [f"{key}-{word}" for word in ("a", "in", "b")]
               for events in frames)  # fmt: skip


@everybody
async def test_arrays_are_access_lists(peer: Peer, door: str, served: Served, rules: Rules, key: str) -> None:
    """A parameter at the path of an array stands for one of its items."""
    cards = served.collection("cards")
    ann, bob = f"readable?reader={key}-ann", f"readable?reader={key}-bob"
    copy = Copy(ann, bob)

    async def readers(*names: str) -> None:
        listed = [f"{key}-{name}" for name in names]
        await cards.update_one({"_id": key}, {"$set": {"readers": listed, "text": LONG}}, upsert=True)

    async with talking(peer, door, copy) as talk:
        await talk.live()
        await readers("ann", "ann", "carl")
        await readers("ann", "bob")
        await readers("bob")
        await readers()
        await cards.update_one({"_id": key}, {"$set": {"readers": f"{key}-ann"}})  # not even a list
        await cards.insert_one({"_id": f"{key}-end", "readers": [f"{key}-bob", f"{key}-ann"]})
        for shape in (ann, bob):
            await talk.has(shape, f"{key}-end")
    seen = {
        shape: [
            next((word for word in ("enter", "leave") if word in event), event["op"])
            for message in talk.seen
            if message["type"] == "events" and message["shape"] == shape
            for event in message["events"]
        ]
        for shape in (ann, bob)
    }
    assert seen == {
        ann: ["create", "update", "leave", "enter", "create"],
        bob: ["enter", "update", "leave", "create"],
    }
    for name, shape in (("ann", ann), ("bob", bob)):
        assert copy[shape].documents == await found(served, "cards", {"readers": f"{key}-{name}"})


@everybody
async def test_list_of_values_is_one_shape(peer: Peer, door: str, served: Served, rules: Rules, key: str) -> None:
    """Values, Shape: "A parameter that stands for a list is given several times"."""
    cards, shape = served.collection("cards"), f"boards?boards={key}-a&boards={key}-b"
    copy = Copy(shape)
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await cards.insert_one({"_id": key, "board": f"{key}-a", "text": LONG})
        for board in ("b", "c", "a"):
            await cards.update_one({"_id": key}, {"$set": {"board": f"{key}-{board}"}})
        await cards.insert_one({"_id": f"{key}-end", "board": f"{key}-b"})
        await talk.has(shape, f"{key}-end")
    words = [next((word for word in ("enter", "leave") if word in event), event["op"]) for event in talk.events]
    assert words == ["create", "update", "leave", "enter", "create"]
    assert copy.only.documents == await found(served, "cards", {"board": {"$in": [f"{key}-a", f"{key}-b"]}})


VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "ü b/7?&=+%41": ("ü b/7?&=+%41",),
    "str:int:5": ("int:5",),
    "int:5": (5, Int64(5), 5.0, Decimal128("5")),
    "ejson:0.1": (0.1,),
    'ejson:{"$numberDecimal":"0.1"}': (Decimal128("0.1"), Decimal128("0.10")),
    "bool:true": (True,),
    "bool:false": (False,),
    'ejson:{"$date":"2026-11-23T05:22:46.405Z"}': (datetime(2026, 11, 23, 5, 22, 46, 405000, tzinfo=UTC),),
    "59a47286cfa9a3a73e51e72c": (ObjectId("59a47286cfa9a3a73e51e72c"),),
    "uuid:0f8fad5b-d9cb-469f-a165-70867728950e": (Binary.from_uuid(uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")),),
    "null:": (None, ...),
}
"""Text of a parameter's value → the values of documents that it stands for. `...`: there is no such field."""


@pytest.mark.slow
@everybody
async def test_parameter_of_each_type(peer: Peer, door: str, served: Served, rules: Rules, key: str) -> None:
    """Values, Shape: "one text for equal numbers"; null stands for a field that is null or missing."""
    values = served.collection("values")
    shapes = {f"of_value?value={quote(text, safe=':')}": stored for text, stored in VALUES.items()}
    copy = Copy(*shapes)
    rows = [
        {"_id": f"{key}-{number}-{at}"} | ({} if value is ... else {"value": value})
        for number, stored in enumerate(VALUES.values())
        for at, value in enumerate(stored)
    ]
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await values.insert_many(rows)
        for number, shape in enumerate(shapes):
            await talk.has(shape, f"{key}-{number}-0")
    # Each document moves to the shape of the next value.
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        change = {"$set": {"value": other["value"]}} if "value" in other else {"$unset": {"value": ""}}
        await values.update_one({"_id": row["_id"]}, change)
    ends = [{"_id": f"{key}-end-{number}", "value": stored[0]} for number, stored in enumerate(VALUES.values())]
    await values.insert_many(ends)
    async with talking(peer, door, copy) as talk:
        for shape, end in zip(shapes, ends, strict=True):
            await talk.has(shape, end["_id"])
        assert not REFETCHED & set(talk.kinds)
    for shape, stored in shapes.items():
        assert copy[shape].documents == await found(served, "values", {"value": stored[0]}), shape


@everybody
async def test_shape_without_parameters(peer: Peer, door: str, served: Served, rules: Rules, key: str) -> None:
    """Values, Shape: "`my_orders?` is one without parameters"."""
    cards, copy = served.collection("cards"), Copy("pinned?", "cards")
    await cards.insert_many([{"_id": f"{key}-{number}", "pinned": number == 1} for number in range(3)])
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await cards.update_one({"_id": f"{key}-0"}, {"$set": {"pinned": True}})
        moved = f"{key}-0"
        await talk.until(lambda _: all(copy[name].documents.get(moved, {}).get("pinned") for name in copy.replicas))
    assert copy["pinned?"].documents == await found(served, "cards", {"pinned": True})
    assert f"{key}-2" in copy["cards"].documents
    assert log_of(copy["cards"].position or "") == log_of(copy["pinned?"].position or "").partition(".")[0]


@pytest.fixture(scope="package")
async def far_behind(served: Served, rules: Rules) -> Copy:
    """Return the copy of a client that has missed thousands of changes of its shape, also a leave and an enter."""
    cards, copy = served.collection("cards"), Copy("my_cards?board=busy")
    await cards.insert_many([{"_id": f"busy-{n}", "board": "busy" if n < 5 else "elsewhere"} for n in range(6)])
    async with talking(Websockets(), served.url, copy) as talk:
        await talk.live()
        await talk.has("my_cards?board=busy", "busy-4")
    changes = [UpdateOne({"_id": "busy-0"}, {"$inc": {"n": 1}}) for _ in range(3000)]
    moves = [
        UpdateOne({"_id": f"busy-{n}"}, {"$set": {"board": board}}) for n, board in ((1, "elsewhere"), (5, "busy"))
    ]
    await cards.bulk_write([*changes, *moves])
    await cards.delete_one({"_id": "busy-2"})
    await caught_up(Stores.of(served.client, served.settings))
    return copy


@streams
async def test_client_far_behind_gets_squashed_documents(
    peer: Peer, door: str, served: Served, far_behind: Copy
) -> None:
    """Declared shapes: "or `squashed`, where a document that has left is `{"id", "deleted": true}`"."""
    copy = deepcopy(far_behind)
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await talk.has(copy.only.shape, "busy-5")
        await talk.until(lambda _: "busy-2" not in copy.only.rows)
    assert copy.only.documents == await found(served, "cards", {"board": "busy"})
    assert {"squashed", "snapshot"} & set(talk.kinds)
    assert "reset" not in talk.kinds
    assert len(talk.events) < 1000
