"""The types of parameters: the values that each takes, and how these are spelled in a shape. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bson.binary import UUID_SUBTYPE, Binary

from eventsync.domain.predicates.ordering import NUMERIC, rank_of
from eventsync.domain.predicates.parsing import checked_value
from eventsync.domain.values.numbers import canonical_number
from eventsync.errors import InvalidPredicate

TYPES: Final[Mapping[str, frozenset[int]]] = {
    "text": frozenset({15}),
    "int": frozenset({10}),
    "number": frozenset({10}),
    "bool": frozenset({40}),
    "date": frozenset({45}),
    "oid": frozenset({35}),
    "uuid": frozenset({30}),
    "null": frozenset({0, 5}),
    "any": frozenset({0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 47}),
}
"""The types, and the ranks of values that equal one of such a value."""

_SPELLINGS: Final = {
    "text": "7, or str:… where the text would be read as another value",
    "int": "int:7",
    "number": 'int:7 or ejson:{"$numberDecimal":"7.5"}',
    "bool": "bool:true",
    "date": 'ejson:{"$date":"2026-01-01T00:00:00Z"}',
    "oid": "24 hex digits",
    "uuid": "uuid:…",
    "null": "null:",
    "any": "any text of an id",
}
"""The spelling of a value of each type in the text of a shape."""


def ranks_of(types: Iterable[str]) -> frozenset[int]:
    """Return the ranks of values that equal one of these types."""
    return frozenset[int]().union(*(TYPES[kind] for kind in types))


def checked(value: Any, place: str, types: Iterable[str]) -> Any:
    """Return a value that is of one of these types. Raises `InvalidPredicate`, which names `place`."""
    found = checked_value(value, place)
    if any(_is_of(found, kind) for kind in types):
        return found
    wanted = " or ".join(f"{kind} ({_SPELLINGS[kind]})" for kind in sorted(types))
    raise InvalidPredicate(place, f"takes a value of type {wanted}")


def _is_of(value: Any, kind: str) -> bool:
    """Return True if a value can be bound to a parameter of a type."""
    if kind == "int":
        if type(value) is int:
            return True
        return rank_of(value) == NUMERIC and isinstance(canonical_number(value), int)
    if kind == "uuid":
        return isinstance(value, uuid.UUID) or (isinstance(value, Binary) and value.subtype == UUID_SUBTYPE)
    return rank_of(value) in TYPES[kind]
