"""Tables of tricky filters with MongoDB's answers, and what an evaluator says that is wrong of them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bson import Binary, Code, DBRef, MaxKey, MinKey, Regex
from bson.binary import UUID_SUBTYPE

from eventsync.domain.predicates.declarations import filter_of_tree
from eventsync.domain.predicates.parsing import checked_value
from eventsync.domain.values.extended_json import decode, from_tree
from eventsync.errors import InvalidPredicate
from support.mutants import ODD, framed

_DATA = Path(__file__).parents[3] / "data"

Row = tuple[Any, list[Any]]
"""A filter, and the ids of the documents that MongoDB finds."""


@cache
def table(name: str) -> tuple[list[dict[str, Any]], list[Row]]:
    """Return the documents and rows of a file."""
    tree = json.loads((_DATA / name).read_text())
    rows = [(filter_of_tree(row["filter"]), row["matches"]) for row in tree["predicates"]]
    return [from_tree(document) for document in tree["documents"]], rows


def nested(levels: int) -> dict[str, Any]:
    """Return a filter of so many levels."""
    return {"$and": [nested(levels - 1)]} if levels > 1 else {"a": 1}


def deep(levels: int) -> Any:
    """Return a value of so many objects within each other."""
    return {"b": deep(levels - 1)} if levels else 1


def _at(millisecond: int) -> datetime:
    return datetime(2026, 1, 1, microsecond=millisecond * 1000, tzinfo=UTC)


def two_ways(names: str) -> list[dict[str, Any]]:
    """Return a filter for each of these parameters, with the parameter at one of two paths."""
    return [{"$or": [{"a": f"${name}"}, {"b": f"${name}"}]} for name in names]


def odd(name: str) -> Any:
    """Return a document that no driver reads as MongoDB has it."""
    return decode(framed(ODD[name]))


_UUID = uuid.UUID(int=7)

SMALL: list[tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = [
    # filter, documents that match, documents that do not
    ({"a": True}, [{"a": True}, {"a": [True]}], [{"a": 1}, {"a": "true"}, {}]),
    ({"a": float("nan")}, [{"a": float("nan")}], [{"a": 0}, {}]),
    ({"a": {"$gte": None}}, [{}, {"a": None}, {"a": [1, None]}], [{"a": 0}, {"a": []}]),
    ({"a": {"$lt": None}}, [], [{}, {"a": None}]),
    ({"a.b": None}, [{}, {"a": 5}, {"a": {}}, {"a": [{}]}], [{"a": {"b": 1}}, {"a": []}, {"a": [5]}]),
    ({"a": {"b": 1, "c": 2}}, [{"a": {"b": 1, "c": 2}}], [{"a": {"c": 2, "b": 1}}, {"a": {"b": 1, "c": 2, "d": 3}}]),
    ({"a.0": 5}, [{"a": [5]}, {"a": {"0": 5}}, {"a": [{"0": 5}]}], [{"a": [[5]]}, {"a": [1, 5]}, {"a": 5}]),
    ({"a": {"$elemMatch": {"b": None}}}, [{"a": [[5]]}, {"a": [{}]}], [{"a": [5]}, {"a": {}}, {"a": [{"b": 1}]}]),
    ({"a": {"$elemMatch": {"$gt": 1, "$lt": 3}}}, [{"a": [2]}], [{"a": [0, 4]}, {"a": 2}]),
    ({"a": {"$gt": 1, "$lt": 3}}, [{"a": [0, 4]}, {"a": 2}], [{"a": [4]}]),
    ({"a": {"$all": []}}, [], [{}, {"a": []}, {"a": 1}]),
    ({"a": {"$all": [1, 2]}}, [{"a": [2, 1]}], [{"a": 1}, {"a": [1]}]),
    ({"a": {"$ne": 5}}, [{}, {"a": [1, 2]}], [{"a": [1, 5]}, {"a": 5.0}]),
    ({"a": {"$nin": [5, None]}}, [{"a": 1}], [{}, {"a": [5]}]),
    ({"a": {"$size": 1}}, [{"a": ["x"]}, {"a": [[1, 2]]}], [{"a": "x"}, {"a": {}}, {}]),
    ({"a": {"$type": "array"}}, [{"a": []}, {"a": [1]}], [{"a": {}}, {"a": "x"}]),
    ({"a": {"$mod": [3, -1]}}, [{"a": -4}, {"a": -1.9}], [{"a": 2}, {"a": "x"}, {"a": float("inf")}]),
    ({"a": {"$gt": 2**53}}, [{"a": 2**53 + 1}], [{"a": 2.0**53}]),
    ({"a": {"$gt": "b"}}, [{"a": "ba"}, {"a": "\uffff"}], [{"a": "B"}, {"a": 5}]),
    ({"a": {"$gt": "\uffff"}}, [{"a": "\U00010000"}], [{"a": "\ufffe"}]),
    ({"a": {"$in": [[1], "x"]}}, [{"a": [1]}, {"a": ["x"]}, {"a": [[1]]}], [{"a": 1}]),
    ({"a": []}, [{"a": []}, {"a": [[]]}], [{"a": None}, {}]),
    ({"$nor": [{"a": 1}, {"b": 1}]}, [{}, {"a": 2}], [{"a": 1}, {"b": 1}]),
    ({"a": {"$not": {"$gt": 5}}}, [{}, {"a": "x"}, {"a": 5}], [{"a": [1, 6]}]),
    ({"a": 1, "b": 2, "c": 3}, [{"a": 1, "b": 2, "c": 3}], [{"a": 1, "b": 2}, {"b": 2, "c": 3}, {}]),
    ({"a": {"$gt": ["\uffff"]}}, [{"a": ["\U00010000"]}], [{"a": ["\ufffe"]}]),
    ({"a": {"$gt": _at(5)}}, [{"a": _at(6)}], [{"a": _at(5)}, {"a": 6}]),
    ({"a": _UUID}, [{"a": _UUID}, {"a": Binary(_UUID.bytes, 4)}], [{"a": _UUID.bytes}, {"a": Binary(_UUID.bytes, 3)}]),
    ({"v": {"$gte": "caf"}}, [odd("text that is not UTF-8"), odd("a symbol that is not UTF-8")], [odd("undefined")]),
    ({"v": {"$gte": "d"}}, [odd("a symbol that is not UTF-8")], [odd("text that is not UTF-8")]),
]
"""The tricky ones of the design, by hand; integration tests ask MongoDB for the same."""

REFUSED: list[tuple[Any, str, str]] = [
    # filter, place, and a part of the reason
    ([], "", "a filter is an object, and not a value of type list"),
    (None, "", "a filter is an object, and not null"),
    ({"a": {"$regex": "^x"}}, "a.$regex", "a prefix is $gte and $lt"),
    ({"a": Regex("^x")}, "a", "a prefix is $gte and $lt"),
    ({"a": {"$not": Regex("^x")}}, "a.$not", "a prefix is $gte and $lt"),
    ({"a": {"$in": [Regex("^x")]}}, "a.$in[0]", "a prefix is $gte and $lt"),
    ({"$where": "true"}, "$where", "store what it computes in a field"),
    ({"$expr": {}}, "$expr", "store what it computes in a field"),
    ({"$text": {}}, "$text", "store the words in an array"),
    ({"$jsonSchema": {}}, "$jsonSchema", "$type and $exists"),
    ({"$comment": "x"}, "$comment", "leave it out"),
    ({"a": {"$geoIntersects": {}}}, "a.$geoIntersects", "store the cell of a grid"),
    ({"a": {"$nearSphere": []}}, "a.$nearSphere", "store the cell of a grid"),
    ({"a": {"$bitsAnyClear": 1}}, "a.$bitsAnyClear", "store them as an array"),
    ({"a": {"$like": "x"}}, "a.$like", "there is no operator $like here"),
    ({"a": {"$gt": 1, "b": 2}}, "a.b", "there is no operator b here"),
    ({"a": MinKey()}, "a", "MinKey and MaxKey are not compared"),
    ({"a": {"$lt": MaxKey()}}, "a.$lt", "MinKey and MaxKey are not compared"),
    ({"a": Code("f")}, "a", "code is no value"),
    ({"a": DBRef("c", 1)}, "a", "compare the fields of the reference"),
    ({"a": {"b": {"$gt": 1}}}, "a.b", "a field name that begins with $"),
    ({"a": {"$eq": {"$gt": 1}}}, "a.$eq", "a field name that begins with $"),
    ({"": 1}, "", "no name of a path is empty"),
    ({"a..b": 1}, "a..b", "no name of a path is empty"),
    ({"a.$x": 1}, "a.$x", "no name of a path begins with $"),
    ({"_sync.v": 1}, "_sync.v", "eventsync's own field"),
    ({"a\0": 1}, "a\0", "without null characters"),
    ({".".join("a" * 33): 1}, ".".join("a" * 33), "a path has at most 32 names"),
    ({"$and": []}, "$and", "a list of filters that is not empty"),
    ({"$or": {"a": 1}}, "$or", "a list of filters that is not empty"),
    ({"$nor": [{"a": 1}, 5]}, "$nor[1]", "a filter is an object"),
    ({"a": {"$exists": 1}}, "a.$exists", "true or false"),
    ({"a": {"$type": []}}, "a.$type", "at least one type"),
    ({"a": {"$type": 2}}, "a.$type", "the name of a type"),
    ({"a": {"$size": -1}}, "a.$size", "an integer that is not negative"),
    ({"a": {"$size": True}}, "a.$size", "an integer that is not negative"),
    ({"a": {"$mod": [0, 1]}}, "a.$mod", "a divisor that is not 0"),
    ({"a": {"$mod": [2]}}, "a.$mod", "a divisor that is not 0"),
    ({"a": {"$in": 5}}, "a.$in", "a list of values"),
    ({"a": {"$all": 5}}, "a.$all", "a list of values"),
    ({"a": {"$all": [{"$elemMatch": {"b": 1}}, 5]}}, "a.$all", "$elemMatch for each item"),
    ({"a": {"$elemMatch": 5}}, "a.$elemMatch", "a filter, or operators"),
    ({"a": {"$not": 5}}, "a.$not", "the opposite of a value is $ne"),
    ({"a": {"$in": [*range(1001)]}}, "a.$in", "at most 1000 values"),
    ({"a": 2**63}, "a", "an integer has 64 bits"),
    ({"a": datetime(2026, 1, 1)}, "a", "an offset from UTC"),  # noqa: DTZ001 - that is what is refused
    ({"a": "\ud800"}, "a", "not valid Unicode"),
    ({"a": Binary(b"abc", UUID_SUBTYPE)}, "a", "a UUID has 16 bytes"),
    ({"a": {1, 2}}, "a", "a value of type set is no value"),
    ({f"f{n}": 1 for n in range(65)}, "f64", "at most 64 conditions and operators"),
    ({"a": {"$all": [*range(64)]}}, "a.$all", "at most 64 conditions and operators"),
    (nested(9), "$and[0]" + ".$and[0]" * 7, "nests at most 8 levels"),
    ({"a": deep(9)}, "a" + ".b" * 8, "nests at most 8 levels"),
]
"""Operators that are not evaluated here."""

LARGEST: list[dict[str, Any]] = [
    {f"f{n}": 1 for n in range(64)},
    {"a": {"$in": [*range(1000)]}},
    {"a": {"$all": [*range(62)]}},
    {".".join("a" * 32): 1},
    nested(8),
    {"a": deep(8)},
]
"""Filters at the limits."""

PARAMETRISED: list[dict[str, Any]] = [
    {"a": "$p"},
    {"a.b": "$p"},
    {"a.0": "$p"},
    {"a": {"$in": "$p"}},
    {"a": "$p", "_id": {"$lt": 20}},
    {"a": {"$eq": "$p", "$exists": True}},
    {"a.b": "$p", "a": {"$type": "array"}},
    {"$or": [{"a": "$p"}, {"a.b": "$p"}]},
    {"$and": [{"$or": [{"a": "$p", "_id": {"$gt": 8}}, {"a.b": "$p"}]}, {"_id": {"$ne": 7}}]},
]
"""Filters with one parameter, `p`, of any type."""

TYPED: list[tuple[dict[str, Any], str]] = [
    ({"a": "$p"}, "int"),
    ({"a": "$p"}, "text"),
    ({"a": "$p"}, "bool oid"),
    ({"a": "$p"}, "text null"),
    ({"a.b": "$p"}, "int"),
    ({"a.b": "$p"}, "int null"),
    ({"$or": [{"a": "$p"}, {"a.b": "$p"}]}, "int"),
]
"""Filters with one parameter of these types."""

PAIRS: list[dict[str, Any]] = [
    {"a": "$p", "_id": "$q"},
    {"a": "$p", "_id": "$q", "$nor": [{"_id": 9}]},
    {"a.b": "$p", "_id": "$q", "$nor": [{"_id": 41}]},
    {"$or": [{"a": "$p", "_id": "$q"}, {"a.b": "$p", "_id": "$q"}]},
]
"""Filters with two parameters of any type."""


UNROUTED: list[tuple[Any, list[str], str, str]] = [
    # filter, parameters, place, and a part of the reason
    ({"a": {"$gt": "$p"}}, ["p"], "a.$gt", "a parameter can't stand in a range"),
    ({"a": {"$ne": "$p"}}, ["p"], "a.$ne", "a parameter can't stand negated"),
    ({"a": {"$nin": "$p"}}, ["p"], "a.$nin", "a parameter can't stand negated"),
    ({"a": {"$nin": ["$p"]}}, ["p"], "a.$nin[0]", "a parameter can't stand in a list"),
    ({"a": {"$in": ["$p"]}}, ["p"], "a.$in[0]", "the whole list of an $in"),
    ({"a": {"$all": ["$p"]}}, ["p"], "a.$all[0]", "a parameter can't stand in a list"),
    ({"a": {"b": "$p"}}, ["p"], "a", "a parameter can't stand here"),
    ({"a": {"$not": {"$eq": "$p"}}}, ["p"], "a.$not.$eq", "make it an equality on a path"),
    ({"$nor": [{"a": "$p"}]}, ["p"], "$nor[0].a", "make it an equality on a path"),
    ({"a": {"$elemMatch": {"b": "$p"}}}, ["p"], "a.$elemMatch.b", "make it an equality on a path"),
    ({"a": {"$elemMatch": {"$eq": "$p"}}}, ["p"], "a.$elemMatch.$eq", "make it an equality on a path"),
    ({"$or": [{"a": "$p"}, {"b": 1}]}, ["p"], "$or[0].a", "declare the branch as a shape of its own"),
    ({"$or": [{"a": "$p"}, {"b": "$q"}]}, ["p", "q"], "$or[1].b", "is not in every branch of $or"),
    ({"a": "$p", "b": "$p"}, ["p"], "b", "declare a second one, and bind both"),
    ({"$or": [{"a": "$p"}, {"b": {"$in": "$p"}}]}, ["p"], "$or[1].b.$in", "a value in one place and a list in another"),
    ({"a": 1}, ["p"], "", "the parameter p stands nowhere in the filter"),
    ({"a": "$q"}, ["p"], "a", "$q is no declared parameter"),
    ({"a": "$"}, ["p"], "a", "$ is no declared parameter"),
    (
        {"$and": [{"$or": [{"a": "$p"}, {"b": "$p"}]}, *two_ways("qrst")]},
        [*"pqrst"],
        "$and[0].$or[0].a",
        "16 combinations",
    ),
    ({each: f"${each}" for each in "abcdefghi"}, [*"abcdefghi"], "", "at most 8 parameters"),
]
"""Filters with parameters that make no routes."""


def faults(predicate: ModuleType, definitions: ModuleType) -> Iterator[str]:
    """Yield the answers that are wrong, of the evaluator in two modules."""
    for name in ("predicates.json", "predicates-more.json"):
        documents, rows = table(name)
        for condition, expected in rows:
            try:
                check = predicate.Predicate(condition)
            except InvalidPredicate:
                continue  # `test_parsing` names these
            found = [document["_id"] for document in documents if check.matches(document)]
            if found != expected:
                yield f"{condition}: {found} and not {expected}"
    for condition, matching, others in SMALL:
        check = predicate.Predicate(condition)
        yield from (f"{condition} misses {document}" for document in matching if not check.matches(document))
        yield from (f"{condition} matches {document}" for document in others if check.matches(document))
    yield from _refusal_faults(predicate)
    yield from _unrouted_faults(definitions)
    yield from _route_faults(predicate, definitions)


def _refusal_faults(predicate: ModuleType) -> Iterator[str]:
    for condition, place, reason in REFUSED:
        try:
            predicate.Predicate(condition)
        except InvalidPredicate as problem:
            if (problem.place, reason in problem.reason) != (place, True):
                yield f"{condition}: {problem}"
        else:
            yield f"{condition} is not refused"
    for condition in LARGEST:
        try:
            predicate.Predicate(condition)
        except InvalidPredicate as problem:
            yield f"{condition}: {problem}"


def _unrouted_faults(definitions: ModuleType) -> Iterator[str]:
    for where, parameters, place, reason in UNROUTED:
        try:
            definitions.define("s", "c", where, {name: ["any"] for name in parameters})
        except InvalidPredicate as problem:
            if (problem.place, reason in problem.reason) != (place, True):
                yield f"{where}: {problem}"
        else:
            yield f"{where} is not refused"


def _route_faults(predicate: ModuleType, definitions: ModuleType) -> Iterator[str]:
    documents, _ = table("predicates.json")
    values = [None, 1, 5, 7.5, "a", ""]
    values += [value for n, document in enumerate(documents) if n % 4 == 0 for value in bindable(document)]
    typed = [*((where, ["any"]) for where in PARAMETRISED), *((where, kinds.split()) for where, kinds in TYPED)]
    for where, kinds in typed:
        definition = definitions.define("s", "c", where, {"p": kinds})
        bound = ({"p": [value] if definition.lists else value} for value in values)
        yield from _found_otherwise(predicate, definition, documents, bound)
    for where in PAIRS:
        definition = definitions.define("s", "c", where, {"p": ["any"], "q": ["any"]})
        bound = ({"p": value, "q": number} for value in (None, 1, 5) for number in (0, 1, 5, 8, 9, 41, 44, 52, 53))
        yield from _found_otherwise(predicate, definition, documents, bound)


def _found_otherwise(
    predicate: ModuleType, definition: Any, documents: list[dict[str, Any]], bound: Iterable[dict[str, Any]]
) -> Iterator[str]:
    """Yield the documents that have a key of a route which does not match them, or have none of one that does."""
    keys = [definition.keys(document) for document in documents]
    for values in bound:
        try:
            route = definition.bind(values)
        except InvalidPredicate:
            continue  # a value of another type
        check = predicate.Predicate(route.filter)
        for document, own in zip(documents, keys, strict=True):
            if check.matches(document) != bool(own & route.keys):
                yield f"{definition.where} for {values}: {document}"


def bindable(document: dict[str, Any]) -> Iterator[Any]:
    """Yield the values in a document that a parameter can take."""
    for value in [*document.values(), *(item for each in document.values() if isinstance(each, list) for item in each)]:
        try:
            yield checked_value(value, "")
        except InvalidPredicate:
            continue
