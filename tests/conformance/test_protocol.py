"""docs/reference/protocol.md, held against real clients of every make: one scenario, all transports.

Each test quotes what it is about. Those with a `door` run twice: straight to the server, and through nginx.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from pymongo import UpdateOne

from eventsync.stores.stores import Stores
from support.peers.makes import MAKES, of_transport
from support.peers.peer import Message, Peer
from support.peers.python import Websockets
from support.peers.served import CATALOG, COLLECTIONS, Served
from support.peers.talk import Copy, talking
from support.replay import caught_up
from support.replica import log_of, seq_of
from support.systems import running_server, tracked
from support.tcp_proxy import tcp_proxy
from support.waiting import time_limits
from support.writers import PATCH

MERGE = {"content-type": "application/merge-patch+json"}

REFETCHED = {"snapshot", "squashed", "reset"}
"""Messages that a client with a small backlog never gets."""

everybody = pytest.mark.parametrize("peer", MAKES, indirect=True)
streams = pytest.mark.parametrize("peer", of_transport("websocket", "sse"), indirect=True)
sockets = pytest.mark.parametrize("peer", of_transport("websocket"), indirect=True)
event_sources = pytest.mark.parametrize("peer", ["node-eventsource", "chromium-eventsource"], indirect=True)


def told(events: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Return the events of one document, without times and seqs."""
    kept = ("op", "base", "version", "patch", "doc", "external")
    return [{name: event[name] for name in kept if name in event} for event in events if event["id"] == key]


@everybody
async def test_new_client_gets_a_snapshot_and_is_live(
    peer: Peer, door: str, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """Syncing: "A shape with no position gets a snapshot."; "`live`: caught up; what follows happened after"."""
    for number in range(5):
        await api.put(f"/orders/documents/{key}-{number}", json={"n": number})
    copy = Copy("orders")
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await api.put(f"/orders/documents/{key}", json={"last": True})
        await talk.has("orders", key)
    assert copy.only.documents == await served.rows("orders")
    assert copy.only.resets == 0
    opening = ["snapshot"] if peer.transport == "http" else ["welcome", "snapshot"]
    # A busy machine may have a heartbeat in between.
    assert [kind for kind in talk.kinds if kind != "progress"][: len(opening)] == opening


@streams
async def test_first_message_is_welcome(peer: Peer, served: Served) -> None:
    """`welcome`: "first; `vector` is what the server has stored for this client id"."""
    async with talking(peer, served.url, Copy("orders")) as talk:
        welcome = await talk.until(lambda _: True)
        await talk.live()
    assert {"session": "", "client_id": "", **welcome} | {"session": "", "client_id": ""} == {
        "type": "welcome", "session": "", "client_id": "", "protocol": 1,
        "heartbeat": served.settings.heartbeat, "vector": {},
    }  # fmt: skip


@everybody
async def test_live_client_gets_each_event_once(
    peer: Peer, door: str, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """Values, Event: "`create` and `replace` carry `doc`; `update` carries `patch` …; `delete` carries neither.
    `base` = version before. `external: true` where the write did not come through the API."
    """
    path, copy = f"/orders/documents/{key}", Copy("orders")
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await api.put(path, json={"a": 1, "list": [1, 2]})
        await api.patch(path, json=[{"op": "add", "path": "/list/-", "value": "ü"}], headers=PATCH)
        await api.patch(path, json={"a": {"b": None, "c": 2}}, headers=MERGE)
        await api.put(path, json={"b": 3})
        await served.collection("orders").update_one({"_id": key}, {"$set": {"b": 4}})
        await api.delete(path)
        await api.put(f"{path}-end", json={})
        await talk.has("orders", f"{key}-end")
    assert copy.only.documents == await served.rows("orders")
    events = talk.events
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert told(events, key) == [
        {"op": "create", "base": 0, "version": 1, "doc": {"_id": key, "a": 1, "list": [1, 2]}},
        {"op": "update", "base": 1, "version": 2, "patch": [{"op": "add", "path": "/list/2", "value": "ü"}]},
        {"op": "update", "base": 2, "version": 3, "patch": [{"op": "replace", "path": "/a", "value": {"c": 2}}]},
        {"op": "replace", "base": 3, "version": 4, "doc": {"_id": key, "b": 3}},
        {
            "op": "update",
            "base": 4,
            "version": 4,
            "patch": [{"op": "replace", "path": "/b", "value": 4}],
            "external": True,
        },
        {"op": "delete", "base": 4, "version": 5},
    ]


@everybody
async def test_client_resumes_exactly_after_a_cut(
    peer: Peer, door: str, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """`events`: "apply those with `seq` beyond the own position, now at `to`": what was missed, and nothing twice."""
    copy = Copy("orders")
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await api.put(f"/orders/documents/{key}", json={"n": 0})
        await talk.has("orders", key)
    position = copy.only.position or ""
    for number in range(1, 6):
        await api.patch(f"/orders/documents/{key}", json={"n": number}, headers=MERGE)
    await api.put(f"/orders/documents/{key}-end", json={})
    async with talking(peer, door, copy) as talk:
        await talk.has("orders", f"{key}-end")
    assert copy.only.documents == await served.rows("orders")
    assert [event["seq"] for event in talk.events] == [seq_of(position) + number for number in range(1, 7)]
    assert not REFETCHED & set(talk.kinds)


@everybody
async def test_client_that_missed_nothing_is_live_at_once(
    peer: Peer, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """`live`: a client that comes back and has missed nothing hears just that."""
    copy = Copy("orders")
    async with talking(peer, served.url, copy) as talk:
        await talk.live()
    async with talking(peer, served.url, copy) as talk:
        await talk.live()
    assert not talk.events
    assert not REFETCHED & set(talk.kinds)


@everybody
@pytest.mark.parametrize("reason", ["unknown_log", "future"])
async def test_foreign_or_future_position_is_reset(
    peer: Peer, door: str, served: Served, api: httpx.AsyncClient, key: str, reason: str
) -> None:
    """`reset`: "local state can't be continued; a snapshot follows"; HTTP: "409 `reset` when P can't be continued"."""
    copy = Copy("orders")
    async with talking(peer, door, copy) as talk:
        await talk.live()
    log = log_of(copy.only.position or "")
    copy.only.position = "zzzzzzzz:5" if reason == "unknown_log" else f"{log}:{10**12}"
    await api.put(f"/orders/documents/{key}", json={"n": 0})
    async with talking(peer, door, copy) as talk:
        await talk.has("orders", key)
    (reset,) = [message for message in talk.seen if message["type"] == "reset"]
    assert (reset["shape"], reset["reason"]) == ("orders", reason)
    kinds = [kind for kind in talk.kinds if kind not in {"welcome", "progress"}]
    assert kinds[:2] == ["reset", "snapshot"]
    assert copy.only.documents == await served.rows("orders")


@everybody
async def test_transaction_is_one_frame(peer: Peer, door: str, api: httpx.AsyncClient, key: str) -> None:
    """Values, Event: "`txn` … for the events of one transaction, always together in one frame"."""
    copy = Copy("orders")
    operations = [
        {"method": "POST", "collection": "orders", "doc": {"_id": f"{key}-a"}},
        {"method": "POST", "collection": "customers", "doc": {"_id": f"{key}-b"}},
        {"method": "POST", "collection": "orders", "doc": {"_id": f"{key}-c", "text": "x" * 20_000}},
        {"method": "PATCH", "collection": "orders", "id": f"{key}-a", "patch": {"n": 1}},
    ]
    async with talking(peer, door, copy) as talk:
        await talk.live()
        answer = await api.post("/../transactions", json={"operations": operations})
        assert answer.status_code == 200, answer.text
        await talk.has("orders", f"{key}-c")
    frames = [message["events"] for message in talk.seen if message["type"] == "events"]
    (events,) = [events for events in frames if any(event["id"].startswith(key) for event in events)]
    events = [event for event in events if "txn" in event]
    assert {event["txn"]["id"] for event in events} == {events[0]["txn"]["id"]}
    assert copy.only.documents[f"{key}-a"] == {"_id": f"{key}-a", "n": 1}
    assert len(events) + 1 == events[0]["txn"]["of"]


@everybody
async def test_document_shape_gets_only_its_document(peer: Peer, door: str, api: httpx.AsyncClient, key: str) -> None:
    """Values, State vector: "`orders/42`": one document, from before it exists until it is gone."""
    shape = f"orders/{key}"
    path, copy = f"/orders/documents/{key}", Copy(shape)
    async with talking(peer, door, copy) as talk:
        await talk.live()
        assert copy.only.documents == {}
        await api.put(f"{path}-other", json={})
        await api.put(path, json={"n": 1})
        await talk.has(shape, key)
        await api.patch(path, json={"n": 2}, headers=MERGE)
        await api.delete(path)
        await talk.until(lambda _: not copy.only.documents)
    assert [event["op"] for event in talk.events] == ["create", "update", "delete"]
    assert {event["id"] for event in talk.events} == {key}


@pytest.mark.slow
@everybody
async def test_many_shapes_share_one_connection(
    peer: Peer, door: str, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """SSE: "`?shape=orders&shape=orders/42`"; `hello`: "`shapes: […]`": each with a position of its own."""
    document = f"customers/{key}"
    copy = Copy("orders", document, "customers")
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await api.put(f"/customers/documents/{key}", json={"n": 1})
        await api.put(f"/orders/documents/{key}", json={"n": 1})
        for shape in copy.replicas:
            await talk.has(shape, key)
    await api.patch(f"/customers/documents/{key}", json={"n": 2}, headers=MERGE)
    await api.put(f"/orders/documents/{key}-end", json={})
    await api.put(f"/customers/documents/{key}-end", json={})
    async with talking(peer, door, copy) as talk:
        await talk.has("orders", f"{key}-end")
        await talk.has("customers", f"{key}-end")
        if copy[document].documents[key]["n"] != 2:
            await talk.until(lambda _: copy[document].documents[key]["n"] == 2)
    assert not REFETCHED & set(talk.kinds)
    for name in COLLECTIONS:
        assert copy[name].documents == await served.rows(name)
    assert copy[document].documents == {key: {"_id": key, "n": 2}}


@everybody
async def test_progress_advances_the_position_of_a_quiet_shape(peer: Peer, served: Served, key: str) -> None:
    """`progress`: "nothing of yours up to here; also the heartbeat"; HTTP: "waits up to `wait` seconds"."""
    copy = Copy("orders")
    async with talking(peer, served.url, copy) as talk:
        await talk.live()
        before = len(talk.events)
        seq = await served.seq("customers", key)
        await talk.until(lambda _: seq_of(copy.only.position or "") >= seq)
        if peer.transport != "http":  # and again, where nothing happens at all
            await talk.until(lambda message: message["type"] == "progress", seconds=5)
        assert not talk.events[before:]


@everybody
async def test_large_snapshot_has_several_parts(peer: Peer, door: str, served: Served, key: str) -> None:
    """`snapshot`: "replace the shape's local state, once the part with `last: true` has come"."""
    copy = Copy(CATALOG)
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await served.seq(CATALOG, key)
        await talk.has(CATALOG, key)
    assert copy.only.documents == await served.rows(CATALOG)
    parts = [message for message in talk.seen if message["type"] == "snapshot"]
    assert [part["part"] for part in parts] == list(range(len(parts)))
    assert [part["last"] for part in parts] == [*[False] * (len(parts) - 1), True]
    assert len({part["position"] for part in parts}) == 1
    assert len(parts) > 3 or peer.transport == "http"


@pytest.fixture(scope="package")
async def far_behind(served: Served) -> Copy:
    """Return the copy of a client that has missed so many changes of one document that squashed is the cheapest answer.

    The server estimates their number as a share of ten thousand events, as many as the suite may have made before.

    Once a run, as the system: a worker of xdist may come back to this module after others.
    """
    copy = Copy(CATALOG)
    async with talking(Websockets(), served.url, copy) as talk:
        await talk.live()
    busy: list[UpdateOne] = [UpdateOne({"_id": 0}, {"$inc": {"n": 1}}) for _ in range(3000)]
    await served.collection(CATALOG).bulk_write(busy)
    await served.seq(CATALOG, "behind them")
    # What comes after the newest checkpoint, which may be a while ago on a busy machine, comes event by event.
    await caught_up(Stores.of(served.client, served.settings))
    return copy


@streams
async def test_client_far_behind_gets_squashed_documents(
    peer: Peer, door: str, served: Served, far_behind: Copy
) -> None:
    """Catching up: "the documents that they have *squashed* together to their present state (or their deletion)"."""
    copy = deepcopy(far_behind)
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await talk.has(CATALOG, "behind them")
    assert copy.only.documents == await served.rows(CATALOG)
    assert "squashed" in talk.kinds
    spans = [(message["type"], message.get("from"), message.get("to")) for message in talk.seen]
    assert len(talk.events) < 1000, spans


VALUES: dict[str, Any] = {
    "unicode": "ü ß 漢字 🙂 \u2028\u2029 \ufeff e\u0301",
    "lines": "one\ntwo\r\nthree\rdata: x\n\nid: 0\n",
    "controls": "".join(map(chr, range(1, 32))),
    "html": "</script><!-- & ' \" \\ %00 +",
    "": {"a/b~c": 1, "dots.in": {"$ref-like": 2}, "ключ": [None, True, {}]},
    "long": Int64(2**63 - 1),
    "int": -(2**31),
    "double": 0.1 + 0.2,
    "odd": [float("nan"), float("inf"), -0.0],
    "decimal": Decimal128("1.10"),
    "binary": Binary(bytes(range(256))),
    "uuid": Binary(bytes(range(16)), 4),
    "date": datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
    "oid": ObjectId("59a47286cfa9a3a73e51e72c"),
    "regex": Regex("^a/b", "im"),
    "timestamp": Timestamp(1, 2),
    "keys": [MinKey(), MaxKey()],
}


@everybody
async def test_values_and_ids_keep_their_types(peer: Peer, door: str, served: Served, key: str) -> None:
    """Values, Document: "MongoDB Relaxed Extended JSON v2"; "Id text … Percent-encoded where a URL needs it"."""
    odd = f"{key} ü/ä?&=+%41#'\"\\ 🙂"
    orders, shape = served.collection("orders"), f"orders/{odd}"
    await orders.insert_one({"_id": odd, "was": VALUES})
    copy = Copy("orders", shape)
    async with talking(peer, door, copy) as talk:
        await talk.live()
        await orders.update_one({"_id": odd}, {"$set": {"now": VALUES}, "$unset": {"was": ""}})
        await orders.insert_one({"_id": f"{key}-new", **VALUES})
        await talk.has("orders", f"{key}-new")
        await talk.until(lambda message: "now" in copy[shape].documents[odd] or message["type"] == "progress")
    async with talking(peer, door, copy) as talk:  # its vector has that id
        await talk.live()
        assert not REFETCHED & set(talk.kinds)
    want = await served.rows("orders")
    assert copy["orders"].documents == want
    assert copy[shape].documents == {odd: want[odd]}


@pytest.mark.slow
async def test_server_shutdown_is_announced_and_resumable(
    peers: dict[str, Peer], served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """Close codes: "1001 / 1012 going away …: reconnect with jitter and the own vector": to whichever server."""
    patient = served.settings.model_copy(update=time_limits(drain_timeout=10.0) | {"heartbeat": 30.0})
    copies = {name: Copy("orders") for name in peers}
    async with AsyncExitStack() as links, AsyncExitStack() as server:
        url = await server.enter_async_context(running_server(patient))
        await tracked(url, COLLECTIONS)
        talks = {
            name: await links.enter_async_context(talking(peer, url, copies[name])) for name, peer in peers.items()
        }
        for talk in talks.values():
            await talk.live()
        async with asyncio.TaskGroup() as group:
            endings = {
                name: group.create_task(talk.over(), name=f"{name} until its end") for name, talk in talks.items()
            }
            await server.aclose()
    for name, peer in peers.items():
        assert peer.transport != "websocket" or endings[name].result().code in {1001, 1012}
    await api.put(f"/orders/documents/{key}", json={})
    async with running_server(served.settings) as url:
        await tracked(url, COLLECTIONS)
        for name, peer in peers.items():
            async with talking(peer, url, copies[name]) as talk:
                await talk.has("orders", key)
            assert [event["id"] for event in talk.events] == [key]
            assert not REFETCHED & set(talk.kinds)


@event_sources
async def test_client_reconnects_by_itself(peer: Peer, served: Served, api: httpx.AsyncClient, key: str) -> None:
    """SSE: "`id:` the whole state vector after it, so that the browser's own reconnect … resumes exactly"."""
    copy = Copy("orders", "customers")
    async with tcp_proxy(served.url) as wire, talking(peer, wire.url, copy) as talk:
        await talk.live()
        await api.put(f"/orders/documents/{key}-1", json={})
        await talk.has("orders", f"{key}-1")
        wire.cut()
        await talk.over()
        copy.disconnected()
        for name in COLLECTIONS:
            await api.put(f"/{name}/documents/{key}-2", json={})
        for name in COLLECTIONS:
            await talk.has(name, f"{key}-2")
    again = talk.kinds.index("welcome", 1)
    assert not REFETCHED & set(talk.kinds[again:])
    assert [event["id"] for event in talk.events if event["id"].startswith(key)] == [f"{key}-1", *[f"{key}-2"] * 2]


@pytest.mark.slow
@event_sources
async def test_hundred_long_shapes_resume(
    peer: Peer, door: str, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """SSE: "where that is longer than 1 KiB, the short form": proxies take no longer header."""
    copy = Copy(*(f"orders/{key}-{number:02}-{'x' * 40}" for number in range(100)))
    async with tcp_proxy(door) as wire, talking(peer, wire.url, copy) as talk:
        await talk.live()
        wire.cut()
        await talk.over()
        copy.disconnected()
        for shape in list(copy.replicas)[::30]:
            await api.put(f"/{shape.replace('/', '/documents/')}", json={})
        for shape in list(copy.replicas)[::30]:
            await talk.has(shape, shape.partition("/")[2])
    again = talk.kinds.index("welcome", 1)
    assert not REFETCHED & set(talk.kinds[again:])
    assert len(talk.events) == 4


@sockets
async def test_client_messages_are_executed(
    peer: Peer, door: str, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """Client → server (WebSocket only): `subscribe`, `unsubscribe`, `ack`, `ping`; "Anything else, a write above all,
    is answered by an error."
    """

    def of_kind(kind: str) -> Any:
        return lambda message: message["type"] == kind

    copy = Copy("orders", "customers")
    asked = Copy("orders")
    async with talking(peer, door, asked) as talk:
        await talk.live()
        talk.copy = copy
        copy.replicas["orders"] = asked["orders"]
        await talk.say(type="ping")
        await talk.until(of_kind("pong"))
        await talk.say(type="ack", vector=copy.vector)
        await talk.say(type="subscribe", shape="customers")
        await talk.live()
        await talk.say(type="subscribe", shape="nothing")
        refused: Message = await talk.until(of_kind("error"))
        assert (refused["code"], refused["shape"]) == ("not_tracked", "nothing")
        await talk.say(type="subscribe", shape="orders/int:abc")
        refused = await talk.until(of_kind("error"))
        assert (refused["code"], refused["shape"]) == ("malformed", "orders/int:abc")
        await talk.say(type="write", shape="orders", doc={})
        assert (await talk.until(of_kind("error")))["code"] == "malformed"
        await talk.say(type="unsubscribe", shape="orders")
        await talk.say(type="ping")
        await talk.until(of_kind("pong"))
        await api.put(f"/orders/documents/{key}", json={})
        await api.put(f"/customers/documents/{key}", json={})
        await talk.has("customers", key)
    assert key not in copy["orders"].documents
    # What it acknowledged was what the server had told it: it lives on.
    assert talk.kinds.count("error") == 3


@everybody
async def test_untracked_shape_is_refused(peer: Peer, door: str) -> None:
    """`error`: "the request it answers failed; the connection lives"; "404 … `not_tracked`" where nothing has begun."""
    async with talking(peer, door, Copy("nothing")) as talk:
        if peer.transport == "websocket":
            error = await talk.until(lambda message: message["type"] == "error")
            assert (error["code"], error["shape"]) == ("not_tracked", "nothing")
            return
        ended = await talk.over()
    # A browser does not tell the page the status.
    assert ended.code == 404 or peer.name == "chromium-eventsource"
