"""Filters as trees, and the refusal of everything that is not evaluated here, with its place and a remedy."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final

from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from eventsync.domain.bson_scan.opaque import is_text
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
    Parameter,
    SomeItem,
    SomeObject,
    Test,
)
from eventsync.domain.stamp import FIELD
from eventsync.domain.values.type_wrappers import INT64_MAX, INT64_MIN
from eventsync.errors import InvalidPredicate

MAX_NODES: Final = 64
"""Most conditions and operators of a filter."""

MAX_LEVELS: Final = 8
"""Deepest nesting of operators in a filter, and of objects and arrays in a value."""

MAX_LIST: Final = 1_000
"""Longest list of `$in`, `$nin` and `$all`."""

MAX_PATH: Final = 32
"""Most names of a path."""

LITERAL: Final = "$literal"
"""`{"$literal": "$x"}` is the text `$x`, where `"$x"` would be a parameter."""

LOGICAL: Final = frozenset({"$and", "$or", "$nor"})

PARAMETER: Final = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]{0,63})", re.ASCII)

Leaf = Callable[[Test], Node]
"""Makes a node of a test: of the values at a path, or of a single value."""

_TYPES: Final[Mapping[str, int]] = {
    "double": 1, "string": 2, "object": 3, "array": 4, "binData": 5, "objectId": 7, "bool": 8, "date": 9, "null": 10,
    "regex": 11, "javascript": 13, "javascriptWithScope": 15, "int": 16, "timestamp": 17, "long": 18, "decimal": 19,
    "minKey": -1, "maxKey": 127,
}  # fmt: skip
_NUMBERS: Final = frozenset({1, 16, 18, 19})

_SCALARS: Final = (
    str, bool, int, float, type(None), bytes, uuid.UUID, ObjectId, DatetimeMS, Timestamp, Decimal128,
)  # fmt: skip
_REFUSED_VALUES: Final = (
    (Regex | re.Pattern, "a regular expression is not evaluated; a prefix is $gte and $lt"),
    (MinKey | MaxKey, "MinKey and MaxKey are not compared; $exists or $type may say the same"),
    (Code, "code is no value to compare with"),
    (DBRef, "a field name that begins with $ is no part of a value; compare the fields of the reference one by one"),
)
_REFUSED_OPERATORS: Final[Mapping[str, str]] = {
    "$regex": "a regular expression is not evaluated; a prefix is $gte and $lt",
    "$options": "a regular expression is not evaluated; a prefix is $gte and $lt",
    "$where": "code is not evaluated; store what it computes in a field",
    "$expr": "an expression is not evaluated; store what it computes in a field",
    "$text": "a text search is not evaluated; store the words in an array",
    "$jsonSchema": "a schema is not evaluated; $type and $exists may say the same",
    "$comment": "a comment is no condition; leave it out",
    "$geoWithin": "geometry is not evaluated; store the cell of a grid in a field",
    "$bitsAllSet": "bits are not evaluated; store them as an array",
}
_ALIKE: Final = (("$geo", "$geoWithin"), ("$near", "$geoWithin"), ("$bits", "$bitsAllSet"))


def parse(tree: Any, parameters: Collection[str] | None = None) -> Node:
    """Return the tree of a filter of BSON values. Raises `InvalidPredicate` for the first thing that is refused.

    With `parameters`, the names of those that are declared, text that begins with `$` is a parameter.
    """
    node, problems = parse_all(tree, parameters)
    if problems:
        raise problems[0]
    return node


def parse_all(tree: Any, parameters: Collection[str] | None = None) -> tuple[Node, list[InvalidPredicate]]:
    """Return the tree of a filter, and all that is refused in it."""
    parser = _Parser(parameters)
    try:
        return parser.filter(tree, "", 1), parser.problems
    except InvalidPredicate as problem:
        return All(()), [*parser.problems, problem]


class _Parser:
    def __init__(self, parameters: Collection[str] | None) -> None:
        self._parameters = parameters
        self._left = MAX_NODES
        self.problems: list[InvalidPredicate] = []

    def filter(self, tree: Any, place: str, level: int) -> Node:
        if not isinstance(tree, Mapping):
            raise InvalidPredicate(place, f"a filter is an object, and not {_kind(tree)}")
        self._enter(place, level)
        parts = [
            self._guarded(self._condition, name, value, f"{place}.{name}" if place else name, level)
            for name, value in tree.items()
        ]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _enter(self, place: str, level: int) -> None:
        if level > MAX_LEVELS:
            raise InvalidPredicate(place, f"a filter nests at most {MAX_LEVELS} levels")

    def _guarded(self, read: Callable[..., Node], *arguments: Any) -> Node:
        """Read one of several conditions, and go to the next where it is refused."""
        place = arguments[2]
        self._left -= 1
        if self._left == -1:
            raise InvalidPredicate(place, f"a filter has at most {MAX_NODES} conditions and operators; split the shape")
        try:
            return read(*arguments)
        except InvalidPredicate as problem:
            if self._left < 0:
                raise
            self.problems.append(problem)
            return AnyOf(())

    def _condition(self, name: Any, value: Any, place: str, level: int) -> Node:
        if name in LOGICAL:
            return self._logical(name, value, place, level)
        if isinstance(name, str) and name.startswith("$"):
            raise _refused_operator(name, place)
        check_path(name, place)
        if is_operators(value):
            return self._operators(value, place, level, lambda test: At(name, test))
        return At(name, Equal(self._value(value, place)))

    def _logical(self, name: str, value: Any, place: str, level: int) -> Node:
        if not isinstance(value, list) or not value:
            raise InvalidPredicate(place, "takes a list of filters that is not empty")
        parts = tuple(self._guarded(self._part, n, item, f"{place}[{n}]", level + 1) for n, item in enumerate(value))
        return All(parts) if name == "$and" else AnyOf(parts) if name == "$or" else Not(AnyOf(parts))

    def _part(self, _: int, tree: Any, place: str, level: int) -> Node:
        return self.filter(tree, place, level)

    def _operators(self, tree: Mapping[str, Any], place: str, level: int, leaf: Leaf) -> Node:
        parts = [
            self._guarded(self._operator, name, value, f"{place}.{name}", level, leaf) for name, value in tree.items()
        ]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _operator(self, name: str, value: Any, place: str, level: int, leaf: Leaf) -> Node:
        read = _OPERATORS.get(name)
        if read is None:
            raise _refused_operator(name, place)
        return read(self, name, value, place, level, leaf)

    # --- operators

    def equal(self, name: str, value: Any, place: str, _: int, leaf: Leaf) -> Node:
        if name == "$ne":
            return Not(leaf(Equal(self._constant(value, place, "negated"))))
        return leaf(Equal(self._value(value, place)))

    def ordered(self, name: str, value: Any, place: str, _: int, leaf: Leaf) -> Node:
        return leaf(Ordered(name, self._constant(value, place, "in a range")))

    def one_of(self, name: str, value: Any, place: str, _: int, leaf: Leaf) -> Node:
        if name == "$in" and (parameter := self._parameter(value, place)) is not None:
            return leaf(OneOf(parameter))
        if name == "$nin" and isinstance(value, str):
            self._constant(value, place, "negated")
        test = OneOf(tuple(self._list(value, place)))
        return leaf(test) if name == "$in" else Not(leaf(test))

    def exists(self, _name: str, value: Any, place: str, _: int, leaf: Leaf) -> Node:
        if not isinstance(value, bool):
            raise InvalidPredicate(place, "takes true or false")
        return leaf(Exists()) if value else Not(leaf(Exists()))

    def of_type(self, _name: str, value: Any, place: str, _: int, leaf: Leaf) -> Node:
        names = value if isinstance(value, list) else [value]
        if not names:
            raise InvalidPredicate(place, "takes at least one type")
        found: set[int] = set()
        for name in names:
            if name == "number":
                found |= _NUMBERS
            elif isinstance(name, str) and name in _TYPES:
                found.add(_TYPES[name])
            else:
                raise InvalidPredicate(place, f"takes the name of a type: number, {', '.join(_TYPES)}")
        return leaf(OfType(frozenset(found)))

    def of_size(self, _name: str, value: Any, place: str, _: int, leaf: Leaf) -> Node:
        if not _is_int(value) or not 0 <= value <= INT64_MAX:
            raise InvalidPredicate(place, "takes an integer that is not negative")
        return leaf(OfSize(int(value)))

    def modulo(self, _name: str, value: Any, place: str, _: int, leaf: Leaf) -> Node:
        if not isinstance(value, list) or len(value) != 2 or not all(map(_is_int, value)) or not value[0]:
            raise InvalidPredicate(place, "takes a divisor that is not 0 and a remainder, both integers")
        divisor, remainder = value
        if not (INT64_MIN <= divisor <= INT64_MAX and INT64_MIN <= remainder <= INT64_MAX):
            raise InvalidPredicate(place, "takes integers of 64 bits")
        return leaf(Modulo(int(divisor), int(remainder)))

    def all_of(self, _name: str, value: Any, place: str, level: int, leaf: Leaf) -> Node:
        if not isinstance(value, list):
            raise InvalidPredicate(place, "takes a list of values")
        if any(map(is_operators, value)):
            if not all(isinstance(item, Mapping) and list(item) == ["$elemMatch"] for item in value):
                raise InvalidPredicate(place, "takes values, or $elemMatch for each item; join others by $and")
            parts = [self._operators(item, f"{place}[{number}]", level, leaf) for number, item in enumerate(value)]
        else:
            parts = [leaf(Equal(item)) for item in self._list(value, place)]
            self._left -= len(parts)
            if self._left < 0:
                raise InvalidPredicate(place, f"a filter has at most {MAX_NODES} conditions and operators")
        return All(tuple(parts)) if parts else AnyOf(())

    def some(self, _name: str, value: Any, place: str, level: int, leaf: Leaf) -> Node:
        if not isinstance(value, Mapping):
            raise InvalidPredicate(place, "takes an object: a filter, or operators")
        if is_operators(value) and next(iter(value)) not in LOGICAL:
            self._enter(place, level + 1)
            return leaf(SomeItem(self._operators(value, place, level + 1, lambda test: test)))
        return leaf(SomeObject(self.filter(value, place, level + 1)))

    def negated(self, _name: str, value: Any, place: str, level: int, leaf: Leaf) -> Node:
        if isinstance(value, Regex | re.Pattern):
            raise _refused_operator("$regex", place)
        if not is_operators(value):
            raise InvalidPredicate(place, "takes an object of operators; the opposite of a value is $ne")
        self._enter(place, level + 1)
        return Not(self._operators(value, place, level + 1, leaf))

    # --- values

    def _parameter(self, value: Any, place: str) -> Parameter | None:
        if self._parameters is None or not isinstance(value, str) or not value.startswith("$"):
            return None
        named = PARAMETER.fullmatch(value)
        if named is None or named[1] not in self._parameters:
            raise InvalidPredicate(
                place, f'{value} is no declared parameter; the text is {{ "{LITERAL}" = "{value}" }}'
            )
        return Parameter(named[1], place)

    def _value(self, value: Any, place: str) -> Any:
        """Return a constant, or a parameter."""
        return self._parameter(value, place) or self._constant(value, place, "here")

    def _constant(self, value: Any, place: str, where: str) -> Any:
        if self._parameters is not None:
            if is_literal(value):
                return checked_value(value[LITERAL], place)
            if _has_dollar_text(value):
                raise InvalidPredicate(
                    place,
                    f"a parameter can't stand {where}: it is the value of an equality, or the whole list of an $in;"
                    f' text that begins with $ is {{ "{LITERAL}" = "$…" }}',
                )
        return checked_value(value, place)

    def _list(self, value: Any, place: str) -> list[Any]:
        if not isinstance(value, list):
            raise InvalidPredicate(place, "takes a list of values")
        if len(value) > MAX_LIST:
            raise InvalidPredicate(place, f"takes at most {MAX_LIST} values; a field for their group finds them all")
        return [self._constant(item, f"{place}[{number}]", "in a list") for number, item in enumerate(value)]


_OPERATORS: Final[Mapping[str, Callable[..., Node]]] = {
    "$eq": _Parser.equal, "$ne": _Parser.equal, "$gt": _Parser.ordered, "$gte": _Parser.ordered,
    "$lt": _Parser.ordered, "$lte": _Parser.ordered, "$in": _Parser.one_of, "$nin": _Parser.one_of,
    "$exists": _Parser.exists, "$type": _Parser.of_type, "$size": _Parser.of_size, "$mod": _Parser.modulo,
    "$all": _Parser.all_of, "$elemMatch": _Parser.some, "$not": _Parser.negated,
}  # fmt: skip


# --- filters with values for their parameters -----------------------------------------------------------------------


def bound_filter(where: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filter that has been parsed, as one for `find`: `values` for its parameters, nothing else changed."""
    return {
        name: [bound_filter(part, values) for part in value] if name in LOGICAL else _condition(value, values)
        for name, value in where.items()
    }


def _condition(value: Any, values: Mapping[str, Any]) -> Any:
    if is_operators(value):
        return _operators(value, values)
    argument = _argument("$eq", value, values)
    return value if argument is value else {"$eq": argument}


def _operators(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _argument(name, value, values) for name, value in tree.items()}


def _argument(operator: str, value: Any, values: Mapping[str, Any]) -> Any:
    if operator == "$not" or (operator == "$elemMatch" and is_operators(value) and next(iter(value)) not in LOGICAL):
        return _operators(value, values)
    if operator == "$elemMatch":
        return bound_filter(value, values)
    if operator in {"$in", "$nin", "$all"} and isinstance(value, list):
        return [_operators(item, values) if is_operators(item) else _argument("", item, values) for item in value]
    if is_literal(value):
        return value[LITERAL]
    # Only `$eq` and `$in` take parameters, and the parser refuses other text that begins with `$`.
    is_parameter = operator in {"$eq", "$in"} and isinstance(value, str) and value.startswith("$")
    return values[value[1:]] if is_parameter else value


# --- values ---------------------------------------------------------------------------------------------------------


def is_literal(value: Any) -> bool:
    """Return True for `{"$literal": …}`, which only filters with parameters have."""
    return isinstance(value, Mapping) and list(value) == [LITERAL]


def is_operators(value: Any) -> bool:
    """Return True if a value is an object of operators, as MongoDB sees it: its first name begins with `$`."""
    if not isinstance(value, Mapping) or not value:
        return False
    first = next(iter(value))
    return isinstance(first, str) and first.startswith("$") and first != LITERAL


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_dollar_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_dollar_text, value.values()))
    if isinstance(value, list):
        return any(map(_has_dollar_text, value))
    return isinstance(value, str) and value.startswith("$")


def _refused_operator(name: str, place: str) -> InvalidPredicate:
    alike = next((known for start, known in _ALIKE if name.startswith(start)), name)
    listed = f"there is no operator {name[:80]} here; there are $and, $or, $nor, {', '.join(_OPERATORS)}"
    return InvalidPredicate(place, _REFUSED_OPERATORS.get(alike, listed))


def check_path(path: Any, place: str) -> None:
    """Raise `InvalidPredicate` for what is no path of field names."""
    if not isinstance(path, str) or not is_text(path) or "\0" in path:
        raise InvalidPredicate(place, "a path is text without null characters")
    names = path.split(".")
    if not all(names):
        raise InvalidPredicate(place, "no name of a path is empty")
    if any(name.startswith("$") for name in names):
        raise InvalidPredicate(place, "no name of a path begins with $")
    # A document has the same routes with its stamp and without it.
    if names[0] == FIELD:
        raise InvalidPredicate(place, f"{FIELD} is eventsync's own field, which is no part of a document")
    if len(names) > MAX_PATH:
        raise InvalidPredicate(place, f"a path has at most {MAX_PATH} names")


def checked_value(value: Any, place: str, levels: int = MAX_LEVELS) -> Any:
    """Return a value if it can be compared. Raises `InvalidPredicate`."""
    for kind, reason in _REFUSED_VALUES:
        if isinstance(value, kind):
            raise InvalidPredicate(place, reason)
    if isinstance(value, Mapping | list):
        return _checked_container(value, place, levels)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidPredicate(place, "a date needs an offset from UTC, such as 2026-01-01T00:00:00Z")
        return value
    if not isinstance(value, _SCALARS):
        raise InvalidPredicate(place, f"{_kind(value)} is no value to compare with")
    if isinstance(value, str) and not is_text(value):
        raise InvalidPredicate(place, "the text is not valid Unicode")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise InvalidPredicate(place, "an integer has 64 bits; a Decimal128 has 34 digits")
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) != 16:
        raise InvalidPredicate(place, "a UUID has 16 bytes")
    return Int64(value) if type(value) is int and not -(2**31) <= value < 2**31 else value


def _checked_container(value: Any, place: str, levels: int) -> Any:
    if levels <= 0:
        raise InvalidPredicate(place, f"a value nests at most {MAX_LEVELS} levels")
    if isinstance(value, list):
        return [checked_value(item, f"{place}[{number}]", levels - 1) for number, item in enumerate(value)]
    for name in value:
        if not isinstance(name, str) or name.startswith("$") or "\0" in name or not is_text(name):
            raise InvalidPredicate(
                place, "a field name that begins with $, has a null character or is no text is no part of a value"
            )
    return {name: checked_value(item, f"{place}.{name}", levels - 1) for name, item in value.items()}


def _kind(value: Any) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"
