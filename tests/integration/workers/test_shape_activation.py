"""Declared shapes: from which event on their keys are in the log, whatever happens to workers in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration, DeclaredShape, DefinitionStore, Registry
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.log_writer import LogWriter
from eventsync_workers.sequencing.shape_activation import ActiveShapes
from support.load import under_load
from support.replay import Replay, assert_complete, began, caught_up, eventually, new_log
from support.systems import running_worker

BY_OWNER = define("by_owner", "docs", {"owner": "$owner"}, {"owner": ["int"]})
BY_OPEN = define("by_owner", "docs", {"owner": "$owner", "open": True}, {"owner": ["int"]})
BY_READER = define("by_reader", "docs", {"readers": "$reader"}, {"reader": ["int"]})
OF_OTHERS = define("of_others", "others", {"owner": "$owner"}, {"owner": ["int"]})


async def apply(stores: Stores, *definitions: Definition) -> None:
    await stores.definitions.apply([Declaration.of(definition) for definition in definitions])


async def active(stores: Stores, log: LogId, *definitions: Definition) -> list[DeclaredShape]:
    """Wait until these definitions, and no others, are active."""
    wanted = sorted(definition.digest.hex() for definition in definitions)

    async def check() -> list[DeclaredShape] | None:
        found = await stores.definitions.active(log)
        return found if sorted(shape.digest for shape in found) == wanted else None

    return await eventually(stores, "shapes", check)


async def rows_of(stores: Stores, log: LogId) -> dict[int, dict[str, Any]]:
    """Return the rows of the log by seq."""
    return {row["_id"]["n"]: row async for row in stores.log["events"].find({"_id.l": log}).sort("_id.n", 1)}


def names_of(row: dict[str, Any], *definitions: Definition, owners: Iterable[int] = range(10)) -> set[tuple[str, int]]:
    """Return the shapes, with the owner, whose keys a row carries."""
    return {
        (definition.name, owner)
        for definition in definitions
        for owner in owners
        if definition.bind(dict.fromkeys(definition.types, owner)).key in row.get("k", ())
    }


async def assert_routed(stores: Stores, log: LogId, *definitions: Definition) -> int:
    """Assert that each active shape's keys are in all events after its activation; return how many events those are.

    The keys are computed from the states that the events make. So the log must begin with its collections empty.
    """
    rows, replay, checked = await rows_of(stores, log), Replay(), 0
    shapes = {shape.digest: shape for shape in await stores.definitions.active(log)}
    bases = {definition: shapes[definition.digest.hex()] for definition in definitions}
    for shape in bases.values():
        behind = rows.get(shape.base + 1)
        assert behind is None or behind.get("r", 0) >= shape.revision, f"{shape} is void"
    async for stored in stores.events.read(log, Seq(0)):
        key = (stored.collection, stored.id)
        before = replay.rows.get(key, (0, None))[1]
        replay.take(stored)
        after = replay.rows.get(key, (0, None))[1]
        for definition, shape in bases.items():
            if stored.seq > shape.base and definition.collection == stored.collection:
                expected = {each for state in (before, after) if state for each in definition.keys(state)}
                assert expected <= set(rows[stored.seq].get("k", ())), f"{stored.seq} has no keys of {definition.name}"
                checked += 1
    return checked


async def test_a_declared_shape_is_active_from_a_point_on(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "owner": 7})
        await caught_up(stores)
        await apply(stores, BY_OWNER)
        (shape,) = await active(stores, log, BY_OWNER)
        checkpoint = await stores.logs.read_checkpoint(log)
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"owner": 8}})
        await stores.data["docs"].insert_one({"_id": 2, "x": 1})
        await caught_up(stores)
    assert (shape.base, shape.log) == (1, log)
    assert checkpoint is not None
    assert checkpoint.time >= (shape.time or Timestamp(0, 0)) > Timestamp(0, 0)
    rows = await rows_of(stores, log)
    assert "k" not in rows[1]
    assert names_of(rows[2], BY_OWNER) == {("by_owner", 7), ("by_owner", 8)}
    assert rows[2]["r"] >= shape.revision
    assert not {"k", "r"} & rows[3].keys()


async def test_a_changed_shape_is_inactive_until_it_is_active_at_a_later_seq(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await apply(stores, BY_OWNER, BY_READER)
        first = await active(stores, log, BY_OWNER, BY_READER)
        await stores.data["docs"].insert_one({"_id": 1, "owner": 7, "open": True, "readers": [1, 2]})
        await caught_up(stores)
        monkeypatch.setattr(ActiveShapes, "check_registry", _do_nothing)
        await apply(stores, BY_OPEN, BY_READER)
        assert [shape.name for shape in await stores.definitions.active(log)] == ["by_reader"]
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"x": 1}})
        await caught_up(stores)
        monkeypatch.undo()
        second = await active(stores, log, BY_OPEN, BY_READER)
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"open": False}})
        await caught_up(stores)
    assert [shape.base for shape in first] == [0, 0]
    assert [shape.base for shape in second] == [2, 0], "the one that has not changed stays active"
    rows = await rows_of(stores, log)
    assert names_of(rows[3], BY_OPEN) == {("by_owner", 7)}
    assert names_of(rows[3], BY_OWNER) == set(), "the old definition is routed no longer"
    assert rows[3]["x"] == BY_OPEN.bind({"owner": 7}).key


async def test_a_removed_shape_is_routed_no_longer(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await apply(stores, BY_OWNER, BY_READER)
        await active(stores, log, BY_OWNER, BY_READER)
        await apply(stores, BY_READER)

        async def unrouted() -> dict[str, Any] | None:
            await stores.data["docs"].insert_one({"owner": 7, "readers": [3]})
            row = list((await rows_of(stores, await caught_up(stores))).values())[-1]
            return row if names_of(row, BY_OWNER) == set() else None

        row = await eventually(stores, "heads", unrouted)
        assert names_of(row, BY_READER) == {("by_reader", 3)}
        await apply(stores, BY_OWNER, BY_READER)
        shapes = await active(stores, log, BY_OWNER, BY_READER)
    assert shapes[0].base >= row["_id"]["n"]
    assert shapes[1].base == 0


async def test_a_shape_is_activated_under_load(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        # Under load there is no batch without changes.
        monkeypatch.setattr(LogWriter, "settles", lambda _writer, _batch: False)
        await apply(stores, BY_OWNER)

        async def written() -> DeclaredShape | None:
            await stores.data["docs"].insert_one({"owner": 7})
            async with stores.data.client.start_session() as session, await session.start_transaction():
                await stores.data["docs"].insert_many([{"owner": 8}, {"owner": 9}], session=session)
            return next(iter(await stores.definitions.active(log)), None)

        shape = await eventually(stores, "heads", written)
        await stores.data["docs"].insert_one({"owner": 7})
        monkeypatch.undo()
        await caught_up(stores)
    assert shape.time is not None
    rows = await rows_of(stores, log)
    assert shape.base == 0 or rows[shape.base]["s"] <= shape.time
    assert shape.time < rows[shape.base + 1]["s"], "all of the changes up to the time are in the log"
    assert await assert_routed(stores, log, BY_OWNER) >= 1


async def test_a_shape_waits_for_its_collection(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await apply(stores, BY_OWNER, OF_OTHERS)
        await active(stores, log, BY_OWNER)
        await stores.data["docs"].insert_one({"_id": 1})
        await caught_up(stores)
        await began(stores, "others")
        shapes = await active(stores, log, BY_OWNER, OF_OTHERS)
        await stores.data["others"].insert_one({"owner": 1})
        await caught_up(stores)
    assert [shape.base for shape in shapes] == [0, 1]
    assert names_of((await rows_of(stores, log))[2], OF_OTHERS) == {("of_others", 1)}


async def test_a_new_log_activates_all_shapes_again(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await apply(stores, BY_OWNER)
        await active(stores, log, BY_OWNER)
        await stores.data["docs"].insert_one({"owner": 7})
        await caught_up(stores)
        await stores.logs.request_reset("by hand")
        other = await new_log(stores, log)
        assert await stores.definitions.active(log) == [] or await current(stores) == other
        (shape,) = await active(stores, other, BY_OWNER)
        await stores.data["docs"].insert_one({"owner": 7})
        await caught_up(stores)
    rows = await rows_of(stores, other)
    assert names_of(rows[shape.base + 1], BY_OWNER) == {("by_owner", 7)}


async def test_a_new_term_routes_before_it_converts_anything(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await apply(stores, BY_OWNER)
        (before,) = await active(stores, log, BY_OWNER)
        await stores.data["docs"].insert_one({"_id": 1, "owner": 1})
        await caught_up(stores)
    await stores.data["docs"].insert_one({"_id": 2, "owner": 2})
    async with running_worker(settings):
        await caught_up(stores)
        assert await stores.definitions.active(log) == [before]
    rows = await rows_of(stores, log)
    assert names_of(rows[2], BY_OWNER) == {("by_owner", 2)}
    assert rows[2]["r"] >= before.revision, "the first event of each term names the revision"


async def test_a_shape_of_another_version_is_refused_until_it_is_applied_again(
    stores: Stores, settings: Settings
) -> None:
    declared = Declaration.of(BY_OWNER)
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.definitions.apply(
            [Declaration("by_owner", "docs", declared.spec, "00"), Declaration.of(BY_READER)]
        )
        await active(stores, log, BY_READER)
        refused = (await stores.definitions.read()).shapes[0].refused
        await apply(stores, BY_OWNER, BY_READER)
        await active(stores, log, BY_OWNER, BY_READER)
    assert refused is not None
    assert "has other keys in this version" in refused


# --- workers that end, or do not know that they are deposed -------------------------------------------------------


async def test_an_activation_whose_worker_ends_at_once_holds(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry is written, and the worker never routes by it: the next one does."""
    routed = LogWriter.route_by
    failures = list[Any]()

    def failing(self: LogWriter, router: Any) -> None:
        if router.definitions and not failures:
            failures.append(router)
            raise Unavailable("killed here")
        routed(self, router)

    monkeypatch.setattr(LogWriter, "route_by", failing)
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "owner": 1})
        await caught_up(stores)
        await apply(stores, BY_OWNER)
        (shape,) = await active(stores, log, BY_OWNER)
        await stores.data["docs"].insert_one({"_id": 2, "owner": 2})
        await caught_up(stores)
        assert await stores.definitions.active(log) == [shape]
    assert failures
    assert await assert_routed(stores, log, BY_OWNER) == 1


async def test_the_event_of_a_deposed_worker_makes_an_activation_void(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "owner": 1})
        await caught_up(stores)
    # Its successor activates the shape behind event 1; the deposed worker has not read that, and appends event 2.
    await apply(stores, BY_OWNER)
    registry = await stores.definitions.read()
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    await stores.definitions.activate(registry.shapes, log, checkpoint.seq, checkpoint.time)
    (void,) = await stores.definitions.active(log)
    with monkeypatch.context() as deposed:
        deposed.setattr(LogWriter, "route_by", lambda *_: None)
        deposed.setattr(ActiveShapes, "check_registry", _do_nothing)
        await stores.data["docs"].insert_one({"_id": 2, "owner": 2})
        async with running_worker(settings):
            await caught_up(stores)
    assert not {"k", "r"} & (await rows_of(stores, log))[2].keys()
    async with running_worker(settings):

        async def again() -> DeclaredShape | None:
            (shape,) = await stores.definitions.active(log)
            return shape if shape != void else None

        shape = await eventually(stores, "shapes", again)
        await stores.data["docs"].insert_one({"_id": 3, "owner": 3})
        await caught_up(stores)
    assert "a deposed worker has not routed by by_owner" in caplog.text
    assert (void.base, shape.base) == (1, 2)
    assert shape.revision > void.revision
    assert await assert_routed(stores, log, BY_OWNER) == 1


@pytest.mark.parametrize("seq", [3, 1])
async def test_an_activation_by_a_deposed_worker_is_taken_over_or_replaced(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, seq: int
) -> None:
    """It may be behind the newest event, whose successor confirms it, or behind an earlier one, and then it is void."""
    activate, foreign = DefinitionStore.activate, list[DeclaredShape]()

    async def after_another(self: DefinitionStore, shapes: Any, log: LogId, base: Seq, time: Timestamp) -> Registry:
        if not foreign:
            await apply(stores, BY_OWNER, BY_READER)
            others = (await self.read()).shapes[:1]
            foreign.extend((await activate(self, others, log, Seq(seq), time)).active(log))
        return await activate(self, shapes, log, base, time)

    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_many([{"_id": n, "owner": 1} for n in range(3)])
        await caught_up(stores)
        monkeypatch.setattr(DefinitionStore, "activate", after_another)
        await apply(stores, BY_READER)
        await active(stores, log, BY_OWNER, BY_READER)
        # The next event confirms the foreign activation only where it is routed by.
        await stores.data["docs"].insert_one({"_id": 3, "owner": 2, "readers": [1]})
        await caught_up(stores)

        async def at_the_head() -> list[DeclaredShape] | None:
            found = await stores.definitions.active(log)
            return found if min(shape.base for shape in found) >= 3 else None

        found = await eventually(stores, "shapes", at_the_head)
        await stores.data["docs"].insert_one({"_id": 4, "owner": 2, "readers": [1]})
        await caught_up(stores)
    assert [(shape.name, shape.base) for shape in foreign] == [("by_owner", seq)]
    assert (found[0] == foreign[0]) == (seq == 3)
    assert await assert_routed(stores, log, BY_OWNER, BY_READER) >= 3


@pytest.mark.slow
async def test_workers_that_are_killed_and_rules_that_change_under_load_leave_no_event_unrouted(
    stores: Stores, settings: Settings, start_worker: Callable[[], Any]
) -> None:
    rng, docs = random.Random(7), stores.data["docs"]
    chosen = [(BY_OWNER, BY_READER), (BY_OPEN, BY_READER), (BY_READER,), (BY_OWNER,)]

    async def write() -> None:
        number = rng.randrange(30)
        if rng.random() < 0.1:
            await docs.delete_one({"_id": number})
            return
        fields = {"owner": rng.randrange(5), "open": rng.random() < 0.5, "readers": rng.sample(range(5), 2)}
        await docs.update_one({"_id": number}, {"$set": fields}, upsert=True)

    worker = start_worker()
    log = await began(stores, "docs")
    async with under_load(write, write) as load:
        for turn in range(6):
            await apply(stores, *chosen[turn % len(chosen)])
            await load.wait(rng.randrange(5, 60))
            worker.kill()
            worker = start_worker()
            await load.wait(20)
        await apply(stores, BY_OPEN, BY_READER)
        await active(stores, log, BY_OPEN, BY_READER)
        await load.wait(30)
    await assert_complete(stores, "docs")
    checked = await assert_routed(stores, log, BY_OPEN, BY_READER)
    assert checked > 30


async def _do_nothing(*_: object) -> None:
    await asyncio.sleep(0)


async def current(stores: Stores) -> LogId | None:
    log = await stores.logs.current()
    return log.id if log else None
