"""Parsed filters as trees, and their canonical form.

A tree has two kinds of leaves. Of a document: `At`, a test of the values at a path. Of a single value, inside
`{"$elemMatch": {"$gt": 5}}`: the test itself. `$ne`, `$nin`, `$nor` and `{"$exists": false}` are `Not` of their
opposites; `$all` is `All` of its items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from eventsync.domain.predicates.ordering import value_bytes


@dataclass(frozen=True, slots=True)
class Parameter:
    """Stands for a value, or a list of values, that is bound later. `place` is where the filter has it."""

    name: str
    place: str


@dataclass(frozen=True, slots=True)
class Equal:
    """`$eq`: a value, or a parameter."""

    value: Any


@dataclass(frozen=True, slots=True)
class Ordered:
    """`$gt`, `$gte`, `$lt` or `$lte`."""

    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class OneOf:
    """`$in`: values, or a parameter that stands for a list."""

    values: tuple[Any, ...] | Parameter


@dataclass(frozen=True, slots=True)
class Exists:
    """`{"$exists": true}`."""


@dataclass(frozen=True, slots=True)
class OfType:
    """`$type`: numbers of BSON types."""

    numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class OfSize:
    """`$size`: an array of so many items."""

    size: int


@dataclass(frozen=True, slots=True)
class Modulo:
    """`$mod`: an integer with this remainder."""

    divisor: int
    remainder: int


@dataclass(frozen=True, slots=True)
class SomeItem:
    """`$elemMatch` with operators: an array that has an item which passes the tests."""

    node: Node


@dataclass(frozen=True, slots=True)
class SomeObject:
    """`$elemMatch` with a filter: an array that has an object which the filter matches."""

    node: Node


@dataclass(frozen=True, slots=True)
class At:
    """A test of the values at a path."""

    path: str
    test: Test


@dataclass(frozen=True, slots=True)
class All:
    """Matches if all parts do, and without parts always."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Matches if one part does, and without parts never."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Matches if the part does not."""

    part: Node


Test: TypeAlias = Equal | Ordered | OneOf | Exists | OfType | OfSize | Modulo | SomeItem | SomeObject
Node: TypeAlias = All | AnyOf | Not | At | Test


def parameters_of(node: Node) -> Iterator[Parameter]:
    """Yield the parameters in a tree."""
    match node:
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from parameters_of(part)
        case Not(inner) | At(_, inner) | SomeItem(inner) | SomeObject(inner):
            yield from parameters_of(inner)
        case Equal(Parameter() as found) | OneOf(Parameter() as found):
            yield found


def paths_of(node: Node) -> Iterator[str]:
    """Yield the paths whose values decide, those of an equality first where conditions are joined."""
    match node:
        case All(parts):
            for part in sorted(parts, key=lambda part: not isinstance(part, At) or not isinstance(part.test, Equal)):
                yield from paths_of(part)
        case AnyOf(parts):
            for part in parts:
                yield from paths_of(part)
        case Not(inner):
            yield from paths_of(inner)
        case At(path, _):
            yield path


# --- canonical form ----------------------------------------------------------------------------------------------


def canonical(node: Node) -> bytes:
    """Return the same bytes for filters that differ only in spelling.

    Spelling is: the order of conditions and of the items of a list, repetitions, nesting of `$and` in `$and` and of
    `$or` in `$or`, double negation, `$in` of one value, `$nor` for `$not`, the type of equal numbers. The order of
    fields in a subdocument counts, as it does for MongoDB.
    """
    return _encoded(_simplified(node))


def _simplified(node: Node) -> Node:  # noqa: PLR0911 - one for each kind
    match node:
        case All(parts):
            return _joined(All, parts)
        case AnyOf(parts):
            return _joined(AnyOf, parts)
        case Not(part):
            inner = _simplified(part)
            return inner.part if isinstance(inner, Not) else Not(inner)
        case At(path, test):
            simple = _simplified(test)
            return simple if isinstance(simple, AnyOf) else At(path, simple)  # type: ignore[arg-type]
        case OneOf(tuple() as values):
            return _one_of(values)
        case SomeItem(inner):
            return SomeItem(_simplified(inner))
        case SomeObject(inner):
            return SomeObject(_simplified(inner))
    return node


def _joined(kind: type[All | AnyOf], parts: tuple[Node, ...]) -> Node:
    found: dict[bytes, Node] = {}
    for simple in map(_simplified, parts):
        for part in simple.parts if isinstance(simple, kind) else (simple,):
            found[_encoded(part)] = part
    return next(iter(found.values())) if len(found) == 1 else kind(tuple(found[key] for key in sorted(found)))


def _one_of(values: tuple[Any, ...]) -> Node:
    found = {value_bytes(value): value for value in values}
    if not found:
        return AnyOf(())
    if len(found) == 1:
        return Equal(next(iter(found.values())))
    return OneOf(tuple(found[key] for key in sorted(found)))


def _encoded(node: Node) -> bytes:  # noqa: PLR0911, PLR0912, C901 - one for each kind
    match node:
        case All(parts):
            return _packed(b"and", *map(_encoded, parts))
        case AnyOf(parts):
            return _packed(b"or", *map(_encoded, parts))
        case Not(part):
            return _packed(b"not", _encoded(part))
        case At(path, test):
            return _packed(b"at", path.encode(), _encoded(test))
        case Equal(value):
            return _packed(b"eq", _value(value))
        case Ordered(operator, value):
            return _packed(operator.encode(), _value(value))
        case OneOf(Parameter() as parameter):
            return _packed(b"in", _value(parameter))
        case OneOf(tuple() as values):
            return _packed(b"in", *map(_value, values))
        case Exists():
            return _packed(b"exists")
        case OfType(numbers):
            return _packed(b"type", *(b"%d" % number for number in sorted(numbers)))
        case OfSize(size):
            return _packed(b"size", b"%d" % size)
        case Modulo(divisor, remainder):
            return _packed(b"mod", b"%d" % divisor, b"%d" % remainder)
        case SomeItem(inner):
            return _packed(b"item", _encoded(inner))
        case SomeObject(inner):
            return _packed(b"object", _encoded(inner))
    raise TypeError(node)


def _value(value: Any) -> bytes:
    return _packed(b"$", value.name.encode()) if isinstance(value, Parameter) else value_bytes(value)


def _packed(tag: bytes, *parts: bytes) -> bytes:
    return b"%b[%b]" % (tag, b"".join(b"%d:%b" % (len(part), part) for part in parts))
