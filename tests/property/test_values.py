from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import bson
import pytest
from bson import json_util
from bson.binary import UuidRepresentation
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from hypothesis import assume, example, given
from hypothesis import strategies as st

from eventsync.domain.entity_tag import digest_of
from eventsync.domain.patches.json_patch import equal
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import (
    CODEC,
    MAX_DEPTH,
    RAW_CODEC,
    check_depth,
    decode,
    from_tree,
    parse_json,
    same,
    to_json,
)
from eventsync.domain.values.json_document import converted
from eventsync.domain.values.type_wrappers import INT32_MAX, INT32_MIN
from eventsync.errors import Malformed
from eventsync.nodestorage import Author, Create, JsonDocument, WritePolicy
from eventsync.nodestorage.intent import Insert, intent_of
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


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """JSON as clients spell it: keys that come twice, escapes, colons in texts, and long or deep values."""
    names = st.sampled_from(['"a"', '"b"', '"a:b"', r'"\u0061"', r'"\u003a"', r'"\""', '""'])
    numbers = st.one_of(
        st.integers(-(2**65), 2**65).map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.sampled_from(["-0", "-0.0", "1E400", "9223372036854775807", "-9223372036854775808", "9223372036854775808"]),
    )
    blanks = st.sampled_from(["", " ", "\n"])

    def containers(inner: Strategy) -> Strategy:
        members = st.tuples(names, blanks, inner).map(lambda each: f"{each[0]}{each[1]}:{each[2]}")
        arrays = st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        return arrays | st.lists(members, max_size=4).map(lambda items: "{" + ",".join(items) + "}")

    scalars = numbers | names | st.sampled_from(["true", "null"])
    texts: Strategy = st.recursive(scalars, containers, max_leaves=12)
    depth = draw(st.sampled_from([0] * 9 + [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1]))
    text: str = draw(texts)
    return ("[" * depth + text + "]" * depth).encode()


def strictly(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@given(json_texts())
@example(rb'{"a": 1, "a": 2}')
@example(rb'{"a": 1, "\u0061": 2}')
@example(rb'{"a:b": 1, "a": 2, "a": "\u003a"}')
@example(rb'{"a": [9223372036854775807, -9223372036854775808]}')
@example(rb'{"a": 9223372036854775808}')
@example(rb'{"a": 9223372036854775809}')
@example(rb'{"a": -18446744073709551616}')
@example(rb'{"a": 18446744073709552000}')
def test_json_is_read_exactly_or_refused(text: bytes) -> None:
    try:
        expected = json.loads(text, object_pairs_hook=strictly, parse_int=number_of)
        assert not any(number == math.inf for number in leaves(expected))
        check_depth(expected)
    except (AssertionError, Malformed):
        with pytest.raises(Malformed):
            parse_json(text)
    else:
        assert same(parse_json(text), expected)


def number_of(digits: str) -> int | float:
    """Return an int64, or a double with these digits."""
    number = int(digits)
    if -(2**63) <= number < 2**63:
        return number
    assert Decimal(repr(float(number))) == number or float(number) == number
    return float(number)


def leaves(tree: Any) -> list[Any]:
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else None
    return [tree] if items is None else [leaf for item in items for leaf in leaves(item)]


@given(st.data())
def test_documents_of_json_are_those_that_are_stored(documents: Strategy, data: st.DataObject) -> None:
    document = data.draw(documents)
    assume(all(type(value) is not bson.Timestamp or value.time or value.inc for value in document.values()))
    tree = to_tree(document) | {"_id": 1}
    author = Author("tester", "operation-1")
    created = intent_of(Create("c", JsonDocument(tree)), WritePolicy()).decide(None, author)
    assert isinstance(created.write, Insert)
    stamp, stored = unstamp(decode(created.write.document.raw))
    assert stamp == (1, "operation-1", "tester", False)
    assert list(stored) == list(created.result.document)
    assert same(stored, created.result.document)
    assert digest_of(stored) == created.result.digest


@given(st.data())
def test_read_values_can_be_stored_and_read_again(documents: Strategy, data: st.DataObject) -> None:
    document = data.draw(documents)
    raw = bson.encode(document, codec_options=CODEC)
    assert same(decode(raw), document)
    # BSON of a document begins with its id.
    stored = {"_id": document["_id"], **document} if "_id" in document else document
    assert to_json(RawBSONDocument(raw, RAW_CODEC)) == to_json(decode(raw)) == to_json(stored)


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
    returned, tree = parse_json(to_json(old)), parse_json(to_json(new))
    assert same(converted(old, returned, from_tree(returned)), old)
    assert same(converted({}, tree, from_tree(tree)), from_tree(tree))
    assert equal(parse_json(to_json(converted(old, tree, from_tree(tree)))), tree)


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
