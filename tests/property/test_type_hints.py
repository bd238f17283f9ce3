from __future__ import annotations

from typing import Any

import bson
from bson.binary import Binary
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.patches.diff import diff
from eventsync.domain.values.extended_json import CODEC, decode, parse_json, same, to_json
from eventsync.domain.values.type_hints import from_tree_with_hints, type_hints_of
from support.documents import pairs
from support.replica import to_tree

Strategy = st.SearchStrategy[Any]

_ODD = st.sampled_from(
    [
        {"$numberLong": "5"}, {"$a": 1, "b": [{"$oid": Int64(1)}]}, {"$ref": "x"},
        {"$binary": {"base64": "", "subType": "04"}},
        Binary(b"short", 4), Binary(b"sixteen bytes: 4", 3), Int64(0), Int64(2**31), Int64(2**31 - 1), Int64(-(2**31)),
    ]
)  # fmt: skip


@given(st.data())
def test_with_its_marks_any_document_reads_back_exactly(documents: Strategy, data: st.DataObject) -> None:
    document = data.draw(documents)
    document |= data.draw(st.dictionaries(st.sampled_from(["$x", "a/b", "~1"]), st.lists(_ODD) | _ODD))
    assert same(from_tree_with_hints(to_tree(document), type_hints_of(document)), document)


@given(st.data())
def test_values_without_marks_are_exact(relaxed_documents: Strategy, data: st.DataObject) -> None:
    assert type_hints_of(data.draw(relaxed_documents)) == []


@given(pairs())
def test_a_patch_with_its_marks_reads_back_exactly(pair: tuple[Any, Any]) -> None:
    patch = diff(*pair)
    assert same(from_tree_with_hints(parse_json(to_json(patch)), type_hints_of(patch)), patch)


@given(st.binary(max_size=20), st.uuids())
def test_values_that_fail_strict_decoding_read_back_as_decoded(text: bytes, name: Any) -> None:
    plain = bson.encode({"_id": 1, "u": name, "n": Int64(3), "s": "x" * len(text)}, codec_options=CODEC)
    document = decode(plain.replace(b"x" * len(text) + b"\0\0", text + b"\0\0"))
    assert same(from_tree_with_hints(to_tree(document), type_hints_of(document)), document)
