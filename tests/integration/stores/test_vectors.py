"""Stored vectors of clients: they only move forward, are bounded, and are forgotten by time."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import pytest
from bson import encode
from bson.int64 import Int64
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError

from eventsync.concurrency.slices import SLICE
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.clients import state_vectors
from eventsync.stores.clients.state_vectors import (
    MAX_BYTES,
    KnownClients,
    NumberedPosition,
    StoredVector,
    VectorStore,
    VectorUpdate,
)
from eventsync.stores.stores import Stores
from support.waiting import within

_TOO_LARGE, _DUPLICATE, _INTERRUPTED, _NO_OBJECT = 17419, 11000, 11601, 28
OLD, NEW = LogId("zzzzzzzz"), LogId("aaaaaaaa")
ORDERS, ODD = Shape("orders"), Shape.parse("a.b/c$d%2E/1.5")


def at(seq: int, *, number: int = 1, log: LogId = OLD) -> NumberedPosition:
    return NumberedPosition(number, Seq(seq), log)


async def known(store: VectorStore, client_id: str) -> StoredVector:
    found = await store.read(client_id)
    assert found is not None
    return found


async def test_a_position_never_goes_backwards(stores: Stores) -> None:
    store = stores.vectors
    await store.record([VectorUpdate("c", "sse", {ORDERS: at(7), ODD: at(3)}), VectorUpdate("d", None, {ODD: at(1)})])
    await store.record([VectorUpdate("c", "websocket", {ORDERS: at(5), ODD: at(4)})])
    first = await known(store, "c")
    assert first.vector == {ORDERS: Position(OLD, Seq(7)), ODD: Position(OLD, Seq(4))}
    assert first.transport == "websocket"
    assert (await known(store, "d")).transport == "http"

    await store.record([VectorUpdate("c", None, {ORDERS: at(2, number=2, log=NEW)})])
    await store.record([VectorUpdate("c", None, {ORDERS: at(9)})])
    second = await known(store, "c")
    assert second.vector[ORDERS] == Position(NEW, Seq(2)), "a newer log outranks any position of an older one"
    assert second.transport == "websocket"
    assert second.seen >= first.seen


async def test_a_position_in_another_scope_replaces_the_one_of_the_scope_before(stores: Stores) -> None:
    """An acknowledgement after `scope_changed`: the client has the documents of the new scope, and those alone."""
    greater, smaller = LogId(f"{OLD}.ffffffff"), LogId(f"{OLD}.00000000")
    for now in (at(7, log=greater), at(7, log=smaller), at(3, log=greater), at(2)):
        await stores.vectors.record([VectorUpdate("c", "sse", {ORDERS: now, ODD: at(4)})])
        assert (await known(stores.vectors, "c")).vector == {
            ORDERS: Position(now.log, now.seq),
            ODD: Position(OLD, Seq(4)),
        }
    await stores.vectors.record([VectorUpdate("c", None, {ORDERS: at(1, number=2, log=NEW)})])
    await stores.vectors.record([VectorUpdate("c", None, {ORDERS: at(9, log=greater)})])
    assert (await known(stores.vectors, "c")).vector[ORDERS] == Position(NEW, Seq(1)), "of an older log"


async def test_seen_changes_no_position(stores: Stores) -> None:
    await stores.vectors.record([VectorUpdate("c", "sse", {ORDERS: at(7)})])
    await stores.vectors.record([VectorUpdate("c", "sse"), VectorUpdate("new", "sse")])
    assert (await known(stores.vectors, "c")).vector == {ORDERS: Position(OLD, Seq(7))}
    assert (await known(stores.vectors, "new")).vector == {}


async def test_ids_are_never_read_as_operators(stores: Stores) -> None:
    await stores.vectors.record([VectorUpdate("$ne", "sse", {ORDERS: at(1)}), VectorUpdate("a.b", "sse")])
    assert [client.client_id async for client in stores.vectors.listing("", 10)] == ["$ne", "a.b"]
    assert await stores.vectors.delete("$ne")
    assert not await stores.vectors.delete("$ne")
    assert await stores.vectors.read("$ne") is None
    assert await stores.vectors.read("a.b") is not None


async def test_the_shapes_with_the_highest_positions_are_kept(stores: Stores) -> None:
    store = VectorStore(stores.log, max_shapes=3)
    shapes = [Shape(f"c{number}") for number in range(5)]
    await store.record([VectorUpdate("c", "sse", {shape: at(number) for number, shape in enumerate(shapes)})])
    assert set((await known(store, "c")).vector) == set(shapes[2:])
    await store.record([VectorUpdate("c", "sse", {shapes[0]: at(1, number=2, log=NEW)})])
    assert set((await known(store, "c")).vector) == {shapes[0], *shapes[3:]}


async def test_a_listing_goes_on_behind_an_id(stores: Stores) -> None:
    await stores.vectors.record([VectorUpdate(name, "sse") for name in "dbeca"])
    assert [client.client_id async for client in stores.vectors.listing("", 2)] == ["a", "b"]
    assert [client.client_id async for client in stores.vectors.listing("b", 10)] == ["c", "d", "e"]


async def test_the_one_furthest_behind_is_known(stores: Stores) -> None:
    assert await stores.vectors.known(OLD) == KnownClients(0, None, None)
    await stores.vectors.record(
        [
            VectorUpdate("near", "sse", {ORDERS: at(9)}),
            VectorUpdate("far", "sse", {ORDERS: at(8), ODD: at(4)}),
            VectorUpdate("elsewhere", "sse", {ORDERS: at(1, number=2, log=NEW)}),
            VectorUpdate("nowhere", "sse"),
        ]
    )
    assert await stores.vectors.known(OLD) == KnownClients(4, "far", Seq(4))
    assert await stores.vectors.known(NEW) == KnownClients(4, "elsewhere", Seq(1))
    assert await stores.vectors.known(LogId("cccccccc")) == KnownClients(4, None, None)


async def test_positions_with_a_scope_are_of_the_log(stores: Stores) -> None:
    cards = Shape.parse("cards?board=7")
    routed = {cards: at(3, log=LogId(f"{OLD}.5f2c81ab")), Shape.parse("cards?board=8"): at(4)}
    await stores.vectors.record(
        [VectorUpdate("routed", "sse", routed), VectorUpdate("whole", "sse", {ORDERS: at(9)})],
    )
    assert (await known(stores.vectors, "routed")).vector[cards] == Position(LogId(f"{OLD}.5f2c81ab"), Seq(3))
    assert await stores.vectors.known(OLD) == KnownClients(2, "routed", Seq(3))
    assert await stores.vectors.known(LogId("zzzz")) == KnownClients(2, None, None)
    await stores.vectors.record([VectorUpdate("routed", None, {cards: at(12, log=LogId(f"{OLD}.5f2c81ab"))})])
    assert await stores.vectors.furthest(OLD) == 12


async def test_clients_are_forgotten_by_time(stores: Stores, settings: Settings) -> None:
    await stores.vectors.ensure_indexes(3600)
    await stores.vectors.record([VectorUpdate("c", "sse", {ORDERS: at(7)})])
    # Changed settings change the index that is there.
    await stores.vectors.ensure_indexes(1)
    await stores.vectors.ensure_indexes(1)
    async with within(30):
        while await stores.vectors.read("c"):  # noqa: ASYNC110 - MongoDB does it, and tells nobody
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("bound", [{"max_clients": 2}, {"max_bytes": 100}])
async def test_new_clients_beyond_the_bound_are_not_recorded_and_known_ones_are(
    stores: Stores, bound: dict[str, int]
) -> None:
    first = VectorStore(stores.log, max_shapes=3)
    await first.record([VectorUpdate("a", None, {ORDERS: at(1)}), VectorUpdate("b", None, {ORDERS: at(1)})])
    store = VectorStore(stores.log, max_shapes=3, **bound)
    assert [await store.remembers(name) for name in ("a", "b", "c")] == [True, True, False]
    await store.record([VectorUpdate("a", None, {ORDERS: at(2)}), VectorUpdate("c", None, {ORDERS: at(2)})])
    found = [item async for item in store.listing("", 10)]
    assert [(item.client_id, item.vector[ORDERS].seq) for item in found] == [("a", 2), ("b", 1)]
    assert store.refused == 1


async def test_vectors_of_this_process_count_at_once(stores: Stores) -> None:
    store = VectorStore(stores.log, max_shapes=3, max_clients=2)
    for name in ("a", "b", "c"):
        await store.record([VectorUpdate(name, None, {ORDERS: at(1)})])
    assert [item.client_id async for item in store.listing("", 10)] == ["a", "b"]


def wide(number: int) -> Shape:
    """A shape whose name takes 48 KiB as the name of a field."""
    return Shape.parse(f"things/{number}-" + "é" * 8000)


async def insert_full(stores: Stores, client_id: str) -> None:
    """Insert a record that is as large as MongoDB allows, as an earlier version made them."""
    entry = {"g": Int64(1), "n": Int64(7), "l": OLD}
    full = {"_id": client_id, "v": {f"things%2F{number}-{'%C3%A9' * 8000}": entry for number in range(349)}}
    await stores.log["state_vectors"].insert_one(full | {"transport": "sse", "at": None})


async def test_a_record_is_bounded_in_bytes_and_keeps_the_furthest_positions(stores: Stores) -> None:
    for start in range(0, 40, 10):
        vector = {wide(number): at(number) for number in range(start, start + 10)}
        assert not await stores.vectors.record([VectorUpdate("c", "sse", vector | {ORDERS: at(100)})])
    kept = (await known(stores.vectors, "c")).vector
    assert list(kept) == [ORDERS, *(wide(number) for number in range(39, 39 - len(kept) + 1, -1))]
    row = await stores.log["state_vectors"].find_one({"_id": "c"})
    assert row is not None
    assert MAX_BYTES - 50_000 < len(encode(row["v"])) <= MAX_BYTES


async def test_an_update_is_bounded_and_keeps_the_furthest_positions(stores: Stores) -> None:
    update = VectorUpdate("c", "sse", {wide(number): at(number) for number in range(30)})
    bounded = stores.vectors.bounded(update)
    assert list(bounded.vector) == [wide(number) for number in range(29, 29 - len(bounded.vector), -1)]
    assert MAX_BYTES - 50_000 < bounded.size <= MAX_BYTES
    assert stores.vectors.bounded(bounded) == bounded
    assert list(VectorStore(stores.log, max_shapes=2).bounded(update).vector) == [wide(29), wide(28)]


async def test_a_full_record_stops_no_other_and_is_shortened(stores: Stores) -> None:
    await insert_full(stores, "full")
    updates = [VectorUpdate("full", "sse", {wide(400): at(8)}), VectorUpdate("other", "sse", {ORDERS: at(1)})]
    assert await stores.vectors.record(updates) == {"full"}
    assert (await known(stores.vectors, "other")).vector == {ORDERS: Position(OLD, Seq(1))}
    assert await stores.vectors.record(updates) == frozenset(), "the record was shortened before"
    assert (await known(stores.vectors, "full")).vector[wide(400)] == Position(OLD, Seq(8))


async def test_a_damaged_record_is_replaced_and_stops_no_other(stores: Stores) -> None:
    await stores.log["state_vectors"].insert_one({"_id": "damaged", "v": "text"})
    store = VectorStore(stores.log, max_shapes=1)
    updates = [VectorUpdate(name, "sse", {ORDERS: at(1), ODD: at(2)}) for name in ("damaged", "other")]
    assert await store.known(OLD) == KnownClients(1, None, None)
    assert await store.furthest(OLD) == 0
    assert await store.record(updates) == frozenset()
    assert [set((await known(store, name)).vector) for name in ("damaged", "other")] == [{ODD}, {ODD}]


@pytest.mark.parametrize(
    ("codes", "refused"),
    [
        ([(0, _TOO_LARGE)], {"a"}),
        ([(1, _NO_OBJECT), (2, _TOO_LARGE)], {"b"}),
        ([(0, _TOO_LARGE), (1, _DUPLICATE)], None),
        ([(1, _INTERRUPTED)], None),
    ],
)
async def test_only_lasting_refusals_are_of_the_update(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, codes: list[tuple[int, int]], refused: set[str] | None
) -> None:
    errors = [{"index": index, "code": code, "errmsg": "no"} for index, code in codes]

    async def bulk_write(_: Any, requests: list[Any], *, ordered: bool) -> Any:
        assert (len(requests), ordered) == (3, False)
        raise BulkWriteError({"writeErrors": errors, "writeConcernErrors": [], "nUpserted": 0})

    monkeypatch.setattr(AsyncCollection, "bulk_write", bulk_write)
    recording = stores.vectors.record([VectorUpdate(name, "sse", {ORDERS: at(1)}) for name in "ab"])
    if refused is None:
        with pytest.raises(Unavailable):
            await recording
    else:
        assert await recording == refused


async def test_reads_of_long_names_pause_between_slices(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    await stores.vectors.record([VectorUpdate("c", "sse", {wide(number): at(number) for number in range(12)})])
    loop = asyncio.get_running_loop()
    read = longest = 0

    def count(key: str) -> str:
        nonlocal read, longest
        if read == 0:
            loop.call_soon(reset)
        read += len(key)
        longest = max(longest, read)
        return unquote(key)

    def reset() -> None:
        nonlocal read
        read = 0

    monkeypatch.setattr(state_vectors, "unquote", count)
    assert len((await known(stores.vectors, "c")).vector) == 12
    assert [len(client.vector) async for client in stores.vectors.listing("", 10)] == [12]
    assert 0 < longest <= 2 * SLICE
