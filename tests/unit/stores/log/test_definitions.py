from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Route, define
from eventsync.domain.shapes import Shape
from eventsync.errors import InvalidPredicate, NotTracked, Unavailable, UnknownShape
from eventsync.stores.log.definitions import Definitions, ShapeCounts
from eventsync.stores.log.registry import Declaration, DeclaredShape, Registry
from eventsync.stores.log.tracking import TrackedCollection, Tracking
from support.waiting import within

LOG, OTHER = LogId("aaaa"), LogId("bbbb")
DECLARED = DeclaredShape("my_cards", "cards", "{}", "d1", 1)
ACTIVE = replace(DECLARED, log=LOG, base=Seq(7), revision=50)


def tracking(*active: str, base: int = 0) -> Tracking:
    copy = Tracking()
    copy.replace(LOG, [TrackedCollection(name, LOG, Seq(base)) for name in active])
    return copy


def definitions(*shapes: DeclaredShape, base: int = 0) -> Definitions:
    copy = Definitions(tracking("cards", base=base))
    copy.replace(LOG, Registry(99, 1, shapes))
    return copy


def test_resolve_returns_the_later_of_both_activations() -> None:
    assert definitions(ACTIVE).resolve("my_cards").since == 7
    assert definitions(ACTIVE, base=9).resolve("my_cards").since == 9


def test_resolve_refuses_what_is_not_declared_or_refused() -> None:
    with pytest.raises(UnknownShape, match="rules show"):
        definitions(ACTIVE).resolve("nobody")
    with pytest.raises(UnknownShape, match="can't be served: too odd"):
        definitions(replace(DECLARED, refused="too odd")).resolve("my_cards")


@pytest.mark.parametrize("shape", [DECLARED, replace(ACTIVE, log=OTHER)])
def test_resolve_asks_to_retry_while_a_shape_is_not_active_in_the_log(shape: DeclaredShape) -> None:
    with pytest.raises(Unavailable, match="about to become active"):
        definitions(shape).resolve("my_cards")


def test_resolve_asks_to_retry_before_the_registry_was_read() -> None:
    with pytest.raises(Unavailable, match="not known yet"):
        Definitions(tracking("cards")).resolve("my_cards")


def test_counts_are_those_of_each_state_and_of_the_longest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 30.0, 35.0, 50.0))
    monkeypatch.setattr(f"{Definitions.__module__}.time.monotonic", lambda: next(clock))
    waiting, refused = replace(DECLARED, name="late", number=2), replace(DECLARED, name="odd", refused="too odd")
    copy = definitions(waiting, refused)
    copy.replace(LOG, Registry(100, 1, (ACTIVE, waiting, refused)))
    assert copy.counts() == ShapeCounts(active=1, waiting=1, refused=1, waited=25.0), "since it was seen at 10"
    copy.replace(LOG, Registry(101, 1, (ACTIVE, replace(ACTIVE, name="late", number=2), refused)))
    assert copy.counts() == ShapeCounts(active=2, waiting=0, refused=1, waited=0.0)


def test_a_shape_is_active_only_where_its_collection_is() -> None:
    copy = Definitions(tracking("orders"))
    copy.replace(LOG, Registry(99, 1, (ACTIVE,)))
    assert not copy.is_active("my_cards")
    with pytest.raises(NotTracked):
        copy.resolve("my_cards")


def test_a_new_log_makes_all_shapes_inactive() -> None:
    copy = definitions(ACTIVE)
    assert copy.replace(OTHER, Registry(99, 1, (ACTIVE,)))
    assert not copy.is_active("my_cards")
    assert not copy.replace(OTHER, Registry(99, 1, (ACTIVE,)))


def test_the_event_behind_an_activation_confirms_it_once() -> None:
    copy = definitions(ACTIVE)
    assert copy.unproven == 8
    assert not copy.prove(Seq(8), 50)
    assert copy.unproven is None
    copy.replace(LOG, Registry(100, 1, (ACTIVE,)))
    assert copy.unproven is None
    assert copy.is_active("my_cards")


def test_an_event_of_a_deposed_worker_voids_an_activation_until_the_next_one() -> None:
    copy = definitions(ACTIVE)
    assert copy.prove(Seq(8), 49)
    with pytest.raises(Unavailable):
        copy.resolve("my_cards")
    assert not copy.replace(LOG, Registry(100, 1, (ACTIVE,)))
    assert copy.replace(LOG, Registry(101, 1, (replace(ACTIVE, base=Seq(8), revision=101),)))
    assert copy.resolve("my_cards").since == 8
    assert copy.unproven == 9


def test_other_events_say_nothing_about_an_activation() -> None:
    copy = definitions(ACTIVE)
    assert not copy.prove(Seq(9), 0)
    assert copy.is_active("my_cards")
    assert copy.unproven == 8


async def test_until_wakes_when_a_shape_becomes_active() -> None:
    copy = definitions(DECLARED)
    waiting = asyncio.create_task(copy.until(lambda: copy.is_active("my_cards"), 60))
    await asyncio.sleep(0)
    copy.replace(LOG, Registry(100, 1, (ACTIVE,)))
    async with within(5):
        await waiting
    assert copy.is_active("my_cards")


# --- bound routes -------------------------------------------------------------------------------------------------


def shape_of(where: Mapping[str, Any], **parameters: str) -> DeclaredShape:
    """Return an active shape with a definition of its own."""
    definition = define("my_cards", "cards", where, {name: [kind] for name, kind in parameters.items()})
    declaration = Declaration.of(definition)
    return replace(ACTIVE, spec=declaration.spec, digest=declaration.digest)


BY_BOARD = shape_of({"board": "$board"}, board="int")
BOARD_7 = Shape.parse("my_cards?board=int:7")


def route_of(shape: Shape) -> Route:
    assert isinstance(shape.route, Route)
    return shape.route


def test_bind_returns_the_route_of_the_values() -> None:
    route = route_of(definitions(BY_BOARD, base=9).bind(BOARD_7))
    assert (route.collection, route.filter, route.since) == ("cards", {"board": {"$eq": 7}}, 9)
    assert (len(route.keys), len(route.scope)) == (1, 8)
    assert route.admits({"board": [5, 7]})
    assert not route.admits({"board": 5})


def test_bound_shape_is_bound_again_only_by_another_activation() -> None:
    copy = definitions(BY_BOARD)
    bound = copy.bind(BOARD_7)
    assert copy.bind(bound) is bound
    copy.replace(LOG, Registry(100, 1, (replace(BY_BOARD, base=Seq(8), revision=51),)))
    assert copy.bind(bound).route != bound.route
    copy.replace(LOG, Registry(101, 1, ()))
    with pytest.raises(UnknownShape):
        copy.bind(bound)


def test_a_route_admits_no_document_with_too_many_keys() -> None:
    assert not route_of(definitions(BY_BOARD).bind(BOARD_7)).admits({"board": list(range(2_000))})


def test_bind_refuses_other_parameters() -> None:
    with pytest.raises(InvalidPredicate, match="board"):
        definitions(BY_BOARD).bind(Shape.parse("my_cards?owner=7"))
    with pytest.raises(InvalidPredicate, match="of type int"):
        definitions(BY_BOARD).bind(Shape.parse("my_cards?board=7"))


def test_a_definition_that_is_read_otherwise_is_unknown() -> None:
    with pytest.raises(UnknownShape, match="other keys in this version"):
        definitions(replace(BY_BOARD, digest="00")).bind(BOARD_7)
    with pytest.raises(UnknownShape, match="can't be read by this version"):
        definitions(replace(BY_BOARD, spec="{}")).bind(BOARD_7)


def test_a_changed_definition_binds_others_keys() -> None:
    copy = definitions(BY_BOARD)
    before = copy.bind(BOARD_7)
    changed = replace(shape_of({"board": "$board", "open": True}, board="int"), base=Seq(20), revision=60)
    copy.replace(LOG, Registry(100, 2, (changed,)))
    assert not copy.is_current(before)
    after = copy.bind(BOARD_7)
    assert copy.is_current(after)
    assert not route_of(before).keys & route_of(after).keys
    assert before.scope != after.scope


def test_a_route_is_current_until_its_activation_ends() -> None:
    copy = definitions(BY_BOARD)
    shape = copy.bind(BOARD_7)
    copy.replace(LOG, Registry(100, 2, (BY_BOARD, replace(DECLARED, name="others"))))
    assert copy.is_current(shape)
    copy.replace(LOG, Registry(101, 2, (replace(BY_BOARD, base=Seq(9), revision=101),)))
    assert not copy.is_current(shape), "it was not active for a while"
    shape = copy.bind(BOARD_7)
    copy.replace(OTHER, Registry(101, 2, (replace(BY_BOARD, base=Seq(9), revision=101),)))
    assert not copy.is_current(shape)


def test_a_route_is_not_current_once_its_collection_was_tracked_again() -> None:
    tracked = tracking("cards", base=3)
    copy = Definitions(tracked)
    copy.replace(LOG, Registry(99, 1, (BY_BOARD,)))
    shape = copy.bind(BOARD_7)
    assert copy.is_current(shape)
    tracked.replace(LOG, [])
    assert not copy.is_current(shape)
    tracked.replace(LOG, [TrackedCollection("cards", LOG, Seq(30))])
    assert not copy.is_current(shape)
    assert route_of(copy.bind(BOARD_7)).since == 30
