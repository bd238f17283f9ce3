"""Random documents, filters and definitions of shapes, with everything that is awkward about them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

NAMES = ("a", "b", "0", "1")

SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 5, 2, Int64(5), Int64(2**53 + 1), Int64(2**63 - 1), 5.0, 0.1, -0.0, 1.5, -2.5,
    float("nan"), float("inf"), float("-inf"), 2.0**53, 1e300, 5e-324, Decimal128("5"), Decimal128("5.00"),
    Decimal128("0.1"), Decimal128("NaN"), Decimal128("-Infinity"), Decimal128("1E+6000"), Decimal128("-0"),
    Decimal128("9007199254740993"), Decimal128("0.1000000000000000055511151231257827"), "", "a", "b", "ab", "A", "é",
    "\uffff", "\U00010000", "a\0b", "5", ObjectId("65a000000000000000000001"), ObjectId("65a000000000000000000002"),
    datetime(2026, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999000, UTC), DatetimeMS(2**60), b"", b"a",
    Binary(b"a", 5), Binary(b"abc", 2), b"abcdefg", uuid.UUID(int=7), uuid.UUID(int=8), Timestamp(1, 1),
    Timestamp(1, 2),
)  # fmt: skip
"""Values of documents and of filters, several of which are equal to others."""

COMMON: tuple[Any, ...] = (None, 1, 5, 2, 5.0, "a", "b", True)
"""Few enough that filters and documents often meet."""

STORED: tuple[Any, ...] = (
    Regex("^a", "i"), Code("f"), Code("f", {"a": 1}), DBRef("c", 1), DBRef("c", 1, "d", a=5), MinKey(), MaxKey(),
)  # fmt: skip
"""Values of documents that no filter has."""

TYPES = (
    "double", "string", "object", "array", "binData", "objectId", "bool", "date", "null", "regex", "javascript",
    "javascriptWithScope", "int", "timestamp", "long", "decimal", "minKey", "maxKey", "number",
)  # fmt: skip


def value(choose: random.Random, *, depth: int = 2, stored: bool = False) -> Any:
    """Return a value; `stored`: one that a document may have, and a filter may not."""
    kind = choose.random()
    if depth and kind < 0.2:
        return [value(choose, depth=depth - 1, stored=stored) for _ in range(choose.randrange(4))]
    if depth and kind < 0.4:
        names = choose.sample(NAMES, choose.randrange(3))
        return {name: value(choose, depth=depth - 1, stored=stored) for name in names}
    if stored and kind < 0.43:
        return choose.choice(STORED)
    return choose.choice(COMMON if choose.random() < 0.6 else SCALARS)


def document(choose: random.Random, number: int) -> dict[str, Any]:
    """Return a document of a few levels."""
    names = choose.sample(NAMES[:2], choose.choice((0, 1, 1, 2, 2)))
    return {"_id": number, **{name: value(choose, depth=4, stored=True) for name in names}}


def path(choose: random.Random) -> str:
    """Return a path of up to four names, numbers among them."""
    names = [choose.choice(NAMES[:2]), *choose.choices(NAMES, k=choose.choice((0, 0, 1, 1, 2, 3)))]
    return ".".join(names)


def any_filter(choose: random.Random, level: int = 0) -> dict[str, Any]:
    """Return a filter of up to three conditions and levels."""
    conditions: dict[str, Any] = {}
    for _ in range(choose.choice((1, 1, 1, 2, 3) if level else (1, 1, 2))):
        if level < 2 and choose.random() < 0.25:
            parts = [any_filter(choose, level + 1) for _ in range(choose.randrange(1, 3))]
            conditions[choose.choice(("$and", "$or", "$nor"))] = parts
        elif choose.random() < 0.3:
            conditions[path(choose)] = value(choose)
        else:
            conditions[path(choose)] = operators(choose, level)
    return conditions


def operators(choose: random.Random, level: int) -> dict[str, Any]:
    """Return an object of operators."""
    return dict(_operator(choose, level) for _ in range(choose.choice((1, 1, 1, 2))))


def _operator(choose: random.Random, level: int) -> tuple[str, Any]:
    name = choose.choice(_OPERATORS if level < 3 else _OPERATORS[:12])
    make = _ARGUMENTS.get(name)
    return name, make(choose, level) if make else value(choose)


def _values(choose: random.Random, _: int) -> list[Any]:
    return [value(choose) for _ in range(choose.randrange(4))]


def _all(choose: random.Random, level: int) -> list[Any]:
    if choose.random() < 0.2:
        return [{"$elemMatch": any_filter(choose, 2)} for _ in range(choose.randrange(1, 3))]
    return _values(choose, level)


def _elem_match(choose: random.Random, level: int) -> dict[str, Any]:
    return operators(choose, level + 1) if choose.random() < 0.5 else any_filter(choose, max(level + 1, 2))


_ARGUMENTS: dict[str, Callable[[random.Random, int], Any]] = {
    "$in": _values,
    "$nin": _values,
    "$exists": lambda choose, _: choose.random() < 0.5,
    "$type": lambda choose, _: choose.sample(TYPES, choose.randrange(1, 4)),
    "$size": lambda choose, _: choose.randrange(4),
    "$mod": lambda choose, _: [choose.choice((1, 2, 3, -2, Int64(2**53))), choose.choice((0, 1, -1, 2))],
    "$not": lambda choose, level: operators(choose, level + 1),
    "$all": _all,
    "$elemMatch": _elem_match,
}

_OPERATORS = (
    "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$type", "$size", "$mod", "$all", "$not",
    "$elemMatch", "$elemMatch",
)  # fmt: skip


def parametrised(choose: random.Random, names: list[str]) -> dict[str, Any]:
    """Return a filter with each of these parameters once in each branch of its `$or`, and a residual now and then.

    `l` is the parameter that stands for a list.
    """
    residuals = choose.choice((0, 0, 1)) if names else 1
    conditions: list[dict[str, Any]] = [any_filter(choose, 2) for _ in range(residuals)]
    for name in names:
        places = [_condition(choose, name) for _ in range(choose.choice((1, 1, 1, 2)))]
        if len(places) > 1 and choose.random() < 0.3:
            places[0] = {"$and": [places[0], any_filter(choose, 2)]}
        conditions.append(places[0] if len(places) == 1 else {"$or": places})
    choose.shuffle(conditions)
    return conditions[0] if len(conditions) == 1 else {"$and": conditions}


def _condition(choose: random.Random, name: str) -> dict[str, Any]:
    text = f"${name}"
    test: Any = {"$in": text} if name == "l" else text if choose.random() < 0.7 else {"$eq": text}
    if isinstance(test, dict) and choose.random() < 0.2:
        test |= {"$exists": True}
    return {path(choose): test}
