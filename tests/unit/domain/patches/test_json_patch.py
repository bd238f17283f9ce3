"""JSON Patch: the public conformance suite, and what RFC 6902 leaves open between JSON and BSON."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson.binary import Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex

from eventsync.domain.patches.json_patch import JsonPatch, equal
from eventsync.domain.values.extended_json import Document, same
from eventsync.errors import Malformed, PatchFailed, TooComplex, TooLarge

DATA = Path(__file__).parents[3] / "data"
ID = ObjectId("65a000000000000000000001")


def patched(
    document: Document, *operations: Any, limit: int = 1000, size: int = 100_000, steps: int = 100_000
) -> Document:
    return JsonPatch(list(operations)).prepared(operations=limit, document_bytes=size, steps=steps)(document)


def _cases(name: str) -> list[Any]:
    cases = json.loads((DATA / name).read_text())
    return [
        pytest.param(case, id=f"{name.removesuffix('.json')}-{index}")
        for index, case in enumerate(cases)
        if "patch" in case and not case.get("disabled")
    ]


def _beneath_value(operation: Any) -> Any:
    """The operation on a document that is wrapped as `{"value": document}`."""
    if not isinstance(operation, dict):
        return operation
    wrapped = dict(operation)
    for member in ("path", "from"):
        if isinstance(text := operation.get(member), str) and (text == "" or text.startswith("/")):
            wrapped[member] = f"/value{text}"
    return wrapped


@pytest.mark.parametrize("case", _cases("json-patch-tests.json") + _cases("json-patch-spec_tests.json"))
def test_conformance_suite(case: dict[str, Any]) -> None:
    document = {"value": case["doc"]}
    untouched = copy.deepcopy(document)
    operations = [_beneath_value(operation) for operation in case["patch"]]
    if "error" in case:
        with pytest.raises((Malformed, PatchFailed)):
            patched(document, *operations)
    else:
        assert patched(document, *operations) == {"value": case.get("expected", case["doc"])}
    assert document == untouched


def test_the_suite_is_there() -> None:
    assert len(_cases("json-patch-tests.json")) > 90
    assert len(_cases("json-patch-spec_tests.json")) > 15


# --- ill-formed patches are refused before anything is applied ----------------------------------------------------


@pytest.mark.parametrize(
    "operations",
    [
        {"op": "add", "path": "/a", "value": 1},
        "[]",
        None,
        [1],
        [{"path": "/a", "value": 1}],
        [{"op": "append", "path": "/a", "value": "x"}],
        [{"op": ["add"], "path": "/a", "value": 1}],
        [{"op": "add", "value": 1}],
        [{"op": "add", "path": ["a"], "value": 1}],
        [{"op": "add", "path": "a", "value": 1}],
        [{"op": "add", "path": "/a~2", "value": 1}],
        [{"op": "add", "path": "/a~", "value": 1}],
        [{"op": "add", "path": "/a"}],
        [{"op": "replace", "path": "/a"}],
        [{"op": "test", "path": "/a"}],
        [{"op": "move", "path": "/a"}],
        [{"op": "copy", "path": "/a", "from": 1}],
        [{"op": "copy", "path": "/a", "from": "b"}],
        # the root
        [{"op": "replace", "path": "", "value": {}}],
        [{"op": "add", "path": "", "value": {}}],
        [{"op": "remove", "path": ""}],
        [{"op": "copy", "path": "", "from": "/a"}],
        [{"op": "move", "path": "/a", "from": ""}],
        # reserved fields
        [{"op": "replace", "path": "/_id", "value": 1}],
        [{"op": "add", "path": "/_id/x", "value": 1}],
        [{"op": "remove", "path": "/_id"}],
        [{"op": "move", "path": "/a", "from": "/_id"}],
        [{"op": "copy", "path": "/_id", "from": "/a"}],
        [{"op": "add", "path": "/_sync", "value": 1}],
        [{"op": "replace", "path": "/_sync/v", "value": 1}],
        [{"op": "copy", "path": "/a", "from": "/_sync"}],
        [{"op": "test", "path": "/_sync/v", "value": 1}],
        # names that start with `$`, in values and as the last token of a path
        [{"op": "add", "path": "/a", "value": {"$where": "1"}}],
        [{"op": "add", "path": "/a", "value": [{"b": {"$gt": 1}}]}],
        [{"op": "add", "path": "/a/$oid", "value": "65a000000000000000000001"}],
        [{"op": "move", "path": "/$a", "from": "/b"}],
        [{"op": "add", "path": "/a\0", "value": 1}],
        [{"op": "add", "path": "/a", "value": {"$oid": "no"}}],
    ],
)
def test_ill_formed_patches_are_malformed(operations: Any) -> None:
    with pytest.raises(Malformed):
        JsonPatch(operations).prepared(operations=10, document_bytes=1000, steps=10_000)


def test_a_message_names_the_operation() -> None:
    with pytest.raises(Malformed, match=r"operation 1 \(remove\): _id can't be patched"):
        patched({}, {"op": "test", "path": "/_id", "value": 1}, {"op": "remove", "path": "/_id"})
    with pytest.raises(PatchFailed, match=r"operation 1 \(remove /b\)"):
        patched({"a": 1}, {"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/b"})


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/b"},
        {"op": "remove", "path": "/list/3"},
        {"op": "remove", "path": "/list/-"},
        {"op": "replace", "path": "/list/-", "value": 1},
        {"op": "replace", "path": "/list/3", "value": 1},
        {"op": "replace", "path": "/list/01", "value": 1},
        {"op": "add", "path": "/list/4", "value": 1},
        {"op": "add", "path": "/list/-1", "value": 1},
        {"op": "add", "path": "/list/1e0", "value": 1},
        {"op": "add", "path": "/list/１", "value": 1},  # noqa: RUF001 - a digit, but not one of RFC 6901
        {"op": "add", "path": "/list/" + "9" * 5000, "value": 1},
        {"op": "add", "path": "/b/c", "value": 1},
        {"op": "test", "path": "/b", "value": None},
        {"op": "test", "path": "/list/-", "value": 3},
        {"op": "copy", "path": "/b", "from": "/list/-"},
        {"op": "move", "path": "/list/9", "from": "/n"},
        {"op": "move", "path": "/object/inner", "from": "/object"},
        {"op": "add", "path": "/text/0", "value": 1},
    ],
)
def test_a_patch_that_does_not_apply_leaves_the_document(operation: Any) -> None:
    document = {"list": [1, 2, 3], "n": 1, "object": {}, "text": "text"}
    untouched = copy.deepcopy(document)
    with pytest.raises(PatchFailed):
        patched(document, {"op": "add", "path": "/object/x", "value": 1}, {"op": "remove", "path": "/list/0"},
                {"op": "add", "path": "/list/0", "value": 1}, operation)  # fmt: skip
    assert document == untouched


def test_the_patch_does_not_share_its_values_with_the_document() -> None:
    apply = JsonPatch(
        [{"op": "add", "path": "/a", "value": {"list": []}}, {"op": "add", "path": "/a/list/-", "value": 1}]
    ).prepared(operations=10, document_bytes=1000, steps=10_000)
    assert apply({}) == apply({}) == {"a": {"list": [1]}}


def test_numeric_names_are_names_in_objects() -> None:
    assert patched({"m": {"0": "a", "01": "b"}}, {"op": "remove", "path": "/m/01"}) == {"m": {"0": "a"}}
    assert patched({"m": {}}, {"op": "add", "path": "/m/-", "value": 1}) == {"m": {"-": 1}}


# --- BSON values ---------------------------------------------------------------------------------------------------


def test_values_are_converted() -> None:
    result = patched({}, {"op": "add", "path": "/a", "value": {"$oid": str(ID)}},
                     {"op": "add", "path": "/b", "value": [{"$numberLong": "1"}, 2**40]})  # fmt: skip
    assert same(result, {"a": ID, "b": [Int64(1), Int64(2**40)]})


@pytest.mark.parametrize(
    "leaf", [ID, datetime(2026, 1, 1, tzinfo=UTC), Decimal128("1"), b"abc", Binary(b"abc", 5), Code("x", {"y": 1}),
             Regex("a"), DBRef("c", ID), Int64(1), "text"]
)  # fmt: skip
@pytest.mark.parametrize("token", ["0", "$oid", "collection", "pattern", "y", "real"])
def test_a_leaf_is_one_value(leaf: Any, token: str) -> None:
    for operation in ({"op": "remove"}, {"op": "test", "value": 1}, {"op": "copy", "from": f"/leaf/{token}"}):
        path = "/copy" if "from" in operation else f"/leaf/{token}"
        with pytest.raises(PatchFailed):
            patched({"leaf": leaf}, {**operation, "path": path})


def test_leaves_survive_copies_and_moves() -> None:
    leaves = [ID, datetime(2026, 1, 1, tzinfo=UTC), Decimal128("1.0"), b"a", Binary(b"a", 5), Code("x", {"y": 1}),
              Regex("a", "i"), DBRef("c", ID, "d"), Int64(1), 1.0, True, None]  # fmt: skip
    result = patched({"a": leaves}, {"op": "copy", "from": "/a", "path": "/b"},
                     {"op": "move", "from": "/a", "path": "/c"})  # fmt: skip
    assert same(result, {"b": leaves, "c": leaves})


def test_numbers_keep_the_type_of_what_they_replace() -> None:
    before = {"long": Int64(5), "double": 5.0, "int": 5, "list": [Int64(1), 2, 3.0], "in": {"n": Int64(1)}}
    result = patched(
        before,
        {"op": "replace", "path": "/long", "value": 6},
        {"op": "add", "path": "/double", "value": 6},
        {"op": "replace", "path": "/int", "value": 6},
        {"op": "replace", "path": "/list/0", "value": 6},
        {"op": "replace", "path": "/list/2", "value": 6},
        {"op": "replace", "path": "/in", "value": {"n": 6, "m": 6}},
        {"op": "add", "path": "/new", "value": 6},
    )
    assert same(
        result,
        {
            "long": Int64(6),
            "double": 6.0,
            "int": 6,
            "list": [Int64(6), 2, 6.0],
            "in": {"n": Int64(6), "m": 6},
            "new": 6,
        },
    )


def test_numbers_that_name_their_type_keep_it() -> None:
    value = {"n": {"$numberInt": "6"}, "l": [{"$numberInt": "6"}, 6, 6], "m": 6}
    result = patched({"in": {"n": 5.0, "l": [5.0, 5.0], "m": 5.0}}, {"op": "replace", "path": "/in", "value": value})
    assert same(result, {"in": {"n": 6, "l": [6, 6.0, 6], "m": 6.0}})


def test_items_that_move_up_keep_their_types() -> None:
    result = patched({"list": [Int64(1), 2, 3.0]}, {"op": "remove", "path": "/list/0"},
                     {"op": "add", "path": "/list/0", "value": 9})  # fmt: skip
    assert same(result, {"list": [9, 2, 3.0]})


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (1, 1.0, True),
        (Int64(1), 1, True),
        (1.0, Int64(1), True),
        (0.0, -0.0, True),
        (float("nan"), float("nan"), True),
        (True, 1, False),
        (False, 0, False),
        (1, "1", False),
        (None, 0, False),
        (Decimal128("1"), 1, False),
        (Decimal128("1"), Decimal128("1"), True),
        (2**53 + 1, float(2**53), False),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": Int64(1)}, True),
        ({"a": 1}, {"a": 1, "b": 1}, False),
        ([1, 2], [2, 1], False),
        (ID, str(ID), False),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), True),
    ],
)
def test_equality_is_that_of_json(left: Any, right: Any, expected: bool) -> None:
    assert equal(left, right) is equal(right, left) is expected


def test_test_operations() -> None:
    document = {"_id": ID, "n": Int64(1), "flag": True}
    tests = [("/n", 1.0), ("/_id", {"$oid": str(ID)}), ("", {"flag": True, "n": 1, "_id": {"$oid": str(ID)}})]
    assert patched(document, *({"op": "test", "path": path, "value": value} for path, value in tests)) == document
    with pytest.raises(PatchFailed):
        patched(document, {"op": "test", "path": "/flag", "value": 1})


# --- bounds --------------------------------------------------------------------------------------------------------


def test_the_number_of_operations_is_bounded() -> None:
    operation = {"op": "add", "path": "/a", "value": 1}
    assert patched({}, *[operation] * 3, limit=3) == {"a": 1}
    with pytest.raises(TooLarge):
        patched({}, *[operation] * 4, limit=3)


def test_copies_can_not_multiply_a_document() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 30
    with pytest.raises(TooLarge):
        patched({"a": ["x" * 100]}, *doubling)


def test_a_document_can_not_be_nested_beyond_the_limit() -> None:
    deeper = [
        operation
        for _ in range(60)
        for operation in ({"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/a", "value": {}},
                          {"op": "move", "from": "/b", "path": "/a/x"}, {"op": "add", "path": "/c", "value": {}},
                          {"op": "move", "from": "/a", "path": "/c/x"}, {"op": "move", "from": "/c", "path": "/a"})
    ]  # fmt: skip
    with pytest.raises(Malformed, match="deeper"):
        patched({"a": {}}, *deeper, size=10_000_000)
    with pytest.raises(Malformed, match="deeper"):
        patched({}, {"op": "add", "path": "/a" * 99, "value": {"b": {"c": 1}}})


# --- work -------------------------------------------------------------------------------------------------------------


def test_moves_do_not_walk_through_what_they_move() -> None:
    document = {"_id": 1, "x": [[0]] * 10_000}
    there_and_back = [{"op": "move", "from": "/x", "path": "/z"}, {"op": "move", "from": "/z", "path": "/x"}]
    assert patched(document, *there_and_back * 500, steps=5_000) == document


def test_moves_up_and_down_count_levels_now_and_then() -> None:
    document = {"_id": 1, "x": [[0]] * 1000, "y": {}}
    down_and_up = [{"op": "move", "from": "/x", "path": "/y/z"}, {"op": "move", "from": "/y/z", "path": "/x"}]
    # 500 times down, each of which may have made it a level deeper: counted every 97 times, not 500 times.
    assert patched(document, *down_and_up * 500, steps=40_000) == document


@pytest.mark.parametrize("steps_needed", [pytest.param(4_000, id="enough"), pytest.param(200, id="too few")])
def test_shifting_an_array_is_work(steps_needed: int) -> None:
    document = {"_id": 1, "x": [0] * 6400}
    operations = [{"op": "add", "path": "/x/0", "value": 1}] * 30
    if steps_needed > 3_000:
        assert len(patched(document, *operations, steps=steps_needed)["x"]) == 6430
    else:
        with pytest.raises(TooComplex):
            patched(document, *operations, steps=steps_needed)


def test_copying_is_work() -> None:
    document = {"_id": 1, "x": "a" * 10_000}
    copies = [{"op": "copy", "from": "/x", "path": f"/x{number}"} for number in range(5)]
    with pytest.raises(TooComplex):
        patched(document, *copies, steps=20_000)
    assert len(patched(document, *copies, steps=30_000)) == 7


def test_nesting_is_refused_also_where_levels_were_estimated() -> None:
    """Each round moves a deeper value into itself; the estimate must not let any of it through."""
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    document = {"_id": 1, "x": deep, "y": {"z": {}}}
    assert patched(document, {"op": "move", "from": "/x", "path": "/y/z/w"})["y"]["z"]["w"] == deep
    copies = [{"op": "copy", "from": "/x", "path": "/y/z/w"}, {"op": "copy", "from": "/y", "path": "/x/0/0/0/0"}]
    with pytest.raises(Malformed, match="nests deeper"):
        patched(document, *copies * 20)
