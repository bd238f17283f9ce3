"""JSON Patch against our own diff, and against arbitrary nonsense."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.patches.diff import diff
from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.values.extended_json import Document, same
from eventsync.errors import Malformed, PatchFailed, TooLarge
from support.documents import documents, pairs
from support.replica import to_tree

_POINTERS = st.lists(st.sampled_from(["a", "b", "0", "1", "-", "01", "~0", "~1", "_id", "_sync", ""]), max_size=3).map(
    lambda tokens: "".join(f"/{token}" for token in tokens)
)
_TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab$", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "$oid", "0"]), inner),
    max_leaves=5,
)
_OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]), "path": _POINTERS},
    optional={"from": _POINTERS, "value": _TREES},
)


def assert_only_touched(before: Document, after: Document, touched: Container[str]) -> None:
    for name in before.keys() | after.keys():
        assert name in touched or same(before[name], after[name])


@given(pairs(odd=False))
def test_our_own_differences_apply(pair: tuple[Document, Document]) -> None:
    before, after = pair
    patch = to_tree(diff(before, after))
    result = JsonPatch(patch).prepared(operations=1000, document_bytes=10_000, steps=100_000)(before)
    # Not `same`: a plain number in JSON does not say whether it was an int32, an int64 or a double.
    assert to_tree(result) == to_tree(after)


@given(documents(), st.lists(_OPERATIONS | _TREES, max_size=6))
def test_any_patch_applies_or_is_refused_and_leaves_the_document(document: Document, operations: Any) -> None:
    untouched = copy.deepcopy(document)
    patch = JsonPatch(operations)
    try:
        result = patch.prepared(operations=5, document_bytes=1000, steps=100_000)(document)
    except (Malformed, PatchFailed, TooLarge):
        result = {}
    else:
        assert_only_touched(document, result, patch.touched())
    assert isinstance(result, dict)
    assert "_id" not in result
    assert "_sync" not in result
    assert same(document, untouched)


@given(documents(), st.dictionaries(st.sampled_from(["a", "b", "c"]), _TREES))
def test_a_merge_patch_applies_or_is_refused_and_is_idempotent(document: Document, patch: Any) -> None:
    untouched = copy.deepcopy(document)
    try:
        apply = MergePatch(patch).prepared()
    except Malformed:
        return
    once = apply(document)
    assert_only_touched(document, once, MergePatch(patch).touched())
    assert same(apply(once), once)
    assert same(document, untouched)
