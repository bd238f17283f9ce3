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

from app.domain.plainness import is_plain
from app.domain.values import CODEC


def plain(value: Any, int64s: int = 0) -> bool:
    return is_plain(bson.encode({"list": [{"field": value}]}, codec_options=CODEC), int64s)


@pytest.mark.parametrize(
    "value",
    [1, -1, 2.5, "text", "$5", True, None, ObjectId("6" * 24), datetime(2026, 1, 1, tzinfo=UTC), Decimal128("1.10"),
     b"bytes", Int64(2**32), Int64(-(2**32) - 1), Int64(2**62), {"a$": 1}, [1, [2]]],
)  # fmt: skip
def test_what_nearly_all_documents_are_made_of_is_plain(value: Any) -> None:
    assert plain(value)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, uuid.UUID(int=7), Binary(b"abc", UUID_SUBTYPE), {"$oid": "x"}, {"a": {"$": 1}},
     DBRef("docs", Int64(1)), Code("f()", {"n": Int64(1)}), Int64(0), Int64(-1), Int64(2**31 - 1), Int64(-(2**31))],
)  # fmt: skip
def test_what_needs_a_mark_or_another_spelling_is_not(value: Any) -> None:
    assert not plain(value)


def test_short_int64s_that_are_known_do_not_count() -> None:
    assert plain(Int64(5), int64s=1)
    assert not plain([Int64(5), Int64(6)], int64s=1)
    assert plain([Int64(5), Int64(6)], int64s=2)
