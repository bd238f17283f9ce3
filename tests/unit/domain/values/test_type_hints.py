from __future__ import annotations

from typing import Any

import pytest
from bson.binary import Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.int64 import Int64

from eventsync.domain.values.extended_json import same
from eventsync.domain.values.type_hints import from_tree_with_hints, pack_type_hints, type_hints_of
from eventsync.errors import Malformed
from support.replica import to_tree


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"_id": 1, "a": 7, "b": "x", "c": [1.0, None, True]}, []),
        ({"a": Int64(2**31), "b": Int64(-(2**31) - 1)}, []),
        ({"a": Int64(2**31 - 1), "b": Int64(-(2**31))}, ["/a", "/b"]),
        ({"a/b": {"~": [0, Int64(0)]}, "": Int64(1)}, ["/a~1b/~0/1", "/"]),
        ([{"op": "add", "path": "/n", "value": Int64(5)}], ["/0/value"]),
        ({"r": DBRef("c", Int64(1), x=Int64(2))}, ["/r/$id", "/r/x"]),
        ({"c": Code("f", {"n": Int64(1)}), "d": Code("f")}, ["/c/$scope/n"]),
        ({"$a": {"$oid": Int64(1)}}, ["", "/$a", "/$a/$oid"]),
        ({"u": Binary(b"short", 4), "v": Binary(b"short", 3)}, ["/u/$binary/subType"]),
    ],
)
def test_values_that_json_cannot_express_are_marked(value: Any, expected: list[str]) -> None:
    assert type_hints_of(value) == expected
    assert same(from_tree_with_hints(to_tree(value), expected), value)


@pytest.mark.parametrize(
    "pointer", ["/nothing", "/list/9", "/list/x", "/text", "/list", "/n/deep", "/text/$binary/subType", "x"]
)
def test_marks_that_do_not_belong_to_the_value(pointer: str) -> None:
    with pytest.raises(Malformed, match="names no value"):
        from_tree_with_hints({"n": 1, "list": [1], "text": "x"}, [pointer])


def test_many_marks_are_stored_small() -> None:
    pointers = [f"/counters/{n}/value" for n in range(10_000)]
    stored = pack_type_hints(pointers)
    assert isinstance(stored, bytes)
    assert len(stored) < sum(map(len, pointers)) / 5


def test_marks_are_not_many_times_larger_than_the_value() -> None:
    """Each of 2,000 numbers would repeat a path of 90,000 letters: 180 MB of 130 KB."""
    value: Any = {f"f{number}": Int64(number) for number in range(2000)}
    for _ in range(90):
        value = {"n" * 1000: value}
    [mark] = type_hints_of(value)
    assert len(mark) < 1_000_000
    assert same(from_tree_with_hints(to_tree(value), [mark]), value)


def test_a_value_that_is_its_own_mark_is_read_strictly() -> None:
    for mark in ("bson:", "bson:####", "bson:AAAA"):
        with pytest.raises(Malformed, match="can't be read"):
            from_tree_with_hints({"n": 1}, [mark])
