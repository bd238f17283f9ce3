"""Following a declared shape for long: definitions that change, refusals, reconnects, acknowledged positions."""

from __future__ import annotations

from typing import Final

import httpx
import pytest
from httpx_sse import aconnect_sse

from conformance.declared import REFETCHED, Rules, event_sources, everybody, found, streams
from eventsync.api import openapi
from support.json_schema import faults
from support.peers.peer import Message, Peer
from support.peers.python import Websockets
from support.peers.served import Served
from support.peers.talk import Copy, talking
from support.replica import log_of, seq_of
from support.tcp_proxy import tcp_proxy
from support.waiting import patience, within

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
