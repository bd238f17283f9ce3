"""Strategies that several property tests share."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "d", "", "0", "1", "-", "a.b", "~", "/", "~1", "__proto__", "é"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), max_size=4),
)
FIRST, BEYOND = -62135596800000, 253402300800000
DATES = st.one_of(
    st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)),
    st.integers(-(10**8), 10**8).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.one_of(st.integers(-(2**63), FIRST - 1), st.integers(BEYOND, 2**63 - 1)).map(DatetimeMS),
)
DECIMALS = st.one_of(
    st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "-0", "1.00", "-0E-6176", "9E+6111"]),
    st.builds("{}E{}".format, st.integers(-(10**34) + 1, 10**34 - 1), st.integers(-6000, 6000)),
).map(Decimal128)
BINARIES = st.builds(
    lambda data, subtype: data if subtype == 0 else Binary(data, subtype),
    st.binary(max_size=8),
    st.sampled_from([0, 1, 2, 3, 5, 6, 7, 8, 9, 0x80, 0xFF]),
)
EXACT: list[Strategy] = [
    st.none(),
    st.booleans(),
    TEXT,
    st.integers(-(2**31), 2**31 - 1),
    st.floats(),
    st.just(-0.0),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    DATES,
    DECIMALS,
    BINARIES,
    st.binary(min_size=16, max_size=16).map(lambda data: uuid.UUID(bytes=data)),
    st.builds(Regex, TEXT.filter(lambda text: "\0" not in text), st.sets(st.sampled_from("ilmsux")).map("".join)),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.builds(Code, TEXT),
    st.just(MinKey()),
    st.just(MaxKey()),
]
"""Leaves whose type relaxed Extended JSON keeps exactly."""

WIDE = st.one_of(st.integers(-(2**63), -(2**31) - 1), st.integers(2**31, 2**63 - 1)).map(Int64)
NARROW = st.integers(-(2**31), 2**31 - 1).map(Int64)


def _nested(leaves: Strategy) -> Strategy:
    def within(children: Strategy) -> Strategy:
        fields = st.dictionaries(NAMES, children, max_size=4)
        references = st.builds(
            lambda name, key, rest: DBRef(name, key, **rest), TEXT, children, st.just({}) | st.just({"x": 1.5})
        )
        return st.one_of(st.lists(children, max_size=4), fields, references, st.builds(Code, TEXT, fields))

    return st.dictionaries(NAMES, st.recursive(leaves, within, max_leaves=12), max_size=5)


@pytest.fixture(scope="session")
def relaxed_documents() -> Strategy:
    """Documents of all BSON types that relaxed Extended JSON can tell apart: int64 only beyond the range of int32."""
    return _nested(st.one_of(*EXACT, WIDE))


@pytest.fixture(scope="session")
def documents() -> Strategy:
    """Documents of all BSON types."""
    return _nested(st.one_of(*EXACT, WIDE, NARROW))
