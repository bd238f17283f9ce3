"""The registry of declared shapes in a real MongoDB: each write is whole, and compares what it was made from."""

from __future__ import annotations

import asyncio

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Unavailable
from eventsync.stores.log.registry import Applied, Declaration, Registry, StoredRules
from eventsync.stores.stores import Stores

LOG, TIME = LogId("aaaa"), Timestamp(5, 1)


def declared(name: str, digest: str = "d1") -> Declaration:
    return Declaration(name, "cards", "{}", digest)


async def test_nothing_declared_is_an_empty_registry(stores: Stores) -> None:
    assert await stores.definitions.read() == Registry()
    assert await stores.definitions.apply([]) == Applied(0, (), (), (), ())
    assert await stores.definitions.read() == Registry()


async def test_apply_names_what_is_new_changed_removed_and_unchanged(stores: Stores) -> None:
    first = await stores.definitions.apply([declared("b"), declared("a"), declared("c")])
    assert first == Applied(1, ("a", "b", "c"), (), (), ())
    second = await stores.definitions.apply([declared("b", "d2"), declared("c"), declared("e")])
    assert second == Applied(2, ("e",), ("b",), ("a",), ("c",))
    read = await stores.definitions.read()
    assert [(shape.name, shape.digest, shape.number) for shape in read.shapes] == [
        ("b", "d2", 2),
        ("c", "d1", 1),
        ("e", "d1", 2),
    ]
    assert await stores.definitions.apply([declared("b", "d2"), declared("c"), declared("e")]) == Applied(
        2, (), (), (), ("b", "c", "e")
    )
    assert await stores.definitions.read() == read


async def test_unchanged_shapes_stay_active_and_changed_ones_do_not(stores: Stores) -> None:
    await stores.definitions.apply([declared("a"), declared("b")])
    before = await stores.definitions.read()
    activated = await stores.definitions.activate(before.shapes, LOG, Seq(2**40), TIME)
    assert activated == await stores.definitions.read()
    assert [shape.name for shape in activated.active(LOG)] == ["a", "b"]
    await stores.definitions.apply([declared("a"), declared("b", "d2")])
    (active,) = await stores.definitions.active(LOG)
    assert (active.name, active.log, active.base, active.time) == ("a", LOG, 2**40, TIME)
    assert active.revision > before.revision
    assert await stores.definitions.active(LogId("bbbb")) == []


async def test_a_shape_that_was_changed_meanwhile_is_neither_activated_nor_refused(stores: Stores) -> None:
    await stores.definitions.apply([declared("a"), declared("b")])
    old = (await stores.definitions.read()).shapes
    await stores.definitions.apply([declared("a", "d2")])
    assert (await stores.definitions.activate(old, LOG, Seq(5), TIME)).active(LOG) == []
    await stores.definitions.refuse([(shape, "odd") for shape in old])
    (shape,) = (await stores.definitions.read()).shapes
    assert (shape.digest, shape.log, shape.refused) == ("d2", None, None)


async def test_a_shape_that_is_activated_again_has_a_later_revision(stores: Stores) -> None:
    await stores.definitions.apply([declared("a")])
    first = (await stores.definitions.activate((await stores.definitions.read()).shapes, LOG, Seq(5), TIME)).active(LOG)
    second = (await stores.definitions.activate(first, LOG, Seq(6), TIME)).active(LOG)
    assert [shape.base for shape in second] == [6]
    assert second[0].revision > first[0].revision


async def test_a_refusal_ends_with_the_next_change_of_the_shape(stores: Stores) -> None:
    await stores.definitions.apply([declared("a")])
    await stores.definitions.refuse([((await stores.definitions.read()).shapes[0], "too odd")])
    assert (await stores.definitions.read()).shapes[0].refused == "too odd"
    await stores.definitions.apply([declared("a", "d2")])
    assert (await stores.definitions.read()).shapes[0].refused is None


async def test_a_refused_shape_that_is_applied_again_is_to_be_checked_again(stores: Stores) -> None:
    await stores.definitions.apply([declared("a")])
    await stores.definitions.refuse([((await stores.definitions.read()).shapes[0], "too odd")])
    assert (await stores.definitions.apply([declared("a")])).unchanged == ("a",)
    assert (await stores.definitions.read()).shapes[0].refused is None


async def test_concurrent_applies_are_whole_and_numbered_in_order(stores: Stores) -> None:
    wanted = [[declared("a", f"x{turn}"), declared("b", f"x{turn}")] for turn in range(6)]
    applied = await asyncio.gather(*(stores.definitions.apply(each) for each in wanted))
    assert sorted(each.number for each in applied) == [1, 2, 3, 4, 5, 6]
    registry = await stores.definitions.read()
    assert registry.number == 6
    assert len({shape.digest for shape in registry.shapes}) == 1


async def test_a_registry_that_is_made_again_has_later_revisions(stores: Stores) -> None:
    await stores.definitions.apply([declared("a")])
    before = await stores.definitions.read()
    await stores.log["shapes"].drop()
    await asyncio.sleep(0.002)  # The first revision is a time in milliseconds.
    await stores.definitions.apply([declared("a")])
    assert (await stores.definitions.read()).revision > before.revision


async def test_a_registry_that_was_edited_by_hand_is_unavailable(stores: Stores) -> None:
    await stores.definitions.apply([declared("a")])
    await stores.log["shapes"].update_one({}, {"$unset": {"shapes.0.spec": ""}})
    with pytest.raises(Unavailable, match="edited by hand"):
        await stores.definitions.read()


async def test_rules_are_kept_with_the_shapes_and_numbered(stores: Stores) -> None:
    applied = await stores.definitions.apply([declared("a")], "rules A")
    assert (applied.number, applied.access) == (1, "new")
    applied = await stores.definitions.apply([declared("a")], "rules A")
    assert (applied.number, applied.access) == (1, "unchanged")
    applied = await stores.definitions.apply([declared("a")], "rules B")
    assert (applied.number, applied.access) == (2, "changed")
    assert (await stores.definitions.read()).rules == StoredRules("rules B", 2)
    await stores.definitions.apply([declared("a"), declared("b")], "rules B")
    registry = await stores.definitions.read()
    assert registry.number == 3
    assert registry.rules == StoredRules("rules B", 2)
    applied = await stores.definitions.apply([declared("a")])
    assert (applied.number, applied.access) == (4, "removed")
    assert (await stores.definitions.read()).rules is None


async def test_a_worker_that_knows_no_rules_keeps_them(stores: Stores) -> None:
    """Such a worker stores what it has read of each shape, and no member besides."""
    await stores.definitions.apply([declared("a")], "rules A")
    rows = stores.log["shapes"]
    row = await rows.find_one({})
    assert row is not None
    assert row.keys() == {"_id", "revision", "number", "shapes"}
    for shape in row["shapes"]:
        assert {"name", "collection", "spec", "digest", "number"} == shape.keys()
    registry = await stores.definitions.activate((await stores.definitions.read()).shapes, LOG, Seq(5), TIME)
    assert registry.rules == (await stores.definitions.read()).rules == StoredRules("rules A", 1)
