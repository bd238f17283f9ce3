from __future__ import annotations

import json
from typing import Any

import bson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from hypothesis import assume, given
from hypothesis import strategies as st

from eventsync.domain.values.extended_json import (
    CODEC,
    MAX_DEPTH,
    RAW_CODEC,
    check_depth,
    decode,
    from_tree,
    keep_types,
    parse_json,
    same,
    to_json,
)
from eventsync.domain.values.type_wrappers import INT32_MAX, INT32_MIN
from eventsync.errors import Malformed
from support.replica import to_tree

Strategy = st.SearchStrategy[Any]


def narrowed(value: Any) -> Any:
    """Return a value as relaxed Extended JSON reads it back: a small int64 becomes an int32. Nothing else is lost."""
    if isinstance(value, dict):
        return {name: narrowed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [narrowed(item) for item in value]
    if type(value) is Int64 and INT32_MIN <= value <= INT32_MAX:
        return int(value)
    if isinstance(value, bson.DBRef):
        doc = narrowed(dict(value.as_doc()))
        return bson.DBRef(doc.pop("$ref"), doc.pop("$id"), doc.pop("$db", None), doc)
    if isinstance(value, bson.Code) and value.scope is not None:
        return bson.Code(str(value), narrowed(dict(value.scope)))
    return value


@given(st.data())
def test_relaxed_extended_json_round_trips_exactly(relaxed_documents: Strategy, data: st.DataObject) -> None:
    document = data.draw(relaxed_documents)
    assert same(from_tree(parse_json(to_json(document))), document)


@given(st.data())
def test_relaxed_extended_json_loses_the_width_of_small_int64_and_nothing_else(
    documents: Strategy, data: st.DataObject
) -> None:
    document = data.draw(documents)
    assert same(from_tree(parse_json(to_json(document))), narrowed(document))


@given(st.data())
def test_canonical_extended_json_round_trips_exactly(documents: Strategy, data: st.DataObject) -> None:
    document = data.draw(documents)
    options = json_util.CANONICAL_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)
    canonical = json_util.dumps(document, json_options=options)
    assert same(from_tree(parse_json(canonical.encode())), document)


@given(st.data())
def test_read_values_can_be_stored_and_read_again(documents: Strategy, data: st.DataObject) -> None:
    document = data.draw(documents)
    raw = bson.encode(document, codec_options=CODEC)
    assert same(decode(raw), document)
    assert to_json(RawBSONDocument(raw, RAW_CODEC)) == to_json(decode(raw)) == to_json(document)


@given(st.data())
def test_the_json_says_what_the_drivers_own_encoder_says(documents: Strategy, data: st.DataObject) -> None:
    document = data.draw(documents)
    options = json_util.RELAXED_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)
    reference = json_util.dumps(document, json_options=options)
    # The driver writes NaN as a wrapper too, -0.0 as a number, and dates always with milliseconds.
    assert same(to_tree(from_tree(json.loads(reference))), to_tree(document))


@given(st.data())
def test_sameness_is_an_equivalence_that_encoding_respects(documents: Strategy, data: st.DataObject) -> None:
    one, other = data.draw(documents), data.draw(documents)
    assert same(one, one)
    assert same(one, other) == same(other, one)
    if bson.encode(one, codec_options=CODEC) == bson.encode(other, codec_options=CODEC):
        assert same(one, other)


@given(st.data())
def test_keeping_types_changes_no_value(documents: Strategy, data: st.DataObject) -> None:
    old, new = data.draw(documents), data.draw(documents)
    kept = keep_types(old, new)
    assert same(keep_types(old, old), old)
    assert same(keep_types({}, new), new)
    assert json.loads(to_json(narrowed(kept)), parse_float=float) == json.loads(to_json(narrowed(new)))


@given(st.recursive(st.integers(0, 9), lambda inner: st.lists(inner, max_size=2) | st.fixed_dictionaries({"a": inner})))
def test_depth_is_the_longest_way_down(tree: Any) -> None:
    def depth(node: Any) -> int:
        items = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
        return 1 + max(map(depth, items)) if items else 0

    check_depth(tree, depth(tree))
    assume(depth(tree) > 0)
    try:
        check_depth(tree, depth(tree) - 1)
    except Malformed:
        return
    raise AssertionError("too deep, and taken")


@given(st.binary(max_size=40))
def test_noise_is_refused_or_read_never_worse(noise: bytes) -> None:
    try:
        tree = parse_json(noise)
    except Malformed:
        return
    assert json.loads(noise) == tree
    check_depth(tree, MAX_DEPTH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["$oid", "$date", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$binary", "base64",
                 "subType", "$uuid", "$code", "$scope", "$ref", "$id", "$db", "$timestamp", "t", "i", "$minKey", "a",
                 "$regularExpression", "pattern", "options", "$undefined", "$ne", ""]
            ),
            inner, max_size=3,
        )
    ),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_any_json_is_read_into_bson_or_refused(tree: Any) -> None:
    try:
        value = from_tree(parse_json(json.dumps(tree).encode()))
    except Malformed:
        return
    assert same(decode(bson.encode({"v": value}, codec_options=CODEC))["v"], value)
