"""The routes of events: the keys in the log are those of the routes that MongoDB finds the documents by."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from bson import Decimal128, Int64
from pymongo.errors import WriteError

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.domain.predicates.keys import MAX_KEYS
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import CODEC
from eventsync.errors import NotFound, Unavailable
from eventsync.mongodb.client import Client, app_name
from eventsync.nodestorage import Author, NodeStorage, WritePolicy
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stats.overview import read_overview
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing import converter, log_writer
from integration.workers.routed import RoutesInMongodb, routed_rows, routes_of_values
from integration.workers.test_converter_property import Maker
from integration.workers.test_repair import based, drop_collection, drop_database, rename_away, rename_onto
from support.failpoints import building_no_index, failing
from support.replay import assert_complete, began, caught_up, current_log, eventually
from support.systems import running_worker

DEFINITIONS = [
    define("by_num", "docs", {"num": "$v"}, {"v": ["any"]}),
    define("by_item", "docs", {"arr": "$v"}, {"v": ["any"]}),
    define("some", "docs", {"items.k": "$v", "int": {"$gte": 20}}, {"v": ["int"]}),
    define("pairs", "docs", {"$or": [{"a": "$v"}, {"sub.y.z": "$v"}]}, {"v": ["any"]}),
    define("two", "docs", {"a": "$one", "b": "$two"}, {"one": ["any"], "two": ["any"]}),
    define("lists", "docs", {"n": {"$in": "$v"}, "c": {"$exists": False}}, {"v": ["any"]}),
    define("full", "docs", {"arr": {"$size": 2}}, {}),
]
VALUES = [
    None, True, False, "", "text", "é\0", 0, 1, 2, 3, 5, -7, 2**31 - 1, Int64(2**40), 1.5, -0.0, Decimal128("1.10"),
    Decimal128("NaN"), float("inf"), b"ab",
]  # fmt: skip
BY_N = define("by_n", "docs", {"n": "$n"}, {"n": ["int"]})


@pytest.fixture
def definitions() -> list[Definition]:
    return DEFINITIONS


@pytest.fixture(autouse=True)
async def _declared(definitions: list[Definition], stores: Stores) -> None:
    await stores.definitions.apply([Declaration.of(definition) for definition in definitions])


async def routed(stores: Stores, log: LogId) -> LogId:
    """Wait until all declared shapes are active, from the beginning of the log on."""

    async def check() -> LogId | None:
        shapes = (await stores.definitions.read()).shapes
        return log if all(shape.log == log and shape.base == 0 for shape in shapes) else None

    return await eventually(stores, "shapes", check)


async def assert_routed(stores: Stores, log: LogId, definitions: list[Definition], values: list[Any]) -> int:
    states = RoutesInMongodb(stores, "docs")
    await states.take(log, await stores.events.head(log))
    routes = [route for each in definitions for route in routes_of_values(each, values)]
    return await states.check(await routed_rows(stores, log, "docs"), routes)


async def change_at_random(client: Client, stores: Stores, maker: Maker, count: int, rounds: int) -> None:
    docs = stores.data.get_collection("docs", codec_options=CODEC)
    storage = NodeStorage(stores.data, stores.log["operations"], WritePolicy())
    for key in range(count):
        await docs.insert_one(maker.document() | {"_id": key, "n": maker.number()})
    for number in range(rounds * count):
        key, kind = maker.random.randrange(count), maker.random.random()
        if kind < 0.05:
            await docs.delete_one({"_id": key})
        elif kind < 0.1:
            with suppress(NotFound):
                await storage.delete("docs", key, author=Author("ann", f"op-{number}"))
        elif kind < 0.2:
            await docs.replace_one({"_id": key}, maker.document() | {"n": maker.number()}, upsert=True)
        elif kind < 0.3:
            async with client.start_session() as session, await session.start_transaction():
                for each in (key, (key + 1) % count):
                    update = {"$set": {"n": maker.number(), "a": maker.leaf()}}
                    await docs.update_one({"_id": each}, update, session=session)
        else:
            update, filters = maker.update()
            try:
                await docs.update_one({"_id": key}, update, array_filters=filters)
            except WriteError:
                continue


@pytest.mark.parametrize("images", [True, False], ids=["images", "image-less"])
async def test_stored_keys_are_those_of_the_routes_that_mongodb_finds(
    client: Client, stores: Stores, settings: Settings, images: bool
) -> None:
    async with running_worker(settings.model_copy(update={"images": images})):
        await routed(stores, await began(stores, "docs"))
        await change_at_random(client, stores, Maker(random.randrange(10**6)), 12, 12 if images else 6)
        log = await caught_up(stores)
    assert await assert_routed(stores, log, DEFINITIONS, VALUES) > 100


@pytest.mark.parametrize("definitions", [[BY_N]])
async def test_changes_in_helper_processes_are_routed(stores: Stores, settings: Settings) -> None:
    docs, pad = stores.data["docs"], "x" * 20_000
    for images in (True, False):
        async with running_worker(settings.model_copy(update={"images": images, "offload_above": 10_000})):
            await routed(stores, await began(stores, "docs"))
            await docs.insert_one({"_id": 1, "n": 1, "pad": pad})
            await docs.update_one({"_id": 1}, {"$set": {"n": [1, 2]}})
            await docs.update_one({"_id": 1}, {"$set": {"n": 3}})
            await docs.delete_one({"_id": 1})
            await caught_up(stores)
    log = await current_log(stores)
    assert await assert_routed(stores, log, [BY_N], [1, 2, 3]) == 2 * 7
    rows = await routed_rows(stores, log, "docs")
    assert [bool(routes and routes.document) for routes in rows.values()][:4] == [False, True, True, False]


@pytest.mark.parametrize("definitions", [[BY_N]])
@pytest.mark.parametrize("lose", [drop_collection, drop_database, rename_away, rename_onto])
async def test_the_documents_of_a_lost_collection_leave(stores: Stores, settings: Settings, lose: Any) -> None:
    async with running_worker(settings):
        log = await routed(stores, await based(stores, settings, "docs"))
        await stores.data["docs"].insert_many([{"_id": number, "n": number % 3} for number in range(10)])
        await stores.data["docs"].update_one({"_id": 5}, {"$set": {"n": 7}})
        await assert_complete(stores, "docs")
        await lose(stores)
        await assert_complete(stores, "docs")
    assert await assert_routed(stores, log, [BY_N], [None, *range(10)]) >= 22


@pytest.mark.parametrize("definitions", [[BY_N]])
async def test_repairs_are_routed_by_the_states_of_the_log(client: Client, stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    async with running_worker(settings):
        log = await routed(stores, await based(stores, settings, "docs"))
        await docs.insert_many([{"_id": number, "n": number % 3} for number in range(10)])
        await assert_complete(stores, "docs")
    await docs.update_many({"_id": {"$lt": 5}}, {"$inc": {"n": 1}})
    await docs.delete_many({"_id": {"$gt": 7}})
    await docs.insert_one({"_id": 11, "n": 1})
    async with failing(client, "getMore", 286, app=app_name(settings, "worker"), times=1), running_worker(settings):
        await assert_complete(stores, "docs")
    assert await assert_routed(stores, log, [BY_N], [None, *range(10)]) == 10 + 2 * 5 + 2 + 1


@pytest.mark.parametrize("definitions", [[BY_N]])
async def test_a_document_that_can_not_be_converted_keeps_its_routes(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = converter.convert

    def poisoned(change: Any, raw: Any = None) -> Any:
        if change["operationType"] in {"update", "replace"} and change["fullDocument"].get("n") == 2:
            raise ZeroDivisionError("poison")
        return real(change, raw)

    monkeypatch.setattr(log_writer, "convert", poisoned)
    async with running_worker(settings):
        log = await routed(stores, await based(stores, settings, "docs"))
        await stores.data["docs"].insert_one({"_id": 1, "n": 0})
        for _ in range(3):
            await stores.data["docs"].update_one({"_id": 1}, {"$inc": {"n": 1}})
        await caught_up(stores)
    rows = list((await routed_rows(stores, log, "docs")).values())
    keys = [BY_N.bind({"n": number}).key for number in range(4)]
    moves = [(keys[number], keys[number + 1]) for number in range(3)]
    assert [(row.transition({a}), row.transition({b})) for row, (a, b) in zip(rows[1:], moves, strict=True) if row] == [
        ("leave", "enter")
    ] * 3


@pytest.mark.parametrize("definitions", [[BY_N]])
async def test_a_document_with_too_many_keys_leaves_and_comes_back(
    stores: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_worker(settings):
        await routed(stores, await began(stores, "docs"))
        for value in (1, list(range(MAX_KEYS + 1)), [1, 2]):
            await stores.data["docs"].replace_one({"_id": 1}, {"n": value}, upsert=True)
        log = await caught_up(stores)
    one, two = BY_N.bind({"n": 1}).key, BY_N.bind({"n": 2}).key
    assert list((await routed_rows(stores, log, "docs")).values()) == [
        Routes((one,)),
        Routes((one,), leaves=frozenset([one])),
        Routes(tuple(sorted((one, two))), enters=frozenset([one, two])),
    ]
    assert "docs/int:1 belongs to no shape of by_n" in caplog.text
    await stores.stats.counters.add(log, await stores.events.head(log))
    assert await stores.stats.counters.unrouted(log) == {"docs": 1}
    overview = (await read_overview(stores)).log
    assert overview is not None
    assert overview.unrouted == {"docs": 1}


@pytest.mark.slow
@pytest.mark.parametrize("definitions", [[BY_N]])
async def test_large_documents_beside_updates_are_stored_apart(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    noise = random.Random(1).randbytes(3_000_000).hex()
    async with running_worker(settings):
        await routed(stores, await began(stores, "docs"))
        await docs.insert_one({"_id": 1, "n": 1, "noise": noise})
        await docs.update_one({"_id": 1}, {"$set": {"n": 2}})
        await docs.insert_one({"_id": 2, "n": 1, "pad": "x" * 1_500_000})
        await docs.update_one({"_id": 2}, {"$set": {"n": 2}})
        log = await caught_up(stores)
    stored = {row["_id"]["n"]: row async for row in stores.log["events"].find({"d": {"$exists": True}})}
    assert [type(row["d"]) for row in stored.values()] == [dict, bytes]
    assert await assert_routed(stores, log, [BY_N], [1, 2]) == 6
    assert await stores.events.sweep(log) == 0


async def test_without_definitions_for_a_collection_rows_are_as_before(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await began(stores, "others")
        await stores.data["others"].insert_one({"_id": 1, "num": 1})
        await stores.data["others"].update_one({"_id": 1}, {"$set": {"num": 2}})
        await caught_up(stores)
    async for row in stores.log["events"].find():
        assert row.keys() - {"r", "a"} == {"_id", "t", "s", "c", "i", "v", "b"}


@pytest.mark.slow
@pytest.mark.parametrize("definitions", [[BY_N]])
async def test_worker_appends_while_an_index_of_a_large_log_is_built(
    stores: Stores, settings: Settings, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_worker(settings):
        log = await routed(stores, await began(stores, "docs"))
        # The index of an empty collection takes no build.
        await stores.data["docs"].insert_one({"_id": 1, "n": 7})
        await caught_up(stores)
    await stores.log["events"].drop_index("by_route")
    declared = RoutedShape.of("by_n", {"n": [7]})
    shape = Shape("by_n", None, declared, BY_N.bind_shape(declared))
    async with building_no_index(client):
        async with running_worker(settings.model_copy(update={"mongodb_timeout": 2.0})):
            await stores.data["docs"].insert_one({"_id": 2, "n": 7})
            await caught_up(stores)
        assert "MongoDB builds an index of the event log" in caplog.text
        with pytest.raises(Unavailable):
            await read(stores, log, shape)
    found = await eventually(stores, "events", lambda: read_if_built(stores, log, shape))
    assert [event.id for event in found] == ["int:1", "int:2"]


async def read(stores: Stores, log: LogId, shape: Shape) -> list[StoredEvent]:
    up_to = await stores.events.head(log)
    return [event async for event in stores.events.read(log, Seq(0), up_to, shape=shape)]


async def read_if_built(stores: Stores, log: LogId, shape: Shape) -> list[StoredEvent] | None:
    try:
        return await read(stores, log, shape)
    except Unavailable:
        return None
