"""Trees of `nodes` as functions: documents in, True or False out, exactly as MongoDB decides.

A path leads to several values. An object on the way is entered. Of an array on the way each item that is an object is
entered, and the item whose number is the path's next name; items of arrays within arrays only by their numbers. Where
the path ends at an array, its items are tested, and the array itself; at an item chosen by its number, that item alone.
Where it leads nowhere it has the value `MISSING`, but for arrays without objects on the way: these have none.

Source: `BSONElementIterator` in https://github.com/mongodb/mongo/blob/v6.0/src/mongo/db/matcher/path.cpp
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.predicates.nodes import (
    All,
    AnyOf,
    At,
    Equal,
    Exists,
    Modulo,
    Node,
    Not,
    OfSize,
    OfType,
    OneOf,
    Ordered,
    SomeItem,
    SomeObject,
    Test,
)
from eventsync.domain.predicates.ordering import (
    MISSING,
    NULLISH,
    NUMERIC,
    as_mapping,
    check_readable,
    key_of,
    rank_of,
    text_key,
    type_number,
)
from eventsync.domain.values.numbers import number_of
from eventsync.domain.values.type_wrappers import INT64_MAX, INT64_MIN

Check = Callable[[Any], bool]
"""Decides for one value, which may be a document."""

Walk = Callable[[Any, Callable[[Any], Any], Callable[[Any], Any]], Any]
"""Visits what a path leads to below a container, until a visit returns True.

The first function visits the path's end in the usual way, and the second visits an item chosen by its number.
"""

_OFFSET: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_OPERATORS: Final = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
_WALKS: Final = 4096
"""Walks that are kept. Each is made of those of shorter paths, some of which two others need."""

_PLAIN_NUMBERS: Final = frozenset({int, float, Int64})


def matcher(node: Node) -> Check:
    """Return the function that decides if a filter matches a document."""
    return _joined(node, lambda leaf: _at(leaf.path, leaf.test) if isinstance(leaf, At) else tester(leaf))


def _joined(node: Node, leaf: Callable[[Any], Check]) -> Check:
    match node:
        case All(parts):
            return _all([_joined(part, leaf) for part in parts])
        case AnyOf(parts):
            return _any([_joined(part, leaf) for part in parts])
        case Not(part):
            check = _joined(part, leaf)
            return lambda value: not check(value)
    return leaf(node)


def _all(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda value: first(value) and second(value)

    def check(value: Any) -> bool:
        for each in checks:  # noqa: SIM110 - `all` with a generator takes three times as long
            if not each(value):
                return False
        return True

    return check


def _any(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]

    def check(value: Any) -> bool:
        for each in checks:  # noqa: SIM110 - see `_all`
            if each(value):
                return True
        return False

    return check


# --- paths -------------------------------------------------------------------------------------------------------


def _at(path: str, test: Test) -> Check:
    check = tester(test)
    whole = isinstance(test, OfSize | SomeItem | SomeObject)  # they ask for an array, and not for its items
    if "." not in path:
        if isinstance(test, Equal) and type(test.value) in {str, ObjectId}:
            return _field_equals(path, test.value)
        return _field_whole(path, check) if whole else _field(path, check)
    walk, end = walker(path), readable(check) if whole else each_and_whole(check)
    return lambda document: bool(walk(document, end, check))


def _field_equals(name: str, wanted: Any) -> Check:
    """Return the commonest test of all, faster: a string or an ObjectId in a field of the document."""

    def check(document: Any) -> bool:
        # A string or an ObjectId equals no value of another type, so `==` and `in` decide as MongoDB does.
        value = document.get(name)
        if value == wanted:
            return True
        kind = type(value)
        if kind is list:
            return wanted in value
        if kind is Opaque:
            check_readable(value)
        return False

    return check


def _field(name: str, check: Check) -> Check:
    def check_field(document: Any) -> bool:
        value = document.get(name, MISSING)
        kind = type(value)
        if kind is list:
            return any(map(check, value)) or check(value)
        if kind is Opaque:
            check_readable(value)
        return check(value)

    return check_field


def _field_whole(name: str, check: Check) -> Check:
    end = readable(check)
    return lambda document: bool(end(document.get(name, MISSING)))


def readable(visit: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that visits a value as it is. It raises `Undecidable` for a container that can't be read."""

    def end(value: Any) -> Any:
        if type(value) is Opaque:
            check_readable(value)
        return visit(value)

    return end


def each_and_whole(visit: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that visits the items of an array, and then any value itself."""
    end = readable(visit)
    return lambda value: (isinstance(value, list) and any(map(visit, value))) or end(value)


def walker(path: str) -> Walk:
    """Return the walk along a path of documents."""
    return _in_document(tuple(path.split(".")))


@lru_cache(_WALKS)
def _in_document(parts: tuple[str, ...]) -> Walk:
    name, rest = parts[0], parts[1:]
    if not rest:
        return lambda document, end, _: end(document.get(name, MISSING))
    in_document, in_array = _in_document(rest), _in_array(rest)

    def walk(document: Any, end: Callable[[Any], Any], item: Callable[[Any], Any]) -> Any:
        value = document.get(name, MISSING)
        if type(value) is dict:
            return in_document(value, end, item)
        if value is MISSING:
            return item(value)
        if isinstance(value, list):
            return in_array(value, end, item)
        inner = as_mapping(value)
        return item(MISSING) if inner is None else in_document(inner, end, item)

    return walk


@lru_cache(_WALKS)
def _in_array(parts: tuple[str, ...]) -> Walk:
    in_document, at_offset = _in_document(parts), _at_offset(parts[1:])
    offset = int(parts[0]) if len(parts[0]) < 10 and _OFFSET.fullmatch(parts[0]) else -1

    def walk(array: Any, end: Callable[[Any], Any], item: Callable[[Any], Any]) -> Any:
        for number, value in enumerate(array):
            inner = as_mapping(value)
            if inner is not None and in_document(inner, end, item):
                return True
            if number == offset and at_offset(value, end, item):
                return True
        return False

    return walk


@lru_cache(_WALKS)
def _at_offset(rest: tuple[str, ...]) -> Walk:
    """Return the walk from an item that the path has chosen by its number."""
    if not rest:
        return lambda value, _, item: item(value)
    in_document, in_array = _in_document(rest), _in_array(rest)

    def walk(value: Any, end: Callable[[Any], Any], item: Callable[[Any], Any]) -> Any:
        if isinstance(value, list):
            return in_array(value, end, item)
        inner = as_mapping(value)
        return inner is not None and in_document(inner, end, item)

    return walk


# --- single values -----------------------------------------------------------------------------------------------


def tester(test: Test | Node) -> Check:  # noqa: PLR0911 - one for each kind
    """Return the function that decides for a single value."""
    match test:
        case Equal(value):
            return _equal(value)
        case Ordered(name, value):
            return _ordered(name, value)
        case OneOf(tuple() as values):
            return _one_of(values)
        case Exists():
            return lambda value: value is not MISSING
        case OfType(numbers):
            return lambda value: type_number(value) in numbers
        case OfSize(size):
            return lambda value: isinstance(value, list) and len(value) == size
        case Modulo(divisor, remainder):
            return _modulo(divisor, remainder)
        case SomeItem(node):
            check = _joined(node, tester)
            return lambda value: isinstance(value, list) and any(map(check, value))
        case SomeObject(node):
            match = matcher(node)
            return lambda value: isinstance(value, list) and any(_matches(match, item) for item in value)
    raise TypeError(test)


def _matches(match: Check, item: Any) -> bool:
    """Return True if a filter matches an item. An array is an object here, whose names are numbers."""
    inner = {str(n): each for n, each in enumerate(item)} if isinstance(item, list) else as_mapping(item)
    return inner is not None and match(inner)


def _equal(wanted: Any) -> Check:
    rank, key = key_of(wanted)
    if wanted is None:
        return lambda value: value is None or value is MISSING
    if rank == NUMERIC:
        return _number(operator.eq, number_of(wanted)) if key[0] else _is_nan
    if type(wanted) in {str, bool, ObjectId}:
        # By the type, too: True equals 1 to Python, and not to MongoDB.
        kind = type(wanted)
        return lambda value: type(value) is kind and value == wanted
    return lambda value: rank_of(value) == rank and key_of(value)[1] == key


def _number(compare: Callable[[Any, Any], bool], wanted: Any) -> Check:
    plain = not isinstance(wanted, Decimal)

    def check(value: Any) -> bool:
        kind = type(value)
        if plain and kind in _PLAIN_NUMBERS:
            return compare(value, wanted)
        if kind not in _PLAIN_NUMBERS and kind is not Decimal128:
            return False
        # Comparing NaN with a Decimal raises.
        number = number_of(value)
        return not math.isnan(number) and compare(number, wanted)

    return check


def _is_nan(value: Any) -> bool:
    return rank_of(value) == NUMERIC and not key_of(value)[1][0]


def _ordered(name: str, wanted: Any) -> Check:
    rank, key = key_of(wanted)
    compare = _OPERATORS[name]
    if rank in NULLISH or (rank == NUMERIC and not key[0]):
        # Null and NaN are equal to themselves, and neither above nor below anything.
        return _equal(wanted) if name in {"$gte", "$lte"} else lambda _: False
    if rank == NUMERIC:
        return _number(compare, number_of(wanted))
    if type(wanted) is str:
        encoded = text_key(wanted)
        return lambda value: (
            compare(value, wanted)
            if type(value) is str
            else rank_of(value) == rank and compare(text_key(value), encoded)
        )
    return lambda value: rank_of(value) == rank and compare(key_of(value)[1], key)


def _one_of(values: tuple[Any, ...]) -> Check:
    if values and all(type(value) is str for value in values):
        texts = frozenset(values)
        return lambda value: type(value) is str and value in texts
    keys = {key_of(value) for value in values}
    # Null also equals a field that is not there.
    if None in values:
        keys.add(key_of(MISSING))
    ranks = frozenset(rank for rank, _ in keys)
    return lambda value: rank_of(value) in ranks and key_of(value) in keys


def _modulo(divisor: int, remainder: int) -> Check:
    def check(value: Any) -> bool:
        if rank_of(value) != NUMERIC:
            return False
        number = number_of(value)
        if not (math.isfinite(number) and INT64_MIN - 1 < number < INT64_MAX + 1):
            return False
        # The fraction is cut off, and the remainder has the sign of the number, as in C.
        whole = int(number)
        left = abs(whole) % abs(divisor)
        return (-left if whole < 0 else left) == remainder

    return check


def values_at(path: str) -> Callable[[Mapping[str, Any]], list[Any]]:
    """Return the function that lists the values which an equality at a path compares, `MISSING` among them."""
    if "." not in path:
        return _field_values(path)
    walk = walker(path)

    def values(document: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        walk(document, each_and_whole(found.append), found.append)
        return found

    return values


def _field_values(name: str) -> Callable[[Mapping[str, Any]], list[Any]]:
    def values(document: Mapping[str, Any]) -> list[Any]:
        value = document.get(name, MISSING)
        if isinstance(value, list):
            return [*value, value]
        if type(value) is Opaque:
            check_readable(value)
        return [value]

    return values
