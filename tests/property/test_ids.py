from __future__ import annotations

import math
from typing import Any

from bson import Int64, Regex
from hypothesis import assume, given
from hypothesis import strategies as st

from eventsync.domain.ids import MAX_ID_BYTES, MAX_READ_BYTES, check_id, format_id, parse_id
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import same, to_json
from eventsync.errors import Malformed

Strategy = st.SearchStrategy[Any]


@given(st.data())
def test_every_id_comes_back_from_its_text(relaxed_documents: Strategy, data: st.DataObject) -> None:
    value = next(iter(data.draw(relaxed_documents.filter(bool)).values()))
    assume(not isinstance(value, list | Regex) and len(format_id(value).encode()) <= MAX_READ_BYTES)
    assert same(parse_id(format_id(value)), value)
    assert "\0" not in format_id(value)
    assert format_id(value) not in {".", ".."}
    if value is not None and len(format_id(value).encode()) <= MAX_ID_BYTES:
        assert check_id(value) is value


@given(st.text(min_size=1, max_size=30) | st.from_regex(r"(int|str|uuid|ejson):[0-9a-f{}\":$ -]{0,40}", fullmatch=True))
def test_any_text_is_refused_or_has_one_canonical_form(text: str) -> None:
    try:
        value = parse_id(text)
    except Malformed:
        return
    canonical = format_id(value)
    assert format_id(parse_id(canonical)) == canonical
    shape = Shape.parse(f"orders/{text}")
    assert shape == Shape.parse(str(shape))
    assert shape.id == canonical


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_are_one_id_whatever_their_width(number: int) -> None:
    assert format_id(Int64(number)) == f"int:{number}"
    parsed = parse_id(f"int:{number}")
    assert parsed == number
    assert (type(parsed) is int) == (-(2**31) <= number < 2**31)


@given(st.data())
def test_different_ids_have_different_texts(relaxed_documents: Strategy, data: st.DataObject) -> None:
    one, other = (next(iter(data.draw(relaxed_documents.filter(bool)).values())) for _ in range(2))
    if format_id(one) == format_id(other):
        both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
        assert both_nan or to_json(one) == to_json(other)
