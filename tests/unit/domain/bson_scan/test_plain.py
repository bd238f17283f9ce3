from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.bson_scan.plain import TYPES, is_plain
from eventsync.domain.values.extended_json import CODEC


def plain(value: Any, int64s: int = 0) -> bool:
    return is_plain(bson.encode({"list": [{"field": value}]}, codec_options=CODEC), int64s)


@pytest.mark.parametrize(
    "value",
    [1, -1, 2.5, "text", "$5", True, None, ObjectId("6" * 24), datetime(2026, 1, 1, tzinfo=UTC), Decimal128("1.10"),
     b"bytes", Int64(2**32), Int64(-(2**32) - 1), Int64(2**62), {"a$": 1}, [1, [2]]],
)  # fmt: skip
def test_common_values_are_plain(value: Any) -> None:
    assert plain(value)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, uuid.UUID(int=7), Binary(b"abc", UUID_SUBTYPE), {"$oid": "x"}, {"a": {"$": 1}},
     DBRef("docs", Int64(1)), Code("f()", {"n": Int64(1)}), Int64(0), Int64(-1), Int64(2**31 - 1), Int64(-(2**31))],
)  # fmt: skip
def test_values_with_type_hints_or_another_spelling_are_not_plain(value: Any) -> None:
    assert not plain(value)


LOOKS_LIKE_A_NAME = Int64.from_bytes(b"\x02$ref\0ab", "little")


@pytest.mark.parametrize(
    "beside", [2.5, ObjectId("6" * 24), Decimal128("1.10"), b"bytes", Int64(2**40), {"a$": "text"}]
)
def test_bytes_that_look_like_a_name_are_checked_against_the_values(beside: Any) -> None:
    found = [Int64(LOOKS_LIKE_A_NAME), beside]
    raw = bson.encode({"list": found}, codec_options=CODEC)
    assert not is_plain(raw)
    assert is_plain(raw, decoded=bson.decode(raw, CODEC))


@pytest.mark.parametrize("name", [{"$oid": "x"}, {"a": [{"$": 1}]}, DBRef("docs", 1), Code("f()", {"$a": 1})])
def test_and_is_a_name_where_there_is_one(name: Any) -> None:
    raw = bson.encode({"list": [1, name]}, codec_options=CODEC)
    assert not is_plain(raw, decoded=bson.decode(raw, CODEC))


def test_values_that_cannot_be_checked_are_not_plain() -> None:
    raw = bson.encode({"list": [Int64(LOOKS_LIKE_A_NAME)]})
    assert not is_plain(raw, decoded={"beyond 64 bits": 2**70})


def test_short_int64s_that_are_known_do_not_count() -> None:
    assert plain(Int64(5), int64s=1)
    assert not plain([Int64(5), Int64(6)], int64s=1)
    assert plain([Int64(5), Int64(6)], int64s=2)


@pytest.mark.parametrize("kind", TYPES)
def test_many_bytes_that_look_like_types_are_read_once(kind: int) -> None:
    """With a search that begins again at each of them, this would take hours."""
    among = [Binary(bytes([kind]) * 2**20), 2.5, "\x7f" + chr(kind & 0x7F) * 2**20]
    assert plain(among, int64s=1) or kind == 0x13  # what follows the bytes looks like such a value
    assert not plain([*among, math.nan])
    assert not plain([*among, uuid.UUID(int=7)])
    assert not plain([*among, Decimal128("NaN")])
    assert not plain([*among, Int64(5), Int64(6)], int64s=1)


@pytest.mark.parametrize("value", [{"$oid": "x"}, math.nan, -math.inf])
def test_an_odd_value_is_found_among_many_bytes_that_look_like_it(value: Any) -> None:
    text = "$ \x7f " * 100
    among = [text, Binary(b"\xff" * 200), 2.5]
    assert plain(among)
    assert not plain([*among, value])
    assert not plain([value, *among])


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -math.nan])
def test_doubles_that_only_look_odd_are_plain(odd: float) -> None:
    near = math.copysign(1.7976931348623157e308, odd)
    assert plain([near, 2.5] * 100)
    assert not plain([near, odd] * 100)
