from __future__ import annotations

import copy
import json
import math
from typing import Any

import jsonpatch
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st
from jsonpatch import apply_patch

from eventsync.domain.patches.diff import diff
from eventsync.domain.values.extended_json import same, to_json
from support.replica import to_tree

Strategy = st.SearchStrategy[Any]


def edited(draw: Any, value: Any, leaves: Strategy) -> Any:
    """A document a few edits away, as updates leave it: two independent documents hardly share anything."""
    if isinstance(value, dict) and value:
        return _edited_object(draw, value, leaves)
    if isinstance(value, list) and value:
        return _edited_array(draw, value, leaves)
    return draw(leaves)


def _edited_object(draw: Any, value: dict[str, Any], leaves: Strategy) -> dict[str, Any]:
    name, kind = draw(st.sampled_from(sorted(value))), draw(st.integers(0, 3))
    if kind == 0:
        return {key: item for key, item in value.items() if key != name}
    if kind == 1:
        return value | {draw(st.sampled_from(["a", "x", "0", "~/"])): draw(leaves)}
    return value | {name: edited(draw, value[name], leaves)}


def _edited_array(draw: Any, value: list[Any], leaves: Strategy) -> list[Any]:
    at, kind = draw(st.integers(0, len(value) - 1)), draw(st.integers(0, 4))
    if kind == 0:
        return value[:at] + value[at + 1 :]
    if kind == 1:
        return [*value[:at], draw(leaves), *value[at:]]
    if kind == 2:
        return value[::-1]
    if kind == 3:
        return value[at:] + value[:at]
    return [*value[:at], edited(draw, value[at], leaves), *value[at + 1 :]]


@given(st.data())
def test_the_patch_leads_from_one_to_the_other_exactly(documents: Strategy, data: st.DataObject) -> None:
    before = data.draw(documents)
    after = edited(data.draw, before, documents) if data.draw(st.booleans()) else data.draw(documents)
    if not isinstance(after, dict):
        after = {"v": after}
    kept = copy.deepcopy((before, after))
    patch = diff(before, after)
    assert same(apply_patch(before, patch), after)
    assert same([before, after], list(kept)), "diff changed its input"
    assert (patch == []) == same(before, after)


@given(st.data())
def test_any_json_patch_library_comes_to_the_same_json(documents: Strategy, data: st.DataObject) -> None:
    before = data.draw(documents)
    after = edited(data.draw, before, documents)
    if not isinstance(after, dict):
        after = {"v": after}
    patch = json.loads(to_json(diff(before, after)))
    result = jsonpatch.apply_patch(to_tree(before), patch)
    assert same(result, to_tree(after))


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 8), st.lists(st.integers(0, 3), max_size=3))
def test_an_edit_at_one_place_of_an_array_costs_no_more_than_it_changed(
    items: list[int], at: int, inserted: list[int]
) -> None:
    at = min(at, len(items))
    longer = items[:at] + inserted + items[at:]
    assert len(diff({"l": items}, {"l": longer})) == len(inserted)
    assert len(diff({"l": longer}, {"l": items})) == len(inserted)


alike = st.sampled_from(
    [0, False, 0.0, -0.0, Int64(0), math.nan, "", {"a": 0, "b": 1}, {"b": 1, "a": 0}, {"a": 0.0, "b": 1}]
).map(copy.copy)  # the same object twice would be patched in both places


@given(st.lists(alike, max_size=12), st.lists(alike, max_size=12), st.integers(0, 12))
def test_values_that_look_alike_are_distinguished(before: list[Any], after: list[Any], shared: int) -> None:
    after = before[:shared] + after
    patch = diff({"l": before}, {"l": after})
    assert same(apply_patch({"l": before}, patch), {"l": after})
    assert (patch == []) == same(before, after)
    assert diff({"l": before}, {"l": after}, {"l": shared}) == patch
