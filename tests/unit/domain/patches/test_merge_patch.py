"""Merge patch: the examples of RFC 7396 appendix A, and what it leaves open between JSON and BSON."""

from __future__ import annotations

from typing import Any

import pytest
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.values.extended_json import same
from eventsync.errors import Malformed

ID = ObjectId("65a000000000000000000001")


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": 1}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
        ({"a": [1, None]}, {"a": [None, {"b": None}]}, {"a": [None, {"b": None}]}),
        # BSON
        ({"a": {"$x": 1}}, {"a": {"$oid": str(ID)}}, {"a": ID}),
        ({"a": ID}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"n": Int64(5), "l": [Int64(1), 2.0]}, {"n": 6, "l": [2, 3, 4]}, {"n": Int64(6), "l": [Int64(2), 3.0, 4]}),
        ({"n": 5}, {"n": {"$numberLong": "5"}}, {"n": Int64(5)}),
        ({"n": 5.0, "l": [5.0]}, {"n": {"$numberInt": "5"}, "l": [{"$numberInt": "6"}]}, {"n": 5, "l": [6]}),
    ],
)
def test_merging(target: Any, patch: Any, result: Any) -> None:
    before = repr(target)
    assert same(MergePatch(patch).prepared()(target), result)
    assert repr(target) == before


@pytest.mark.parametrize(
    "patch",
    [
        None, [], 1, "x", {"_id": 1}, {"_id": None}, {"_sync": {}}, {"_sync": None}, {"$oid": str(ID)},
        {"$set": {"a": 1}},
        {"a": {"$gt": 1}}, {"a": {"b": 1, "$oid": str(ID)}}, {"a": {"b\0": 1}}, {"b\0": None}, {"a": [{"$x": 1}]},
    ],
)  # fmt: skip
def test_other_values_are_no_merge_patch_of_a_document(patch: Any) -> None:
    with pytest.raises(Malformed):
        MergePatch(patch).prepared()
