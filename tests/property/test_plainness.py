"""A document that is plain by its bytes is plain: walking through it finds nothing."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Any

import bson
import orjson
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.bson_scan.plain import is_plain
from eventsync.domain.values.extended_json import CODEC, longer_than, to_json
from eventsync.domain.values.type_hints import type_hints_of

names = st.one_of(
    st.sampled_from(["v", "$a", "a", "", "_sync", "$", "é"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**31), 2**31 - 1), st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(-(2**63), 2**63 - 1).map(Int64), st.integers(-(2**31), 2**31).map(Int64), st.floats(), st.uuids(),
    st.binary().map(bytes), st.builds(Binary, st.binary(), st.sampled_from([0, 3, 5, 128])), st.datetimes(),
)  # fmt: skip
documents = st.dictionaries(
    names,
    st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
        max_leaves=12,
    ),
    max_size=6,
)


def odd(value: Any) -> Iterator[Any]:
    """Yield the values that orjson alone would misread."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from odd(item)
    elif isinstance(value, uuid.UUID) or (isinstance(value, float) and not math.isfinite(value)):
        yield value


@given(documents)
def test_a_plain_document_has_no_type_hints_and_nothing_odd(document: dict[str, Any]) -> None:
    raw = bson.encode(document, codec_options=CODEC)
    read = bson.decode(raw, CODEC)
    if is_plain(raw, decoded=read):
        assert type_hints_of(read) == []
        assert list(odd(read)) == []
        assert to_json(read, plain=True) == to_json(read)
    assert is_plain(raw, decoded=read) or not is_plain(raw)


@given(documents, st.integers(-(2**31), 2**31 - 1))
def test_a_short_int64_more_than_known_is_never_overlooked(document: dict[str, Any], number: int) -> None:
    raw = bson.encode({**document, "_sync": {"v": Int64(1)}, "more": Int64(number)}, codec_options=CODEC)
    assert not is_plain(raw, int64s=1)


@given(documents, st.integers(0, 400))
def test_a_document_that_is_certainly_longer_is_longer(document: dict[str, Any], length: int) -> None:
    read = bson.decode(bson.encode(document, codec_options=CODEC), CODEC)
    assert not longer_than(read, length) or len(to_json(read)) > length


def test_a_long_document_is_longer() -> None:
    assert longer_than({"a": ["x" * 50, {"b": "y" * 50}]}, 100)


@given(st.binary(min_size=16, max_size=16).map(Decimal128.from_bid))
def test_a_decimal_is_written_as_the_driver_writes_it(value: Decimal128) -> None:
    assert orjson.loads(to_json(value)) == {"$numberDecimal": str(value)}


@given(st.decimals(places=2, min_value=-(10**9), max_value=10**9).map(Decimal128))
def test_so_is_an_everyday_one(value: Decimal128) -> None:
    assert orjson.loads(to_json(value)) == {"$numberDecimal": str(value)}
