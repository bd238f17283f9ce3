"""The package `eventsync_client` against the suite's system, through a proxy that cuts and loses."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from websockets.exceptions import InvalidUpgrade

from conformance.declared import Rules, found
from eventsync.concurrency.waiting import set_within
from eventsync.dev.mongod import free_port
from eventsync_client import (
    AsyncClient,
    Change,
    Client,
    Conflict,
    Gone,
    Memory,
    NotFound,
    Operation,
    OutcomeUnknown,
    RequestError,
    Shape,
    ShapeRefused,
    Sqlite,
    Status,
    Store,
    SyncFailed,
    VersionMismatch,
    Written,
    transports,
)
from eventsync_client.core import Core
from eventsync_client.replica import Update
from eventsync_client.store import Pending, Saved
from eventsync_client.transports import Transport
from support.documents import LEAVES
from support.histories import History
from support.peers.served import CATALOG, COLLECTIONS, Served
from support.systems import barrier
from support.tcp_proxy import TcpProxy, tcp_proxy
from support.waiting import patience, within

TRANSPORTS: list[Transport] = ["websocket", "sse", "http"]


async def rows_of(shape: Shape, position: str) -> dict[str, Any]:
    """Return the rows of a shape as the suite has them, once it is at `position`."""
    async with within(30):
        await shape.live()
        if shape.position is not None and "." not in shape.position:
            await shape.reached(position)
    return {key: row.doc for key, row in shape.rows.items()}


async def trouble(proxy: TcpProxy, rng: random.Random, done: asyncio.Event) -> None:
    """Cut all connections again and again, more and more seldom: a slow machine gets through at last."""
    longest = 0.3
    while not await set_within(done, rng.uniform(0.02, longest)):
        proxy.cut()
        longest *= 1.05


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("lasting", [False, True], ids=["memory", "sqlite"])
async def test_copy_is_that_of_the_server_whatever_is_cut(
    served: Served, tmp_path: Path, transport: Transport, lasting: bool
) -> None:
    rng, done = random.Random(f"{transport} {lasting}"), asyncio.Event()

    def store() -> Store:
        return Sqlite(tmp_path / "copy.db") if lasting else Memory()

    async with tcp_proxy(served.url) as proxy, asyncio.TaskGroup() as group:
        group.create_task(trouble(proxy, rng, done), name="trouble")
        for _ in range(3):
            async with AsyncClient(proxy.url, transport=transport, store=store()) as client:
                shapes = [client.shape(name) for name in (*COLLECTIONS, CATALOG)]
                for name in COLLECTIONS:
                    history = History(served.collection(name), rng, range(20), LEAVES)
                    await history.run(15)
                await asyncio.sleep(rng.uniform(0.0, 0.3))
        done.set()
    async with AsyncClient(served.url, transport=transport, store=store()) as client:
        shapes = [client.shape(name) for name in (*COLLECTIONS, CATALOG)]
        position = await barrier(served.url)
        for shape in shapes:
            assert await rows_of(shape, position) == await served.rows(shape.text)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_changes_tell_the_whole_story(served: Served, key: str, transport: Transport) -> None:
    """All changes, applied one after the other, make the documents."""
    told: dict[str, Any] = {}
    async with AsyncClient(served.url, transport=transport) as client:
        shape = client.shape("customers")

        async def listen() -> None:
            async for change in shape.changes():
                assert told.get(change.id) == change.before
                assert change.kind == (
                    "create" if change.before is None else "delete" if change.after is None else "update"
                )
                told.update({change.id: change.after})
                if change.id == key:
                    return

        async with asyncio.TaskGroup() as group, within(30):
            listening = group.create_task(listen())
            await shape.live()
            await History(served.collection("customers"), random.Random(transport), range(8), LEAVES).run(20)
            await served.collection("customers").insert_one({"_id": key})
            await listening
        assert {text: doc for text, doc in told.items() if doc is not None} == dict(shape.documents)


async def test_declared_shape_has_its_parameters(served: Served, rules: Rules, key: str) -> None:
    async with AsyncClient(served.url) as client, within(30):
        await served.collection("cards").insert_one({"_id": key, "board": key, "archived": False})
        shape = client.shape("my_cards", board=key)
        assert shape.text == f"my_cards?board={key}"
        changes = shape.changes()
        entered = await anext(changes)
        assert (entered.kind, entered.id) == ("create", key)
        await shape.live()
        await served.collection("cards").update_one({"_id": key}, {"$set": {"archived": True}})
        left = await anext(changes)
        assert (left.kind, left.event and left.event["leave"]) == ("delete", True)
        await changes.aclose()
        assert dict(shape.documents) == await found(served, "cards", {"board": key, "archived": {"$ne": True}}) == {}


async def test_refused_shape_is_told_and_others_continue(served: Served) -> None:
    async with AsyncClient(served.url) as client, within(20):
        orders, unknown = client.shape("orders"), client.shape("nothing_of_this_name")
        with pytest.raises(ShapeRefused, match="nothing_of_this_name") as refusal:
            await unknown.live()
        assert refusal.value.code == "not_tracked"
        assert (await orders.live()).is_live
        with pytest.raises(ShapeRefused):
            await anext(unknown.changes())


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_text_that_is_no_shape_is_refused_alone(served: Served, transport: Transport) -> None:
    async with AsyncClient(served.url, transport=transport) as client, within(30):
        wrong = [client.shape(text) for text in ("orders/", "orders/int:abc")]
        orders, one = client.shape("orders"), client.shape("orders/str:1")
        assert (await orders.live()).is_live
        assert (await one.live()).text == "orders/1"
        for shape in wrong:
            with pytest.raises(ShapeRefused, match=shape.text) as refusal:
                await shape.live()
            assert refusal.value.code == "malformed"


async def test_client_without_a_shape_that_can_be_followed_has_failed(served: Served) -> None:
    for transport in TRANSPORTS:
        async with AsyncClient(served.url, transport=transport) as client, within(20):
            with pytest.raises((SyncFailed, ShapeRefused), match="nothing"):
                await client.shape("nothing_of_this_name").live()
            assert client.status is Status.FAILED
            assert "nothing_of_this_name" in client.reason


async def test_client_that_has_failed_begins_again_with_another_shape(served: Served) -> None:
    for transport in TRANSPORTS:
        async with AsyncClient(served.url, transport=transport) as client, within(20):
            with pytest.raises((SyncFailed, ShapeRefused), match="nothing"):
                await client.shape("nothing_of_this_name").live()
            orders = await client.shape("orders").live()
            assert dict(orders.documents) == await served.rows("orders")


async def test_client_whose_store_has_failed_stays_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Memory):
        def apply(self, update: Update) -> list[Pending]:
            raise OSError(f"no room for {update.shape}")

    async with AsyncClient(served.url, store=Full()) as client, within(20):
        for name in ("orders", "customers"):  # what was not stored is in memory, so nothing may be stored after it
            with pytest.raises(SyncFailed, match="no room for orders"):
                await client.shape(name).live()


async def test_shape_that_was_refused_is_asked_for_again(served: Served, rules: Rules) -> None:
    later = '[shapes.later_cards]\ncollection = "cards"\nwhere = { later = true }\n'
    async with AsyncClient(served.url) as client, within(30):
        with pytest.raises(ShapeRefused, match="later_cards") as refusal:
            await client.shape("later_cards?").live()
        assert refusal.value.code == "unknown_shape"
        text = await rules.active(later)
        assert (await client.shape(text).live()).is_live


async def test_shape_that_is_closed_is_followed_no_more(served: Served) -> None:
    async with AsyncClient(served.url) as client, within(20):
        orders, customers = client.shape("orders"), client.shape("customers")
        await orders.live()
        await customers.live()
        await customers.close()
        with pytest.raises(ShapeRefused):
            await customers.live()
        again = await client.shape("customers").live()
        assert dict(again.documents) == await served.rows("customers")


class SlowToLoad(Sqlite):
    """Loads the catalog only once `go` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.go = threading.Event(), threading.Event()

    def load(self, shape: str) -> Saved:
        if shape == CATALOG:
            self.begun.set()
            assert self.go.wait(patience(60))
        return super().load(shape)


async def ids_up_to(changes: AsyncIterator[Change], key: str) -> list[str]:
    """Return the ids of the changes that come, up to one of a document."""
    ids = list[str]()
    async for change in changes:
        ids.append(change.id)
        if change.id == key:
            return ids
    raise AssertionError(f"the changes end before {key}")


@pytest.mark.parametrize(
    "call", [Shape.close, lambda shape: anext(shape.changes())], ids=["closing a shape", "taking changes"]
)
async def test_cancelled_call_loses_no_update(
    served: Served, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Shape], Awaitable[Any]]
) -> None:
    """The call is cancelled while an update that has come meanwhile waits for the store."""
    store, came = SlowToLoad(tmp_path / "copy.db"), asyncio.Event()
    orders = served.collection("orders")

    async def work() -> None:
        await call(customers)

    def receive(message: Any, now: float) -> None:
        Core.receive(client.core, message, now)
        came.set()

    async with AsyncClient(served.url, store=store) as client, within(30):
        await orders.insert_one({"_id": f"{key} before"})
        shape, customers = await client.shape("orders").live(), await client.shape("customers").live()
        changes = shape.changes()
        await ids_up_to(changes, f"{key} before")
        try:
            monkeypatch.setattr(client.core, "receive", receive)
            client.shape(CATALOG)
            assert await asyncio.to_thread(store.begun.wait, patience(20))
            calling = asyncio.create_task(work())
            await asyncio.sleep(0)
            await orders.insert_one({"_id": key})
            await came.wait()
            using = asyncio.create_task(client.lock.acquire())  # as a transaction of the application does
            await asyncio.sleep(0)
        finally:
            store.go.set()
        await using
        calling.cancel()
        await asyncio.wait([calling])
        client.lock.release()
        await orders.insert_one({"_id": f"{key} later"})
        assert key in await ids_up_to(changes, f"{key} later")
        await changes.aclose()
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT id FROM eventsync_rows WHERE id = ?", (key,)).fetchall() == [(key,)]


async def test_automatic_transport_gets_through_where_websockets_do_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blocked(*_: Any, **__: Any) -> None:
        raise InvalidUpgrade("Upgrade")

    monkeypatch.setattr(transports, "connect", blocked)
    async with AsyncClient(served.url) as client, within(30):
        assert dict((await client.shape("orders").live()).documents) == await served.rows("orders")


async def test_writes(served: Served, key: str) -> None:
    async with AsyncClient(served.url) as client, within(30):
        orders = client.collection("orders")
        made = await orders.insert({"_id": key, "n": 1, "tags": ["a"]})
        assert (made.id, made.version, made.doc) == (key, 1, {"_id": key, "n": 1, "tags": ["a"]})
        merged = await orders.patch(key, {"n": 2}, if_match=made.etag)
        patched = await orders.patch(key, [{"op": "add", "path": "/tags/-", "value": "b"}], if_match=merged.version)
        assert patched.doc == {"_id": key, "n": 2, "tags": ["a", "b"]}
        with pytest.raises(VersionMismatch) as mismatch:
            await orders.patch(key, {"n": 3}, if_match=made.version)
        assert (mismatch.value.current, mismatch.value.etag) == (3, patched.etag)
        replaced = await orders.replace(key, {"n": 9}, idempotency_key=f"{key}-replace")
        again = await orders.replace(key, {"n": 9}, idempotency_key=f"{key}-replace")
        assert (again.repeated, again.version, again.etag) == (True, replaced.version, replaced.etag)
        with pytest.raises(Conflict):
            await orders.insert({"_id": key})
        now = await orders.get(key)
        assert (now.version, now.doc, now.etag) == (4, {"_id": key, "n": 9}, replaced.etag)
        await barrier(served.url)  # a past version is read from the log
        assert (await orders.get(key, version=2)).doc["n"] == 2
        assert [event["version"] async for event in orders.history(key, after_version=1)] == [2, 3, 4]
        assert (await orders.at(key, datetime.now(UTC))).doc["n"] == 9
        with pytest.raises(Gone):
            await orders.at(key, datetime(2000, 1, 1, tzinfo=UTC))
        await orders.delete(key, if_match=now.etag)
        with pytest.raises(NotFound):
            await orders.get(key)


async def test_batch_has_an_outcome_for_each_operation(served: Served, key: str) -> None:
    async with AsyncClient(served.url) as client, within(30):
        orders = client.collection("orders")
        assert await orders.batch([]) == []
        operations = [
            Operation.insert({"_id": key, "n": 1}),
            Operation.insert({"_id": key}),
            Operation.patch(key, {"n": 2}, if_match=1, idempotency_key=f"{key}-2"),
            Operation.patch(key, {"n": 3}, if_match=1),
            Operation.patch(key, [{"op": "test", "path": "/n", "value": 7}]),
            Operation.delete(f"{key}-none"),
            Operation.replace(f"{key}-other", {"n": 5}, if_none_match="*"),
            Operation.replace(f"{key}-other", {"n": 6}, if_none_match="*"),
            Operation.insert({"key": key}),
        ]
        outcomes = await orders.batch(operations)
        assert [outcome.version if isinstance(outcome, Written) else outcome.code for outcome in outcomes] == [
            *(1, "conflict", 2, "version_mismatch", "patch_failed", "not_found", 1, "version_mismatch", 1)
        ]
        assert [type(outcomes[place]) for place in (1, 3, 5)] == [Conflict, VersionMismatch, NotFound]
        made, patched, mismatch = outcomes[0], outcomes[2], outcomes[3]
        assert isinstance(made, Written)
        assert isinstance(patched, Written)
        assert isinstance(mismatch, VersionMismatch)
        assert (made.id, made.doc, patched.doc) == (key, {"_id": key, "n": 1}, {"_id": key, "n": 2})
        assert (mismatch.current, mismatch.etag) == (2, patched.etag)
        [again] = await orders.batch(operations[2:3])
        assert isinstance(again, Written)
        assert (again.repeated, again.version, again.etag) == (True, 2, patched.etag)
        with pytest.raises(RequestError) as refused:
            await orders.batch([Operation.delete("x")] * 1001)
        assert refused.value.code == "too_large"


async def test_batch_is_made_once_whatever_is_lost(served: Served, key: str) -> None:
    async with tcp_proxy(served.url) as proxy, AsyncClient(proxy.url) as client, within(60):
        orders, done = client.collection("orders"), asyncio.Event()
        orders.timeout = patience(20)
        await orders.insert({"_id": key, "n": []})
        async with asyncio.TaskGroup() as group:
            group.create_task(trouble(proxy, random.Random(6), done))
            for number in range(0, 60, 3):
                appended = [[{"op": "add", "path": "/n/-", "value": number + place}] for place in range(3)]
                outcomes = await orders.batch([Operation.patch(key, patch) for patch in appended])
                assert all(isinstance(outcome, Written) for outcome in outcomes)
            done.set()
        assert (await orders.get(key)).doc["n"] == [*range(60)]


async def test_find_has_all_pages(served: Served, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsync_client.collection._PAGE", 2)
    await served.collection("customers").create_index([("key", 1), ("n", 1)])
    async with AsyncClient(served.url) as client, within(30):
        customers = client.collection("customers")
        await customers.batch([Operation.insert({"_id": f"{key}-{n}", "key": key, "n": n}) for n in range(5)])

        async def found(**options: Any) -> list[int]:
            return [document.doc["n"] async for document in customers.find({"key": key}, **options)]

        assert await found(sort="n") == [0, 1, 2, 3, 4]
        assert await found(sort=["-n"]) == [4, 3, 2, 1, 0]
        assert await found(sort="-n", limit=3) == [4, 3, 2]
        assert sorted(await found()) == [0, 1, 2, 3, 4]
        assert [document.id async for document in customers.find({"_id": f"{key}-3"})] == [f"{key}-3"]
        everything = [document.id async for document in customers.find()]
        assert everything == [document.id async for document in customers.find({"_id": {"$exists": True}})]
        assert {f"{key}-{n}" for n in range(5)} <= {*everything}
        with pytest.raises(RequestError) as refused:
            await anext(customers.find({"nothing.has.it": 1}))
        assert refused.value.code == "index_needed"
        with pytest.raises(ValueError, match="limit"):
            await anext(customers.find(limit=0))


async def test_write_is_made_once_whatever_is_lost(served: Served, key: str) -> None:
    """Its request and its answer may be lost: the client repeats it with the same key."""
    async with tcp_proxy(served.url) as proxy, AsyncClient(proxy.url) as client, within(60):
        orders, done = client.collection("orders"), asyncio.Event()
        orders.timeout = patience(20)
        await orders.insert({"_id": key, "n": []})
        async with asyncio.TaskGroup() as group:
            group.create_task(trouble(proxy, random.Random(5), done))
            for number in range(60):
                await orders.patch(key, [{"op": "add", "path": "/n/-", "value": number}])
            done.set()
        assert (await orders.get(key)).doc["n"] == [*range(60)]


async def test_unknown_outcome_is_told_with_its_key() -> None:
    async with AsyncClient(f"http://127.0.0.1:{free_port()}") as client, within(30):
        orders = client.collection("orders")
        orders.timeout = 0.5
        with pytest.raises(OutcomeUnknown) as unknown:
            await orders.insert({"n": 1}, idempotency_key="once")
        assert unknown.value.idempotency_key == "once"


async def test_documents_have_the_types_of_bson(served: Served, key: str) -> None:
    async with AsyncClient(served.url, decode="bson") as client, within(30):
        document = {
            "_id": ObjectId(),
            "when": datetime(2026, 12, 1, tzinfo=UTC),
            "long": 2**60,
            "half": 0.5,
            "key": key,
        }
        await client.collection("orders").insert(document)
        shape = client.shape(f"orders/{document['_id']}")
        while not shape.documents:
            await client.moved()
        assert dict(shape.documents) == {str(document["_id"]): document}


async def test_client_without_a_loop(served: Served, key: str, tmp_path: Path) -> None:
    """In a thread: the system under test runs in this loop."""
    assert await asyncio.to_thread(without_a_loop, served.url, key, tmp_path / "orders.db") == [key]


def without_a_loop(url: str, key: str, path: Path) -> list[str]:
    """Take the changes of a collection up to a document; return the effects of that one."""
    with Client(url, store=Sqlite(path)) as client:
        orders = client.collection("orders")
        assert orders.insert({"_id": key}).version == 1
        shape = client.shape("orders").live()
        for change in shape.changes():
            with change.transaction() as db:
                db.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
                db.execute("INSERT INTO seen VALUES (?)", (change.id,))
            if change.id == key:
                break
        assert orders.get(key).doc == shape.documents[key] == {"_id": key}
        assert [event["op"] for event in orders.history(key)] == ["create"]
        [deleted, missing] = orders.batch([Operation.delete(key), Operation.delete(key)])
        assert (isinstance(deleted, Written), isinstance(missing, NotFound)) == (True, True)
        assert list(orders.find({"_id": key})) == []
        client.barrier()
        assert key not in shape.documents
    with closing(sqlite3.connect(path)) as db:
        return [text for (text,) in db.execute("SELECT id FROM seen WHERE id = ?", (key,))]
