"""Declared shapes, as docs/reference/protocol.md has them, with real clients of every make on all transports.

What a client has to hold is asked of MongoDB itself, by a filter that stands in the test.
"""

from __future__ import annotations

import tomllib
import uuid
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from httpx_sse import aconnect_sse
from pymongo import UpdateOne

from eventsync.api import openapi
from eventsync.domain.predicates.declarations import read_rules
from eventsync.domain.predicates.definitions import Definition
from eventsync.stores.log.definitions import Declaration
from eventsync.stores.stores import Stores
from support.json_schema import faults
from support.peers.makes import MAKES, of_transport
from support.peers.peer import Message, Peer
from support.peers.python import Websockets
from support.peers.served import Rows, Served
from support.peers.talk import Copy, Talk, talking
from support.replay import caught_up, eventually
from support.replica import log_of, seq_of, to_tree
from support.tcp_proxy import tcp_proxy
from support.waiting import patience, within
from support.writers import PATCH, documents_of

REFETCHED: Final = {"snapshot", "squashed", "reset"}

LONG: Final = "x" * 200
"""Text that makes a patch shorter than its document."""

RULES: Final = """
[shapes.my_cards]
collection = "cards"
where = { board = "$board", archived = { "$ne" = true } }
parameters = { board = { type = "text" } }

[shapes.boards]
collection = "cards"
where = { board = { "$in" = "$boards" } }
parameters = { boards = { type = "text" } }

[shapes.readable]
collection = "cards"
where = { readers = "$reader" }
parameters = { reader = { type = "text" } }

[shapes.of_value]
collection = "values"
where = { value = "$value" }
parameters = { value = { type = ["text", "int", "number", "bool", "date", "oid", "uuid", "null"] } }

[shapes.pinned]
collection = "cards"
where = { pinned = true }
"""

everybody = pytest.mark.parametrize("peer", MAKES, indirect=True)
streams = pytest.mark.parametrize("peer", of_transport("websocket", "sse"), indirect=True)
event_sources = pytest.mark.parametrize("peer", ["node-eventsource", "chromium-eventsource"], indirect=True)


class Rules:
    """The declared shapes of the system. `extra` is one more shape."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._store = Stores.of(served.client, served.settings).definitions

    async def apply(self, extra: str = "") -> dict[str, Definition]:
        """Declare the shapes of `RULES` and `extra`, and no others."""
        declarations = read_rules(tomllib.loads(RULES + extra))
        assert not declarations.problems
        await self._store.apply([Declaration.of(definition) for definition in declarations.definitions.values()])
        return dict(declarations.definitions)

    async def active(self, extra: str = "", **parameters: str) -> str:
        """Declare the shapes; once the server serves the last one by its present definition, return its text."""
        name, definition = [*(await self.apply(extra)).items()][-1]
        route = definition.bind(parameters)
        async with httpx.AsyncClient(base_url=self._served.url, timeout=patience(20)) as client:

            async def is_served() -> bool | None:
                answer = await client.get("/v1/sync/snapshot", params={"shape": str(route.shape)})
                return True if answer.status_code == 200 and f".{route.scope}:" in answer.text else None

            await eventually(Stores.of(self._served.client, self._served.settings), "shapes", is_served)
        assert route.shape.name == name
        return str(route.shape)


@pytest.fixture(scope="session")
async def rules(served: Served) -> Rules:
    rules = Rules(served)
    await rules.active()
    return rules


async def found(served: Served, name: str, query: dict[str, Any]) -> Rows:
    """Return the rows that MongoDB finds."""
    whole = await documents_of(served.collection(name))
    ids = {document["_id"] async for document in served.collection(name).find(query, {"_id": 1})}
    return {text: to_tree(document) for text, document in whole.items() if document["_id"] in ids}


def told(talk: Talk) -> list[dict[str, Any]]:
    """Return all that came of events, without times, seqs and the collection."""
    kept = ("id", "op", "enter", "leave", "base", "version", "patch", "doc", "txn")
    return [{name: event[name] for name in kept if name in event} for event in talk.events]


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


CHANGING: Final = """
[shapes.{name}]
collection = "cards"
where = {{ board = "$board", n = {{ "$gte" = {least} }} }}
parameters = {{ board = {{ type = "text" }} }}
"""


@everybody
async def test_client_that_returns_to_another_definition_is_reset(
    peer: Peer, door: str, served: Served, rules: Rules, key: str
) -> None:
    """Declared shapes: "**Another definition** … A client that comes back later gets the same (… 409 `reset`)"."""
    cards = served.collection("cards")
    await cards.insert_many([{"_id": f"{key}-{n}", "board": key, "n": n} for n in range(4)])
    shape = await rules.active(CHANGING.format(name=key, least=1), board=key)
    copy = Copy(shape)
    async with talking(peer, door, copy) as talk:
        await talk.has(shape, f"{key}-3")
    assert len(copy.only.documents) == 3
    before = copy.only.position or ""
    assert await rules.active(CHANGING.format(name=key, least=2), board=key) == shape
    async with talking(peer, door, copy) as talk:
        await talk.until(lambda message: message["type"] == "snapshot" and message["last"])
        await talk.live()
        await cards.insert_one({"_id": f"{key}-end", "board": key, "n": 9})
        await talk.has(shape, f"{key}-end")
    (reset,) = [message for message in talk.seen if message["type"] == "reset"]
    assert (reset["shape"], reset["reason"]) == (shape, "scope_changed")
    assert copy.only.documents == await found(served, "cards", {"board": key, "n": {"$gte": 2}})
    after = copy.only.position or ""
    assert log_of(before) != log_of(after)
    assert log_of(before).partition(".")[0] == log_of(after).partition(".")[0]
    assert seq_of(before) < seq_of(after)


@streams
async def test_live_client_follows_a_changed_definition(
    peer: Peer, door: str, served: Served, rules: Rules, key: str
) -> None:
    """Declared shapes: "a `reset` with `scope_changed` and a snapshot on the same connection"; "applied again unchanged
    resets nobody"; "A shape that is taken away … ends with an `error`".
    """
    cards, steady = served.collection("cards"), f"my_cards?board={key}"
    await cards.insert_many([{"_id": f"{key}-{n}", "board": key, "n": n} for n in range(4)])
    shape = await rules.active(CHANGING.format(name=key, least=1), board=key)
    copy = Copy(shape, steady)
    async with talking(peer, door, copy) as talk:
        await talk.has(shape, f"{key}-3")
        await talk.live()
        await rules.active(CHANGING.format(name=key, least=2), board=key)
        await talk.until(lambda message: message["type"] == "reset")
        await talk.live()
        await cards.update_one({"_id": f"{key}-3"}, {"$set": {"n": 1}})
        await cards.update_one({"_id": f"{key}-0"}, {"$set": {"n": 5}})
        await talk.has(shape, f"{key}-0")
        assert copy[shape].documents == await found(served, "cards", {"board": key, "n": {"$gte": 2}})
        await rules.apply()
        error: Message = await talk.until(lambda message: message["type"] == "error")
        assert (error["code"], error["shape"]) == ("unknown_shape", shape)
        taken_away = copy.replicas.pop(shape)
        await cards.insert_one({"_id": f"{key}-end", "board": key, "n": 9})
        await talk.has(steady, f"{key}-end")
    (reset,) = [message for message in talk.seen if message["type"] == "reset"]
    assert (reset["shape"], reset["reason"]) == (shape, "scope_changed")
    assert copy[steady].documents == await found(served, "cards", {"board": key})
    assert f"{key}-end" not in taken_away.documents


@everybody
@pytest.mark.parametrize(
    ("shape", "status", "code"),
    [
        ("undeclared?board=7", 404, "unknown_shape"),
        ("my_cards?", 400, "invalid_predicate"),
        ("my_cards?board=int:7", 400, "invalid_predicate"),
        ("my_cards?board=7&board=8", 400, "invalid_predicate"),
        ("my_cards?board=7&owner=8", 400, "invalid_predicate"),
    ],
)
async def test_wrong_shape_is_refused(
    peer: Peer, served: Served, rules: Rules, shape: str, status: int, code: str
) -> None:
    """Declared shapes: "`unknown_shape` (404): nothing of this name …"; "`invalid_predicate` (400): …"."""
    async with talking(peer, served.url, Copy(shape)) as talk:
        if peer.transport == "websocket":
            error = await talk.until(lambda message: message["type"] == "error")
            assert (error["code"], error["shape"]) == (code, shape)
            assert "retry_after" not in error
            return
        ended = await talk.over()
    # A browser does not tell the page the status.
    assert ended.code == status or peer.name == "chromium-eventsource"


@event_sources
@pytest.mark.parametrize("number", [2, 40], ids=["long ids", "short ids"])
async def test_event_source_reconnects_by_itself(
    peer: Peer, door: str, served: Served, rules: Rules, key: str, number: int
) -> None:
    """SSE: "the browser's own reconnect … resumes exactly", by positions with scopes, in both forms of the vector."""
    cards, shapes = served.collection("cards"), [f"my_cards?board={key}-{at}" for at in range(number)]
    moved = {"_id": f"{key}-moved", "board": f"{key}-0"}
    await cards.insert_one(moved)
    copy = Copy(*shapes)
    async with tcp_proxy(door) as wire, talking(peer, wire.url, copy) as talk:
        await talk.has(shapes[0], moved["_id"])
        await talk.live()
        wire.cut()
        await talk.over()
        copy.disconnected()
        await cards.update_one({"_id": moved["_id"]}, {"$set": {"board": f"{key}-1"}})
        await talk.has(shapes[1], moved["_id"])
        await talk.until(lambda _: not copy[shapes[0]].rows)
    again = talk.kinds.index("welcome", 1)
    assert not REFETCHED & set(talk.kinds[again:])
    missed = [event for message in talk.seen[again:] for event in message.get("events", ())]
    assert sorted(({"enter", "leave"} & event.keys()).pop() for event in missed) == ["enter", "leave"]


@pytest.fixture(scope="session")
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


async def test_acknowledged_position_of_a_declared_shape_is_kept(served: Served, rules: Rules, key: str) -> None:
    """State vectors: "`GET` …; `PUT` … acknowledges"; "A client that comes with its id and *without* a `vector`"."""
    shape, cards = f"my_cards?board={key}", served.collection("cards")
    where, copy = f"/v1/state-vectors/{key}", Copy(shape)
    await cards.insert_one({"_id": f"{key}-1", "board": key})
    async with talking(Websockets(), served.url, copy) as talk:
        await talk.has(shape, f"{key}-1")
    position = copy.only.position or ""
    log, _, scope = log_of(position).partition(".")
    async with httpx.AsyncClient(base_url=served.url, timeout=patience(20)) as client:
        for wrong, reason in ((f"{log}:5", "scope_changed"), (f"zzzzzzzz.{scope}:5", "unknown_log")):
            refused = await client.put(where, json={"vector": {shape: wrong}})
            assert (refused.status_code, refused.json()["reason"]) == (409, reason), refused.text
        put = (await client.put(where, json={"vector": {shape: position}})).raise_for_status().json()
        assert put["vector"] == {shape: position}
        assert put["lag"][shape]["events"] == 0
        await cards.update_one({"_id": f"{key}-1"}, {"$set": {"board": "elsewhere"}})
        await cards.insert_one({"_id": f"{key}-2", "board": "elsewhere"})
        page = (await client.get("/v1/sync/log", params={"shape": shape, "position": position, "wait": 10})).json()
        assert [event.get("leave") for event in page["events"]] == [True]
        assert (await client.get(where)).json()["lag"][shape]["events"] == 1
        async with (
            aconnect_sse(client, "GET", "/v1/sync/sse", params={"shape": shape, "client_id": key}) as source,
            within(20),
        ):
            kinds = []
            async for event in source.aiter_sse():
                kinds.append(event.event)
                if event.event == "live":
                    break
        assert kinds == ["welcome", "events", "live"]


async def test_messages_match_the_schemas(served: Served, rules: Rules, key: str) -> None:
    """`/openapi.json`: the pattern of positions, `enter`, `leave`, the reasons, and what is listed of the shapes."""
    document, cards = openapi.document(), served.collection("cards")
    shape = await rules.active(CHANGING.format(name=key, least=1), board=key)
    copy = Copy(shape)
    async with talking(Websockets(), served.url, copy) as talk:
        await talk.live()
        await cards.insert_one({"_id": key, "board": "elsewhere", "n": 1})
        for board in (key, "elsewhere"):
            await cards.update_one({"_id": key}, {"$set": {"board": board}})
        await talk.until(lambda _: any("leave" in event for event in talk.events))
        await rules.active(CHANGING.format(name=key, least=2), board=key)
        await talk.until(lambda message: message["type"] == "reset")
        await talk.live()
    assert any("enter" in event for event in talk.events)
    message = {"$ref": "#/components/schemas/ServerMessage"}
    event = {"$ref": "#/components/schemas/Event"}
    assert not [fault for seen in talk.seen for fault in faults(document, message, seen)]
    assert not [fault for seen in talk.events for fault in faults(document, event, seen)]
    async with httpx.AsyncClient(base_url=served.url, timeout=patience(20)) as client:
        listed = (await client.get("/v1/collections")).json()
    assert not list(faults(document, {"$ref": "#/components/schemas/Collections"}, listed))
    assert {"name": "boards", "collection": "cards", "parameters": {"boards": ["text"]}, "lists": ["boards"]} in listed[
        "shapes"
    ]
    assert {"name": "pinned", "collection": "cards", "parameters": {}} in listed["shapes"]
