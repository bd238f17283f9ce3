"""Definitions, their routes, and the keys of documents."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, ObjectId

from eventsync.domain.bson_scan.opaque import Opaque, UnreadableDocument
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.domain.predicates.keys import MAX_KEYS, Unrouted
from eventsync.domain.predicates.predicate import Predicate
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.errors import InvalidPredicate, Malformed


def defined(where: Any, name: str = "mine", **types: str) -> Definition:
    return define(name, "cards", where, {each: kinds.split() for each, kinds in types.items()})


BY_BOARD = defined({"board": "$board", "state": {"$in": ["open", "paid"]}}, board="any")


def test_keys_are_those_that_other_versions_have_stored() -> None:
    # Logs keep keys: another way to make them is another version of the definition.
    assert {key.hex() for key in BY_BOARD.keys({"board": 7, "state": "open"})} == {"f28e82b024dd354b4a70b025fe8b9fba"}
    assert BY_BOARD.digest.hex() == "b4a39b7265c6b89595c69f970fdf41e8"


def test_a_document_has_the_key_of_each_value_at_the_path() -> None:
    readers = defined({"readers": "$reader"}, reader="any")
    keys = readers.keys({"readers": ["ada", 7, None, 7.0]})
    assert len(keys) == 4  # of the three values, and of the array itself
    for value in ("ada", 7, Decimal128("7"), None, ["ada", 7, None, 7.0]):
        assert readers.bind({"reader": value}).keys <= keys
    assert not readers.bind({"reader": "grace"}).keys & keys


def test_a_document_without_the_field_belongs_to_the_route_of_null() -> None:
    by_owner = defined({"owner.id": "$owner"}, owner="text null")
    assert by_owner.keys({}) == by_owner.bind({"owner": None}).keys
    assert defined({"owner.id": "$owner"}, owner="text").keys({}) == frozenset()


def test_a_document_that_the_residual_refuses_has_no_keys() -> None:
    assert BY_BOARD.keys({"board": 7, "state": "closed"}) == frozenset()
    assert BY_BOARD.keys({"board": 7.5, "state": "closed"}) == frozenset()


def test_values_of_other_types_have_no_keys() -> None:
    by_number = defined({"n": "$n"}, n="int")
    assert by_number.keys({"n": "7"}) == frozenset()
    assert by_number.keys({"n": [True, {"a": 7}, 7]}) == by_number.bind({"n": 7}).keys


def test_branches_give_a_document_the_keys_of_each() -> None:
    either = defined({"$or": [{"owner": "$who", "state": "open"}, {"readers": "$who"}]}, who="text")
    document = {"owner": "ada", "state": "open", "readers": ["grace"]}
    assert either.keys(document) == either.bind({"who": "ada"}).keys | either.bind({"who": "grace"}).keys
    assert either.keys(document | {"state": "closed"}) == either.bind({"who": "grace"}).keys


def test_two_parameters_make_a_key_of_each_pair() -> None:
    both = defined({"a": "$a", "b": "$b"}, a="text", b="text")
    keys = both.keys({"a": ["x", "y"], "b": ["p", "q"]})
    assert len(keys) == 4
    assert both.bind({"a": "y", "b": "p"}).keys <= keys
    assert not both.bind({"a": "p", "b": "y"}).keys & keys


@pytest.mark.parametrize("where", [{"a": "$a"}, {"a.b": "$a"}, {"a": "$a", "c": "$b"}])
def test_a_document_with_too_many_keys_belongs_to_no_route(where: dict[str, Any]) -> None:
    definition = defined(where, **{name: "any" for name in ("a", "b") if f"${name}" in where.values()})
    many = [*range(MAX_KEYS)]  # and one more, of the array
    keys = definition.keys({"a": {"b": many} if "a.b" in where else many})
    assert isinstance(keys, Unrouted)
    assert (keys, keys.reason) == (frozenset(), "too_many_keys")
    assert len(definition.keys({"a": {"b": many[1:]} if "a.b" in where else many[1:]})) == MAX_KEYS


@pytest.mark.parametrize(
    "document",
    [
        UnreadableDocument({"_id": 1, "v": 5}),
        {"v": Opaque(3, b"\1")},
        {"v": Opaque(4, b"\1")},
        {"v": [5, {"x": Opaque(3, b"\1")}]},
    ],
)
def test_a_document_that_no_driver_reads_belongs_to_no_route(document: dict[str, Any]) -> None:
    keys = defined({"v": "$p"}, p="any").keys(document)
    assert isinstance(keys, Unrouted)
    assert (keys, keys.reason) == (frozenset(), "unreadable")
    assert not Predicate({"v": {"$ne": {"a": 1}}}).matches(document)


def test_other_definitions_have_other_keys() -> None:
    other = defined({"board": "$board"}, board="any")
    renamed = defined(BY_BOARD.where, "other", board="any")
    assert renamed.digest == BY_BOARD.digest
    keys = [each.bind({"board": 7}).key for each in (BY_BOARD, other, renamed)]
    assert len(set(keys)) == 3


def test_spellings_of_a_definition_have_one_digest() -> None:
    spelled = {"$and": [{"state": {"$in": ["paid", "open"]}}, {"board": {"$eq": "$board"}}]}
    assert defined(spelled, board="any").digest == BY_BOARD.digest
    assert defined(spelled, board="text").digest != BY_BOARD.digest
    assert define("mine", "lists", spelled, {"board": ["any"]}).digest != BY_BOARD.digest


def test_a_route_has_the_filter_for_find() -> None:
    route = BY_BOARD.bind({"board": 7})
    assert route.filter == {"board": {"$eq": 7}, "state": {"$in": ["open", "paid"]}}
    assert (route.collection, str(route.shape)) == ("cards", "mine?board=int:7")
    assert (route.keys, route.scope) == (frozenset({route.key}), route.key.hex()[:8])


def test_text_that_looks_like_a_parameter_is_text_in_the_filter() -> None:
    definition = defined({"owner": "$owner", "kind": {"$literal": "$owner"}}, owner="text")
    route = definition.bind({"owner": "$where"})
    assert route.filter == {"owner": {"$eq": "$where"}, "kind": {"$eq": "$owner"}}
    assert definition.keys({"owner": "$where", "kind": "$owner"}) == route.keys


def test_equal_values_make_one_route() -> None:
    routes = [BY_BOARD.bind({"board": value}) for value in (5, 5.0, Decimal128("5.00"))]
    assert len({(each.key, each.keys, str(each.shape)) for each in routes}) == 1


def test_a_list_makes_a_route_of_several_keys() -> None:
    boards = defined({"board": {"$in": "$boards"}}, boards="int")
    route = boards.bind({"boards": [7, 8, 7.0]})
    assert route.keys == boards.bind({"boards": [7]}).keys | boards.bind({"boards": [8]}).keys
    assert route.key not in route.keys
    assert str(route.shape) == "mine?boards=int:7&boards=int:8"
    assert boards.bind_shape(RoutedShape.parse("mine?boards=int:8&boards=int:7")) == boards.bind({"boards": [7, 8]})


@pytest.mark.parametrize(
    ("types", "good", "bad"),
    [
        ("text", ["7", "", "null:"], [7, None, True, b"7"]),
        ("int", [7, 7.0, Decimal128("7")], [7.5, "7", True, float("nan")]),
        ("number", [7, 7.5, Decimal128("0.1"), float("nan")], ["7", True, None]),
        ("bool", [True, False], [1, "true", None]),
        ("date", [datetime(2026, 1, 1, tzinfo=UTC)], ["2026-01-01", 0]),
        ("oid", [ObjectId("65a000000000000000000001")], ["65a000000000000000000001"]),
        ("uuid", [uuid.UUID(int=7)], [b"x" * 16, str(uuid.UUID(int=7))]),
        ("null", [None], [0, ""]),
        ("text null", ["7", None], [7]),
        ("any", ["7", 7, None, [1], {"a": 1}, b"x", uuid.UUID(int=7)], [{"$gt": 1}]),
    ],
)
def test_a_parameter_takes_values_of_its_types(types: str, good: list[Any], bad: list[Any]) -> None:
    definition = defined({"a": "$p"}, p=types)
    for value in good:
        route = definition.bind({"p": value})
        assert route.keys <= definition.keys({"a": value})
        again = definition.bind_shape(RoutedShape.parse(str(route.shape)))
        assert (again.key, again.shape) == (route.key, route.shape)
    for value in bad:
        with pytest.raises(InvalidPredicate, match=r"^mine\.p"):
            definition.bind({"p": value})


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("mine?", "needs a value for board$"),
        ("mine?board=7&owner=7", "takes board, and not board, owner"),
        ("mine?board=7&board=8", "takes one value"),
    ],
)
def test_a_shape_with_other_parameters_is_refused(shape: str, reason: str) -> None:
    with pytest.raises(InvalidPredicate, match=reason):
        BY_BOARD.bind_shape(RoutedShape.parse(shape))


def test_lists_that_are_too_long_are_refused() -> None:
    two = defined({"a": {"$in": "$a"}, "b": {"$in": "$b"}}, a="int", b="int")
    with pytest.raises(InvalidPredicate, match="a list of 1 to 1000 values"):
        two.bind({"a": [], "b": [1]})
    with pytest.raises(InvalidPredicate, match="more than 1000 combinations"):
        two.bind({"a": [*range(40)], "b": [*range(40)]})
    assert len(two.bind({"a": [*range(10)], "b": [*range(100)]}).keys) == 1000


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("s?", "s?"),
        ("s?b=2&a=1", "s?a=1&b=2"),
        ("s?a=x&a=b&a=x", "s?a=b&a=x"),
        ("s?a=int:05", None),
        ("s?a=str:7", "s?a=7"),
        ("s?a=null:", "s?a=null:"),
        ("s?a=str:null:", "s?a=str:null:"),
        ("s?a=%26%3D%25", "s?a=%26%3D%25"),
        ("s?a=a+b", "s?a=a%2Bb"),
        ("s?a=bool:maybe", None),
        ("s?a=%zz", None),
        ("s?a=%ff", None),
        ("s?a", None),
        ("s?a=1&", None),
        ("s?a$=1", None),
        ("?a=1", None),
        ("s", None),
        ("s?a=" + "x" * 4096, None),
    ],
)
def test_a_shape_has_one_text(text: str, canonical: str | None) -> None:
    if canonical is None:
        with pytest.raises(Malformed):
            RoutedShape.parse(text)
    else:
        assert str(RoutedShape.parse(text)) == canonical
        assert RoutedShape.parse(canonical) == RoutedShape.parse(text)


def test_a_parameter_without_a_value_is_answered_with_how_to_write_the_empty_text() -> None:
    with pytest.raises(Malformed, match=r"no value: the empty text is str:"):
        RoutedShape.parse("s?a=")
    assert str(RoutedShape.parse("s?a=str:")) == "s?a=str:"
