from __future__ import annotations

import math
from typing import Any

import pytest
from bson import DBRef, Int64

from eventsync.domain.patches.diff import diff
from eventsync.domain.patches.json_pointer import escape
from eventsync.domain.replay import patched

CASES: list[tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = [
    ("nothing", {"a": 1, "n": math.nan}, {"n": math.nan, "a": 1}, []),
    ("add", {}, {"a": 1}, [{"op": "add", "path": "/a", "value": 1}]),
    ("remove", {"a": 1}, {}, [{"op": "remove", "path": "/a"}]),
    ("replace", {"a": 1}, {"a": 2}, [{"op": "replace", "path": "/a", "value": 2}]),
    ("to null", {"a": 1}, {"a": None}, [{"op": "replace", "path": "/a", "value": None}]),
    ("type only", {"a": 1}, {"a": Int64(1)}, [{"op": "replace", "path": "/a", "value": Int64(1)}]),
    ("nested", {"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, [{"op": "replace", "path": "/a/b/c", "value": 2}]),
    ("object to array", {"a": {"0": 1}}, {"a": [1]}, [{"op": "replace", "path": "/a", "value": [1]}]),
    ("empty name", {"": {"": 1}}, {"": {"": 2}}, [{"op": "replace", "path": "//", "value": 2}]),
    ("escaped name", {"a/b~c": 1}, {"a/b~c": 2}, [{"op": "replace", "path": "/a~1b~0c", "value": 2}]),
    ("tilde one", {"~1": 1}, {}, [{"op": "remove", "path": "/~01"}]),
    ("append", {"l": [1]}, {"l": [1, 2]}, [{"op": "add", "path": "/l/1", "value": 2}]),
    ("prepend", {"l": [1]}, {"l": [0, 1]}, [{"op": "add", "path": "/l/0", "value": 0}]),
    ("pop first", {"l": [1, 2, 3]}, {"l": [2, 3]}, [{"op": "remove", "path": "/l/0"}]),
    ("pop last", {"l": [1, 2]}, {"l": [1]}, [{"op": "remove", "path": "/l/1"}]),
    ("empty", {"l": [1, 2]}, {"l": []}, [{"op": "remove", "path": "/l/1"}, {"op": "remove", "path": "/l/0"}]),
    ("item in place", {"l": [1, {"a": 1}, 3]}, {"l": [1, {"a": 2}, 3]},
     [{"op": "replace", "path": "/l/1/a", "value": 2}]),
    ("middle shrinks", {"l": [0, 1, 2, 3, 9]}, {"l": [0, 7, 9]},
     [{"op": "replace", "path": "/l/1", "value": 7}, {"op": "remove", "path": "/l/3"},
      {"op": "remove", "path": "/l/2"}]),
    ("repeated items", {"l": [1, 1]}, {"l": [1, 1, 1]}, [{"op": "add", "path": "/l/2", "value": 1}]),
    ("a reference is one value", {"r": DBRef("c", 1)}, {"r": DBRef("c", 2)},
     [{"op": "replace", "path": "/r", "value": DBRef("c", 2)}]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "patch"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_patch_says_what_changed(
    before: dict[str, Any], after: dict[str, Any], patch: list[dict[str, Any]]
) -> None:
    assert diff(before, after) == patch


def test_a_name_is_removed_before_others_are_added() -> None:
    assert [operation["op"] for operation in diff({"a": 1, "b": 1}, {"c": 1, "b": 1})] == ["remove", "add"]


def test_a_token_is_escaped_as_rfc_6901_says() -> None:
    assert escape("m~n/o") == "m~0n~1o"
    assert escape("") == ""


def test_only_the_named_fields_are_looked_at() -> None:
    before, after = {"a": 1, "b": 1, "gone": 1}, {"a": 2, "b": 2, "new": 1}
    assert diff(before, after, {"a": 0, "new": 0, "gone": 0}) == [
        {"op": "remove", "path": "/gone"},
        {"op": "replace", "path": "/a", "value": 2},
        {"op": "add", "path": "/new", "value": 1},
    ]
    assert diff(before, after, {}) == []


def test_items_of_an_array_that_are_known_to_be_the_same_are_not_looked_at() -> None:
    before, after = {"a": [1, 2, 3], "o": {"x": 1}}, {"a": [9, 2, 4], "o": {"x": 2}}
    assert diff(before, after, {"a": 2, "o": 7}) == [
        {"op": "replace", "path": "/a/2", "value": 4},
        {"op": "replace", "path": "/o/x", "value": 2},
    ]
    assert diff({"a": [1]}, {"a": [1, None, 2]}, {"a": 2}) == [
        {"op": "add", "path": "/a/1", "value": None},
        {"op": "add", "path": "/a/2", "value": 2},
    ]
    assert diff({"a": [1, 2]}, {"a": []}, {"a": 5}) == [
        {"op": "remove", "path": "/a/1"},
        {"op": "remove", "path": "/a/0"},
    ]
    assert diff({"a": [1, 2]}, {"a": {"0": 1}}, {"a": 1}) == [{"op": "replace", "path": "/a", "value": {"0": 1}}]


def test_long_arrays_of_equal_numbers_are_compared_by_type() -> None:
    before = [0, 0, 0, 0, 0, 0]
    for other in (0.0, False, Int64(0)):
        for place in range(6):
            after = [*before[:place], other, *before[place + 1 :]]
            assert diff({"a": before}, {"a": after}) == [{"op": "replace", "path": f"/a/{place}", "value": other}]


def test_fields_in_another_order_are_no_change_in_long_arrays() -> None:
    before = [{"a": n, "b": math.nan} for n in range(6)]
    assert diff({"l": before}, {"l": [{"b": math.nan, "a": n} for n in range(6)]}) == []


def _deep(name: str, levels: int, inner: Any) -> dict[str, Any]:
    for _ in range(levels):
        inner = {name: inner}
    return {"_id": 1, "top": inner, "same": 1}


def test_a_patch_is_not_many_times_larger_than_the_documents() -> None:
    """Each of 5,000 fields would repeat a path of 90,000 letters: 450 MB of 140 KB."""
    before = _deep("n" * 1000, 90, {f"f{number}": 0 for number in range(5000)})
    after = _deep("n" * 1000, 90, {f"f{number}": 1 for number in range(5000)})
    patch = diff(before, after)
    assert patch == [{"op": "replace", "path": "/top", "value": after["top"]}]
    assert diff(before, after, {"top": 0}) == patch
    assert diff(before, after | {"new": 2}, {"top": 0, "new": 0}) == [
        *patch,
        {"op": "add", "path": "/new", "value": 2},
    ]
    assert patched(before, [*diff({"gone": 1, **before}, after)][1:]) == after


def test_paths_are_made_of_what_differs_alone() -> None:
    before = _deep("n" * 1000, 90, {f"f{number}": number for number in range(5000)})
    after = _deep("n" * 1000, 90, {f"f{number}": number for number in range(5000)} | {"f7": "other"})
    [operation] = diff(before, after)
    assert operation["path"].endswith("/f7")


def test_nested_arrays_are_compared_to_a_bound() -> None:
    """Each level compares all that is in it once more."""
    before: Any = [0, 1, 2]
    after: Any = [0, 1, 3]
    for _ in range(50):
        before, after = [before], [after]
    [operation] = diff({"a": before}, {"a": after})
    assert operation["path"] == "/a/0/0/0/0"
    assert patched({"a": before}, [operation]) == {"a": after}
