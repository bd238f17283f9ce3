"""Entity tags name a state: content and types, and nothing else."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from bson.binary import Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from eventsync.domain.entity_tag import digest_of, entity_tag

ONE = uuid.UUID(int=1)
VALUES: list[Any] = [
    *(1, 1.0, Int64(1), True, "1", None, False, 0, 0.0, -0.0, "", "null", [], {}, [1], {"0": 1}, [[]], [None]),
    *(float("nan"), float("inf"), float("-inf"), Decimal128("NaN"), Decimal128("5"), Decimal128("5.0")),
    *(ONE, str(ONE), Binary(ONE.bytes, 3), Binary(b"a", 4), b"a", Binary(b"a", 128), "YQ=="),
    *(ObjectId("0" * 24), {"$oid": "0" * 24}, "0" * 24, {"$numberLong": "1"}, {"$numberDouble": "NaN"}),
    *(datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z", {"$date": "2026-01-01T00:00:00Z"}, DatetimeMS(2**60)),
    *(Code("f"), "f", Code("f", {}), Code("f", {"a": ONE}), Code("f", {"a": str(ONE)}), Code("f", {"a": float("nan")})),
    *(DBRef("c", 1), DBRef("c", ONE), DBRef("c", str(ONE)), DBRef("c", 1, "d"), Regex("a", "i"), Regex("a"), "/a/"),
    *(Timestamp(1, 2), MinKey(), MaxKey()),
]


def test_every_difference_in_value_or_type_makes_another_tag() -> None:
    assert len({digest_of({"v": value}) for value in VALUES}) == len(VALUES)
    assert len({digest_of({"v": [{"w": value}]}) for value in VALUES}) == len(VALUES)


def test_names_and_places_count() -> None:
    different: list[dict[str, Any]] = [
        {},
        {"a": 1},
        {"b": 1},
        {"a": {"a": 1}},
        {"a": [1]},
        {"a": 1, "b": 1},
        {"a": [1, 2]},
        {"a": [2, 1]},
    ]
    assert len({digest_of(document) for document in different}) == len(different)


@pytest.mark.parametrize("odd", [float("nan"), ONE, Int64(1), "x"])
def test_the_order_of_fields_does_not(odd: object) -> None:
    one = {"a": 1, "b": {"c": odd, "d": [{"e": 1, "f": 2}]}}
    two = {"b": {"d": [{"f": 2, "e": 1}], "c": odd}, "a": 1}
    assert digest_of(one) == digest_of(two)


def test_the_zone_that_a_date_is_read_in_does_not() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    elsewhere = at.astimezone(timezone(timedelta(hours=2)))
    assert digest_of({"at": at}) == digest_of({"at": elsewhere}) == digest_of({"at": at.replace(tzinfo=None)})


def test_the_form() -> None:
    assert re.fullmatch(r'"7\.[0-9a-f]{16}"', entity_tag(7, digest_of({})))
