"""The minimal update: what is written, and what must not be."""

from __future__ import annotations

from typing import Any

import pytest
from bson.int64 import Int64

from eventsync.domain.patches.minimal_update import MAX_PATHS, minimal_update


@pytest.mark.parametrize(
    ("before", "after", "update"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"$set": {"a": 2}}),
        ({"a": 1}, {"a": Int64(1)}, {"$set": {"a": Int64(1)}}),
        ({"a": 1}, {"a": True}, {"$set": {"a": True}}),
        ({"a": 1}, {}, {"$unset": {"a": ""}}),
        ({}, {"a": None}, {"$set": {"a": None}}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 3}}}, {"$set": {"a.b.c": 3}, "$unset": {"a.b.d": ""}}),
        # names of digits are names in objects and indices in arrays
        ({"a": {"0": 1, "1": 2}}, {"a": {"0": 1, "1": 3}}, {"$set": {"a.1": 3}}),
        # what no path can say is written with the object that it is in
        ({"a": {"b.c": 1, "d": 2}}, {"a": {"b.c": 2, "d": 2}}, {"$set": {"a": {"b.c": 2, "d": 2}}}),
        ({"a": {"b": {"$x": 1, "y": 1}, "z": 1}}, {"a": {"b": {"y": 1}, "z": 1}}, {"$set": {"a.b": {"y": 1}}}),
        ({"a": {"b.c": 1, "d": 2}}, {"a": {"b.c": 1, "d": 3}}, {"$set": {"a.d": 3}}),
        ({"": 1, "a": 1}, {"": 1, "a": 2}, {"$set": {"a": 2}}),
        # arrays
        ({"l": [1, 2, 3]}, {"l": [1, 5, 3]}, {"$set": {"l.1": 5}}),
        ({"l": [1, 2]}, {"l": [1, 2, 3]}, {"$set": {"l": [1, 2, 3]}}),
        ({"l": [1, 2]}, {"l": [1]}, {"$set": {"l": [1]}}),
        ({"l": [1, 2]}, {"l": [3, 4]}, {"$set": {"l": [3, 4]}}),
        ({"l": [{"a": 1, "b": 1}, 2]}, {"l": [{"a": 1}, 2]}, {"$unset": {"l.0.b": ""}}),
        ({"l": [[1, 2], 3]}, {"l": [[1, 4], 3]}, {"$set": {"l.0.1": 4}}),
        # an object of nothing but new names is written whole
        ({"a": {"b": 1}}, {"a": {"z": 1, "y": 2}}, {"$set": {"a": {"z": 1, "y": 2}}}),
        ({"a": {}}, {"a": {"z": 1, "y": 2}}, {"$set": {"a": {"z": 1, "y": 2}}}),
        ({"a": {"b": 1}}, {"a": [1]}, {"$set": {"a": [1]}}),
    ],
)
def test_the_update(before: Any, after: Any, update: Any) -> None:
    assert repr(minimal_update(before, after)) == repr(update)


@pytest.mark.parametrize("name", ["", "a.b", "$a", "."])
def test_a_document_whose_own_names_no_path_can_say_is_to_be_replaced(name: str) -> None:
    assert minimal_update({name: 1}, {name: 2}) is None
    assert minimal_update({name: 1}, {}) is None
    assert minimal_update({}, {name: 1}) is None


def test_a_change_of_very_many_paths_is_to_be_replaced() -> None:
    before = {f"f{index}": 0 for index in range(MAX_PATHS + 1)}
    after = dict.fromkeys(before, 1)
    assert minimal_update(before, after) is None
    assert minimal_update(before, after | {"f0": 0}) is not None


def test_a_long_path_is_not_repeated_for_each_field() -> None:
    def document(value: int) -> dict[str, Any]:
        inner: dict[str, Any] = {f"f{number}": value for number in range(900)}
        for _ in range(80):
            inner = {"n" * 1000: inner}
        return {"_id": 1, "top": inner}

    update = minimal_update(document(0), document(1))
    assert update is not None
    [path] = update["$set"]
    assert path == ".".join(["top", *["n" * 1000] * 80])  # the innermost object, whole


def test_many_changes_in_one_object_are_written_with_it() -> None:
    before = {"_id": 1, "a": {f"f{number}": 0 for number in range(MAX_PATHS + 1)}, "b": 0}
    after = {"_id": 1, "a": {f"f{number}": 1 for number in range(MAX_PATHS + 1)}, "b": 1}
    assert minimal_update(before, after) == {"$set": {"a": after["a"], "b": 1}}
