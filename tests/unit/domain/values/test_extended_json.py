from __future__ import annotations

import json
import math
import struct
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

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
from eventsync.errors import Malformed
from support.replica import to_tree

OID = ObjectId("0123456789abcdef01234567")
ID = uuid.UUID("6f1c3b9a-0d5e-4c21-9b7f-1a2b3c4d5e6f")
ID_JSON = {"$binary": {"base64": "bxw7mg1eTCGbfxorPE1ebw==", "subType": "04"}}

ENCODED: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    ("é\0\u2028", "é\0\u2028"),
    (5, 5),
    (Int64(5), 5),
    (Int64(2**63 - 1), 2**63 - 1),
    (Int64(-(2**63)), -(2**63)),
    (5.0, 5.0),
    (-0.0, -0.0),
    (math.nan, {"$numberDouble": "NaN"}),
    (math.inf, {"$numberDouble": "Infinity"}),
    (-math.inf, {"$numberDouble": "-Infinity"}),
    (Decimal128("-0E-6176"), {"$numberDecimal": "-0E-6176"}),
    (OID, {"$oid": str(OID)}),
    (ID, ID_JSON),
    (b"ab", {"$binary": {"base64": "YWI=", "subType": "00"}}),
    (Binary(b"x" * 16, 3), {"$binary": {"base64": "eHh4eHh4eHh4eHh4eHh4eA==", "subType": "03"}}),
    (Binary(b"", 0x80), {"$binary": {"base64": "", "subType": "80"}}),
    (Regex("a", "xi"), {"$regularExpression": {"pattern": "a", "options": "ix"}}),
    (Timestamp(1, 2), {"$timestamp": {"t": 1, "i": 2}}),
    (MinKey(), {"$minKey": 1}),
    (MaxKey(), {"$maxKey": 1}),
    (Code("f"), {"$code": "f"}),
    (Code("f", {"u": ID, "n": math.nan}), {"$code": "f", "$scope": {"u": ID_JSON, "n": {"$numberDouble": "NaN"}}}),
    (DBRef("c", Int64(5)), {"$ref": "c", "$id": 5}),
    (DBRef("c", ID, "d", n=math.inf), {"$ref": "c", "$id": ID_JSON, "$db": "d", "n": {"$numberDouble": "Infinity"}}),
    (datetime(2026, 11, 23, 5, 22, 46, 405_000, tzinfo=UTC), {"$date": "2026-11-23T05:22:46.405Z"}),
    (datetime(2026, 11, 23, 5, 22, 46, tzinfo=UTC), {"$date": "2026-11-23T05:22:46Z"}),
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))), {"$date": "2025-12-31T23:00:00Z"}),
    (datetime(1970, 1, 1, tzinfo=UTC), {"$date": "1970-01-01T00:00:00Z"}),
    (datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), {"$date": "9999-12-31T23:59:59.999Z"}),
    (datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), {"$date": {"$numberLong": "-1"}}),
    (datetime(1, 1, 1, tzinfo=UTC), {"$date": {"$numberLong": "-62135596800000"}}),
    (DatetimeMS(253402300800000), {"$date": {"$numberLong": "253402300800000"}}),
    (DatetimeMS(-(2**63)), {"$date": {"$numberLong": str(-(2**63))}}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "tree"), ENCODED, ids=[repr(value)[:60] for value, _ in ENCODED])
def test_every_type_is_written_as_relaxed_extended_json(value: Any, tree: Any) -> None:
    assert same(to_tree({"v": [value]}), {"v": [tree]})
    stored = bson.decode(bson.encode({"v": value}, codec_options=CODEC), CODEC)
    assert json.loads(to_json(stored)) == {"v": tree}, "as MongoDB gives it back"


def test_a_raw_document_is_written_like_a_decoded_one() -> None:
    document = {"n": math.nan, "u": ID, "in": {"list": [ID, {"x": -math.inf}]}, "o": OID}
    raw = RawBSONDocument(bson.encode(document, codec_options=CODEC), RAW_CODEC)
    assert to_json(raw) == to_json(document)
    assert to_json({"doc": raw}) == to_json({"doc": document})


def test_a_value_of_no_bson_type_is_refused() -> None:
    with pytest.raises(Malformed, match="set"):
        to_json({"v": {1, 2}})


def test_every_bson_type_goes_out_and_comes_back_in() -> None:
    document = {str(number): value for number, (value, _) in enumerate(ENCODED) if not isinstance(value, Int64)}
    assert same(from_tree(parse_json(to_json(document))), document | {"24": DBRef("c", 5)})


def test_canonical_extended_json_keeps_every_number_type() -> None:
    document = {"i": 5, "l": Int64(5), "d": 5.0, "z": -0.0, "n": math.nan, "list": [Int64(1), 1.0]}
    canonical = json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS).encode()
    assert same(from_tree(parse_json(canonical)), document)


def test_relaxed_extended_json_keeps_what_a_json_number_can_say() -> None:
    # A double is known by its point or exponent, an int64 by being beyond 32 bits; a small int64 reads as an int32.
    document = {"d": 5.0, "e": 1e22, "l": Int64(2**31), "m": Int64(-(2**31) - 1), "small": Int64(5), "i": 2**31 - 1}
    assert same(from_tree(parse_json(to_json(document))), document | {"small": 5})


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'{"x": [{"a": 1, "b": 2, "a": 3}]}',
        b"18446744073709551615",
        b"18446744073709551617",
        b"9223372036854775809",
        b"-9223372036854775809",
        b"1" + b"0" * 22,
        b"1" * 5000,
        b"1e400",
        b"NaN",
        b"[Infinity]",
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b'"\xff"',
        b'\xef\xbb\xbf{"a": 1}',
        b"{'a': 1}",
        b'{"a": 1,}',
        b"",
        b"[" * 100_000,
        b"[" * 102 + b"]" * 102,
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_json_that_could_not_be_kept_exactly_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_json(body)


def test_json_at_the_bounds_is_taken() -> None:
    assert parse_json(b"[9223372036854775807, -9223372036854775808]") == [2**63 - 1, -(2**63)]
    assert parse_json(b"[" * 100 + b"]" * 100)
    assert parse_json(b'"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(
    ("body", "double"),
    [
        (b"9223372036854775808", 2.0**63),
        (b"-10000000000000000000", -1e19),
        (b"18446744073709551616", 2.0**64),
        (b"18446744073709552000", 2.0**64),
        (b"-999999999999999900000", -999999999999999900000.0),
    ],
)
def test_doubles_as_javascript_writes_them_are_taken(body: bytes, double: float) -> None:
    assert same(parse_json(body), double)


def test_depth_is_counted_from_the_root() -> None:
    nested: Any = 1
    for _ in range(MAX_DEPTH):
        nested = {"a": nested}
    check_depth(nested)
    with pytest.raises(Malformed, match="100 levels"):
        check_depth([nested])
    check_depth({"a": [1]}, limit=2)
    with pytest.raises(Malformed):
        check_depth({"a": [[1]]}, limit=2)


def test_a_field_name_with_a_null_character_is_refused() -> None:
    for tree in ({"a\0": 1}, {"x": [{"\0": 1}]}, {"$ref": "c", "$id": 1, "a\0": 1}):
        with pytest.raises(Malformed, match="null character"):
            from_tree(tree)


def test_field_names_are_free_otherwise() -> None:
    tree = {"": 1, "a.b": {"c.$d": 2}, "0": [3], "__proto__": 4, "é/~": None}
    assert from_tree(tree) == tree


# --- equality -----------------------------------------------------------------------------------------------------

DIFFERENT: list[tuple[Any, Any]] = [
    (1, True),
    (0, False),
    (1, 1.0),
    (1, Int64(1)),
    (0.0, -0.0),
    (math.nan, 0.0),
    (0.0, math.nan),
    ("", None),
    ("a", Code("a")),
    (b"a", Binary(b"a", 5)),
    (ID, Binary.from_uuid(ID)),
    (Decimal128("1.0"), Decimal128("1.00")),
    (Regex("a"), Regex("a", "i")),
    (Code("f"), Code("f", {})),
    (Code("f", {"a": 1}), Code("f", {"a": 1.0})),
    (DBRef("c", 1), DBRef("c", Int64(1))),
    (DBRef("c", 1), DBRef("c", 1, "d")),
    (DBRef("c", 1, x=1), DBRef("c", 1, x=True)),
    ([1, 2], [2, 1]),
    ([1], [1, 1]),
    ({"a": 1}, {"a": Int64(1)}),
    ({"a": 1}, {"a": 1, "b": None}),
    ({}, []),
    (Timestamp(1, 1), Timestamp(1, 2)),
]


@pytest.mark.parametrize(("left", "right"), DIFFERENT, ids=repr)
def test_values_of_another_type_or_sign_are_not_the_same(left: Any, right: Any) -> None:
    assert not same(left, right)
    assert not same({"v": [left]}, {"v": [right]})
    assert same(left, left)
    assert same({"v": [right]}, {"v": [right]})


def test_field_order_does_not_matter() -> None:
    assert same({"a": 1, "b": {"x": 1, "y": math.nan}}, {"b": {"y": math.nan, "x": 1}, "a": 1})


def test_raw_and_decoded_documents_compare() -> None:
    raw = [
        RawBSONDocument(bson.encode(document), RAW_CODEC)
        for document in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": Int64(2)})
    ]
    assert same(raw[0], raw[0])
    assert same(raw[0], raw[1])
    assert not same(raw[0], raw[2])
    assert same(raw[0], {"a": 1, "b": 2})


# --- broken BSON --------------------------------------------------------------------------------------------------


def _raw(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


@pytest.mark.parametrize(
    ("element", "name", "value"),
    [
        (b"\x02s\0" + struct.pack("<i", 3) + b"\xff\xfe\0", "s", "\ufffd\ufffd"),
        (b"\x10\xff\0" + struct.pack("<i", 3), "\ufffd", 3),
        (b"\x0br\0\xff\0\0", "r", {"$regularExpression": {"pattern": "\ufffd", "options": ""}}),
        (b"\x05u\0" + struct.pack("<i", 3) + b"\x04abc", "u", {"$binary": {"base64": "YWJj", "subType": "04"}}),
        (
            b"\x05b\0" + struct.pack("<i", 3) + b"\x02abc",
            "b",
            {"$opaque": {"type": "05", "base64": "AwAAAAJhYmM="}},
        ),
    ],
    ids=["text", "name", "regex", "uuid", "binary"],
)
def test_values_that_the_driver_refuses_can_be_read(element: bytes, name: str, value: Any) -> None:
    raw = _raw(element, b"\x10ok\0" + struct.pack("<i", 1))
    with pytest.raises(bson.errors.InvalidBSON):
        bson.decode(raw, CODEC)
    assert json.loads(to_json(decode(raw))) == {name: value, "ok": 1}


def test_deprecated_types_are_read_as_the_nearest_living_one() -> None:
    raw = _raw(b"\x06u\0", b"\x0es\0" + struct.pack("<i", 2) + b"a\0", b"\x0cp\0\2\0\0\0c\0" + OID.binary)
    assert same(decode(raw), {"u": None, "s": "a", "p": DBRef("c", OID)})
