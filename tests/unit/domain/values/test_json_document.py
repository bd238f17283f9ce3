"""JSON in place of stored values: a number that names no type takes the type of the one that it replaces."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from hypothesis import example, given
from hypothesis import strategies as st

from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.values.extended_json import from_tree, parse_json, same
from eventsync.domain.values.json_document import JsonDocument, converted


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (Int64(5), 6, Int64(6)),
        (5.0, 6, 6.0),
        (5, 6, 6),
        (5, 6.5, 6.5),
        (5.0, Int64(6), Int64(6)),
        (Int64(5), 6.0, 6.0),
        (5.5, True, True),
        (Decimal128("5"), 6, 6),
        ("x", 6, 6),
        ({"a": Int64(1), "b": 2.0}, {"a": 3, "b": 4, "c": 5}, {"a": Int64(3), "b": 4.0, "c": 5}),
        ([Int64(1), 2.0], [3, 4, 5], [Int64(3), 4.0, 5]),
        ([1, 2.0], [3], [3]),
        ({"a": [{"b": 1.0}]}, {"a": [{"b": 2}, {"b": 2}]}, {"a": [{"b": 2.0}, {"b": 2}]}),
        (1.7e12, 1_700_000_000_001, 1_700_000_000_001.0),
        (2.0**60, 1_152_921_504_606_847_000, 2.0**60),
        (2.0**60, 2**60 + 1, Int64(2**60 + 1)),
        (5, 2**40, Int64(2**40)),
        (1.7e12, {"$numberLong": "1700000000000"}, Int64(1_700_000_000_000)),
    ],
)
def test_plain_number_takes_the_type_of_the_one_that_it_replaces(old: Any, new: Any, kept: Any) -> None:
    assert same(converted(old, new, from_tree(new)), kept)


def javascript(double: float) -> bytes:
    """Return an integral double as `JSON.stringify` writes it below 10²¹: the shortest digits that name it."""
    return format(Decimal(repr(double)), "f").removesuffix(".0").encode()


@given(st.integers(-(10**21) + 1, 10**21 - 1).map(float).filter(lambda double: abs(double) < 1e21))
@example(1.7e12)
@example(2.0**60)
@example(2.0**64)
@example(-0.0)
def test_double_that_javascript_returns_stays_one(double: float) -> None:
    tree = 0 if double == 0 else parse_json(javascript(double))
    before = {"_id": 1, "at": double}
    patch = JsonPatch([{"op": op, "path": "/at", "value": tree} for op in ("test", "replace")])
    for after in (
        JsonDocument({"_id": 1, "at": tree}).in_place_of(before),
        MergePatch({"at": tree}).prepared()(before),
        patch.prepared(operations=2, document_bytes=1000, steps=1000)(before),
    ):
        assert same(after, before)
