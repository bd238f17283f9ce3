"""A document of any bytes can be read, written as JSON, and read back the same."""

from __future__ import annotations

from itertools import islice
from typing import Any

import bson
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.bson_scan.opaque import (
    MAX_STORED_DEPTH,
    OddDocument,
    Opaque,
    UnreadableDocument,
    encode,
    is_odd,
    read,
)
from eventsync.domain.ids import format_id, parse_id
from eventsync.domain.patches.diff import diff
from eventsync.domain.replay import patched
from eventsync.domain.values.extended_json import CODEC, decode, parse_json, same, to_json
from eventsync.domain.values.json_document import JsonDocument
from eventsync.domain.values.type_hints import from_tree_with_hints, type_hints_of
from eventsync.errors import Malformed
from support.mutants import ODD, ODD_IDS, deep, framed, mutants

KEY = b"\x10_id\0\1\0\0\0"


def check(raw: bytes) -> Any:
    """The log and a snapshot keep exactly the document."""
    document = decode(raw)
    kept = orjson.loads(to_json({"doc": document}))["doc"]
    found = from_tree_with_hints(kept, type_hints_of(document))
    assert same(found, document), (document, found)
    if not isinstance(document, UnreadableDocument):
        assert same(decode(encode(document)), document)
    return document


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    assert isinstance(check(raw), dict)


@given(st.integers(min_value=0))
def test_bytes_that_are_nearly_bson(seed: int) -> None:
    for raw in islice(mutants(seed, KEY), 5):
        check(raw)


@given(st.lists(st.sampled_from(sorted(ODD)), min_size=1, max_size=4), st.booleans())
def test_odd_values_side_by_side(names: list[str], within: bool) -> None:
    elements = [ODD[name] for name in names]
    check(framed(KEY, b"\x03in\0" + framed(*elements)) if within else framed(KEY, *elements))


@pytest.mark.parametrize("name", sorted(ODD))
def test_an_odd_value_keeps_its_bytes(name: str) -> None:
    raw = framed(KEY, ODD[name])
    document = check(raw)
    if is_odd(document):
        assert encode(document) == raw


@pytest.mark.parametrize("name", sorted(ODD))
def test_the_other_fields_are_what_they_are(name: str) -> None:
    document = decode(framed(KEY, ODD[name], b"\x12n\0" + b"\5" + b"\0" * 7))
    assert document["_id"] == 1
    assert same(document["n"], bson.Int64(5))


NO_JSON = frozenset({
    "a reference to nothing", "a reference with a name of its own", "a reference with dollars",
    "what looks like an opaque value",
    "two field names that read alike",
})  # fmt: skip
"""Objects that look like a type and are none are refused in a write. Of two names that read alike a client has one."""


@pytest.mark.parametrize("name", sorted(ODD.keys() - NO_JSON))
@pytest.mark.parametrize("within", [False, True])
def test_an_opaque_value_sent_back_as_shown_stays_as_it_is(name: str, within: bool) -> None:
    element = ODD[name] if not within else b"\x03in\0" + framed(b"\x040\0" + framed(b"\x030\0" + framed(ODD[name])))
    document = decode(framed(KEY, element))
    shown = parse_json(to_json(document))
    after = JsonDocument(shown).in_place_of(document)
    assert same(after, {**document})


@given(st.integers(min_value=0))
def test_a_patch_between_two_of_them_is_exact(seed: int) -> None:
    before, after = (decode(raw) for raw in islice(mutants(seed, KEY), 2))
    if isinstance(before, OddDocument) or isinstance(after, OddDocument):
        return  # told as a whole
    patch = diff(before, after)
    read_back = from_tree_with_hints(orjson.loads(to_json(patch)), type_hints_of(patch))
    assert same(patched(decode(encode(before)), read_back), after)


@pytest.mark.parametrize("name", sorted(ODD_IDS))
def test_an_odd_id_has_a_text_of_its_own(name: str) -> None:
    value = decode(framed(ODD_IDS[name]))["_id"]
    assert same(parse_id(format_id(value)), value) or format_id(value) == 'ejson:{"$numberDecimal":"NaN"}'
    others = {format_id(decode(framed(element))["_id"]) for element in ODD_IDS.values()}
    assert len(others) == len(ODD_IDS)


@pytest.mark.parametrize("levels", [MAX_STORED_DEPTH - 1, MAX_STORED_DEPTH, MAX_STORED_DEPTH + 1, 900, 5000])
def test_values_that_nest_too_deep_are_kept_as_bytes(levels: int) -> None:
    raw = framed(KEY, deep(levels))
    assert encode(check(raw)) == raw
    plain = b"\x10n\0\1\0\0\0"
    for _ in range(levels):
        plain = b"\x03a\0" + framed(plain)
    raw = framed(KEY, plain)
    assert is_odd(check(raw)) == (levels > MAX_STORED_DEPTH)
    assert encode(check(raw)) == raw


def test_a_document_that_has_no_fields_to_tell() -> None:
    raw = framed(KEY, b"\x20v\0abc")
    document = check(raw)
    assert isinstance(document, UnreadableDocument)
    assert document == {"_id": 1, "$opaque": Opaque(3, raw)}


@pytest.mark.parametrize("kind", ["02", "03", "05", "0b", "20", "10"])
def test_bytes_of_another_length_are_refused(kind: str) -> None:
    with pytest.raises(Malformed):
        parse_id(f'ejson:{{"$opaque":{{"type":"{kind}","base64":"AAAA"}}}}')


def test_readable_documents_are_read_as_by_the_driver() -> None:
    raw = bson.encode({"a": [1, {"b": bson.DBRef("c", 1)}], "d": bson.Int64(1)})
    assert same(read(raw), bson.decode(raw, CODEC))
