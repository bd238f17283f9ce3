"""Canonical forms and the bytes of values: equal exactly for what MongoDB treats alike."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Timestamp

from eventsync.domain.predicates.ordering import key_bytes, key_of, value_bytes
from eventsync.domain.predicates.predicate import Predicate

ALIKE: list[list[dict[str, Any]]] = [
    [{}, {"$and": [{}]}, {"$and": [{}, {}]}],
    [{"a": 5}, {"a": {"$eq": 5.0}}, {"a": {"$in": [Decimal128("5.00")]}}, {"$and": [{"a": Int64(5)}]}],
    [{"a": 7}, {"$or": [{"a": 7}]}],
    [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"$and": [{"b": 2}, {"a": 1}, {"b": 2}]}],
    [{"a": {"$gt": 1, "$lt": 3}}, {"a": {"$lt": 3, "$gt": 1}}, {"$and": [{"a": {"$gt": 1}}, {"a": {"$lt": 3}}]}],
    [{"a": {"$ne": 5}}, {"a": {"$not": {"$eq": 5}}}, {"$nor": [{"a": 5}]}, {"a": {"$nin": [5, 5.0]}}],
    [{"a": {"$in": [1, "x"]}}, {"a": {"$in": ["x", 1, 1.0]}}],
    [{"a": {"$exists": False}}, {"a": {"$not": {"$exists": True}}}],
    [{"$or": [{"a": 1}, {"$or": [{"b": 1}, {"a": 1}]}]}, {"$or": [{"b": 1}, {"a": 1}]}],
    [{"a": {"$type": "number"}}, {"a": {"$type": ["int", "long", "double", "decimal"]}}],
    [{"a": {"$all": [1, 2]}}, {"$and": [{"a": 2}, {"a": 1}]}],
    [{"a": {"x": 1, "y": 2}}],
    [{"a": {"y": 2, "x": 1}}],
    [{"a": [1, 2]}],
    [{"a": [2, 1]}],
    [{"a": {"$elemMatch": {"b": 1}}}],
    [{"a": {"$elemMatch": {"$eq": 1}}}],
    [{"a": True}],
    [{"a": 1}],
    [{"a": "1"}],
    [{"a.b": 1}],
    [{"a": {"$gt": 1}}],
    [{"a": {"$gte": 1}}],
    [{"a": {"$size": 1}}],
    [{"a": {"$mod": [2, 1]}}],
    [{"a": {"$mod": [1, 2]}}],
    [{"a": None}],
    [{"$or": [{"a": 1}, {"b": 2}]}],
    [{"$nor": [{"a": 1}, {"b": 2}]}],
]  # fmt: skip
"""Filters that are one, a line each."""


@pytest.mark.parametrize("spellings", ALIKE)
def test_spellings_of_a_filter_have_one_canonical_form(spellings: list[dict[str, Any]]) -> None:
    assert len({Predicate(each).canonical for each in spellings}) == 1


def test_other_filters_have_other_canonical_forms() -> None:
    assert len({Predicate(each[0]).canonical for each in ALIKE}) == len(ALIKE)


EQUAL: list[list[Any]] = [
    [5, 5.0, Int64(5), Decimal128("5"), Decimal128("5.00")],
    [0.1],
    [Decimal128("0.1")],
    [0, 0.0, -0.0, Decimal128("-0")],
    [float("nan"), Decimal128("NaN"), Decimal128("sNaN")],
    [float("inf"), Decimal128("Infinity")],
    [2**53, 2.0**53],
    [2**53 + 1, Decimal128("9007199254740993")],
    [True],
    [1],
    ["1"],
    [b"1", Binary(b"1")],
    [Binary(b"1", 5)],
    [None],
    [[1], [1.0]],
    [[[1]]],
    [{"a": 1, "b": 2}, {"a": 1.0, "b": 2}],
    [{"b": 2, "a": 1}],
    [{}],
    [[]],
    [""],
    [ObjectId("65a000000000000000000001")],
    [datetime(2026, 1, 1, tzinfo=UTC)],
    [Timestamp(1, 2)],
    [Timestamp(2, 1)],
    ["a\0b"],
    ["a", "a"],
    [["a", "b"]],
    [["a", ["b"]]],
]


@pytest.mark.parametrize("values", EQUAL)
def test_equal_values_have_the_same_bytes(values: list[Any]) -> None:
    assert len(set(map(value_bytes, values))) == 1
    assert len({key_of(value) for value in values}) == 1


@pytest.mark.parametrize("value", ["", "é", "\ud800", 0, -7, 2**31, 2**63 - 1, -(2**63)])
def test_the_short_way_for_common_values_gives_the_same_bytes(value: Any) -> None:
    assert value_bytes(value) == key_bytes(key_of(value))


def test_the_bytes_of_a_value_begin_no_others() -> None:
    for first, second in combinations([value_bytes(each[0]) for each in EQUAL], 2):
        assert not first.startswith(second)
        assert not second.startswith(first)
