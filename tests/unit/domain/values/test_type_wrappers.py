from __future__ import annotations

import base64
import math
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS

from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.values.extended_json import CODEC, from_tree, same
from eventsync.errors import Malformed

OID = "0123456789abcdef01234567"
UUID_TEXT = "6f1c3b9a-0d5e-4c21-9b7f-1a2b3c4d5e6f"


def b64(data: bytes, subtype: str) -> dict[str, Any]:
    return {"$binary": {"base64": base64.b64encode(data).decode(), "subType": subtype}}


READ = [
    ({"$oid": OID}, ObjectId(OID)),
    ({"$oid": OID.upper()}, ObjectId(OID)),
    ({"$numberInt": "-5"}, -5),
    ({"$numberInt": "2147483647"}, 2**31 - 1),
    ({"$numberLong": "5"}, Int64(5)),
    ({"$numberLong": "-9223372036854775808"}, Int64(-(2**63))),
    ({"$numberLong": "9223372036854775807"}, Int64(2**63 - 1)),
    ({"$numberDouble": "5"}, 5.0),
    ({"$numberDouble": "-0.0"}, -0.0),
    ({"$numberDouble": "1.5E+300"}, 1.5e300),
    ({"$numberDouble": "NaN"}, math.nan),
    ({"$numberDouble": "Infinity"}, math.inf),
    ({"$numberDouble": "-Infinity"}, -math.inf),
    ({"$numberDecimal": "1.00"}, Decimal128("1.00")),
    ({"$numberDecimal": "NaN"}, Decimal128("NaN")),
    ({"$numberDecimal": "-Infinity"}, Decimal128("-Infinity")),
    ({"$numberDecimal": "-0E-6176"}, Decimal128("-0E-6176")),
    (b64(b"ab", "00"), b"ab"),
    (b64(b"ab", "0"), b"ab"),
    (b64(b"", "05"), Binary(b"", 5)),
    (b64(b"x" * 16, "03"), Binary(b"x" * 16, 3)),
    (b64(b"ab", "80"), Binary(b"ab", 0x80)),
    (b64(uuid.UUID(UUID_TEXT).bytes, "04"), uuid.UUID(UUID_TEXT)),
    ({"$uuid": UUID_TEXT}, uuid.UUID(UUID_TEXT)),
    ({"$regularExpression": {"pattern": "^a", "options": "imsx"}}, Regex("^a", "imsx")),
    ({"$timestamp": {"t": 4294967295, "i": 1}}, Timestamp(4294967295, 1)),
    ({"$code": "f()"}, Code("f()")),
    ({"$code": "f()", "$scope": {"a": {"$numberLong": "5"}}}, Code("f()", {"a": Int64(5)})),
    ({"$minKey": 1}, MinKey()),
    ({"$maxKey": 1}, MaxKey()),
    ({"$date": "2026-11-23T05:22:46Z"}, datetime(2026, 11, 23, 5, 22, 46, tzinfo=UTC)),
    ({"$date": "2026-11-23T05:22:46.4Z"}, datetime(2026, 11, 23, 5, 22, 46, 400_000, tzinfo=UTC)),
    ({"$date": "2026-11-23T05:22:46.405000Z"}, datetime(2026, 11, 23, 5, 22, 46, 405_000, tzinfo=UTC)),
    ({"$date": "2026-11-23T05:22:46+01:30"}, datetime(2026, 11, 23, 3, 52, 46, tzinfo=UTC)),
    ({"$date": "0001-01-01T00:00:00Z"}, datetime(1, 1, 1, tzinfo=UTC)),
    ({"$date": {"$numberLong": "-1"}}, datetime(1970, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1)),
    ({"$date": {"$numberLong": "253402300799999"}}, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ({"$date": {"$numberLong": "253402300800000"}}, DatetimeMS(253402300800000)),
    ({"$date": {"$numberLong": "-62135596800001"}}, DatetimeMS(-62135596800001)),
    ({"$date": {"$numberLong": "9223372036854775807"}}, DatetimeMS(2**63 - 1)),
    ({"$ref": "users", "$id": {"$oid": OID}}, DBRef("users", ObjectId(OID))),
    ({"$ref": "users", "$id": 5, "$db": "app"}, DBRef("users", 5, "app")),
    ({"$id": {"$numberLong": "5"}, "$ref": "u", "since": {"$date": "2026-01-01T00:00:00Z"}},
     DBRef("u", Int64(5), since=datetime(2026, 1, 1, tzinfo=UTC))),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "value"), READ, ids=[str(tree) for tree, _ in READ])
def test_a_wrapper_is_read_as_exactly_the_type_that_it_names(tree: Any, value: Any) -> None:
    read = from_tree({"v": [tree]})["v"][0]
    assert same(read, value), (read, value)


@pytest.mark.parametrize(("tree", "value"), READ, ids=[str(tree) for tree, _ in READ])
def test_parsed_values_survive_mongodb(tree: Any, value: Any) -> None:
    read = {"v": from_tree(tree)}
    assert same(bson.decode(bson.encode(read, codec_options=CODEC), CODEC), read)


REFUSED: list[Any] = [
    {"$oid": 5},
    {"$oid": "xyz"},
    {"$oid": OID, "more": 1},
    {"$numberInt": 5},
    {"$numberInt": "2147483648"},
    {"$numberInt": "--5"},
    {"$numberInt": ""},
    {"$numberInt": "1" * 5000},
    {"$numberLong": "9223372036854775808"},
    {"$numberLong": "٣"},
    {"$numberLong": "5.0"},
    {"$numberDouble": "1_0"},
    {"$numberDouble": "1e999"},
    {"$numberDouble": "nan"},
    {"$numberDouble": " 1"},
    {"$numberDouble": 1.5},
    {"$numberDecimal": "1_0"},
    {"$numberDecimal": 5},
    {"$numberDecimal": "12345678901234567890123456789012345"},
    {"$binary": "YQ=="},
    {"$binary": {"base64": "!!", "subType": "00"}},
    {"$binary": {"base64": "YQ", "subType": "00"}},
    {"$binary": {"base64": "YQ==", "subType": "100"}},
    {"$binary": {"base64": "YQ==", "subType": "zz"}},
    {"$binary": {"base64": "YQ==", "subType": 0}},
    {"$binary": {"base64": "YQ=="}},
    {"$binary": "YQ==", "$type": "00"},
    {"$uuid": "zz"},
    {"$uuid": 5},
    {"$regularExpression": {"pattern": "a"}},
    {"$regularExpression": {"pattern": "a", "options": "q"}},
    {"$regularExpression": {"pattern": "a\0", "options": ""}},
    {"$regularExpression": {"pattern": 5, "options": ""}},
    {"$timestamp": {"t": -1, "i": 1}},
    {"$timestamp": {"t": True, "i": 1}},
    {"$timestamp": {"t": 1.0, "i": 1}},
    {"$timestamp": {"t": 1}},
    {"$timestamp": 5},
    {"$code": 5},
    {"$code": "f", "$scope": 5},
    {"$scope": {}},
    {"$minKey": 2},
    {"$minKey": True},
    {"$maxKey": 1.0},
    {"$date": 5},
    {"$date": "2026-11-23"},
    {"$date": "2026-11-23T05:22:46"},
    {"$date": "2026-11-23T05:22:46.4051Z"},
    {"$date": "2026-11-23T05:22:46.4050001Z"},
    {"$date": "2026-W48-1T05:22:46Z"},
    {"$date": "0001-01-01T00:00:00+14:00"},
    {"$date": "2026-13-01T00:00:00Z"},
    {"$date": {"$numberLong": "9223372036854775808"}},
    {"$date": {"$numberInt": "5"}},
    {"$ref": "users"},
    {"$id": 5},
    {"$ref": 5, "$id": 5},
    {"$ref": "users", "$id": 5, "$db": 5},
    {"$ref": "users", "$id": 5, "$where": "1"},
    {"$symbol": "a"},
    {"$undefined": True},
    {"$dbPointer": {"$ref": "users", "$id": {"$oid": OID}}},
    {"$ne": None},
    {"$where": "sleep(1)"},
    {"$": 1},
    {"a": 1, "$b": 2},
]  # fmt: skip


@pytest.mark.parametrize("tree", REFUSED, ids=[str(tree)[:60] for tree in REFUSED])
def test_an_inexact_type_wrapper_is_refused(tree: Any) -> None:
    with pytest.raises(Malformed) as caught:
        from_tree({"deep": [tree]})
    assert len(caught.value.message) < 500


def test_an_offset_becomes_utc() -> None:
    value = from_tree({"$date": "2026-11-23T00:30:00+01:00"})
    assert value == datetime(2026, 11, 23, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert value.utcoffset() == timedelta(0)


def test_wrappers_inside_a_reference_and_a_scope_are_held_to_the_same_rules() -> None:
    for tree in ({"$ref": "u", "$id": {"$ne": 1}}, {"$code": "f", "$scope": {"$where": 1}}):
        with pytest.raises(Malformed):
            from_tree(tree)


def test_a_binary_that_is_no_uuid_may_only_stand_for_one_that_is_stored() -> None:
    assert from_tree({"$binary": {"base64": "YQ==", "subType": "04"}}) == Opaque(0x05, b"\1\0\0\0\4a")
