from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, DBRef, Decimal128, Int64, MinKey, ObjectId, Regex

from eventsync.domain.ids import MAX_ID_BYTES, MAX_READ_BYTES, check_id, format_id, parse_id
from eventsync.domain.values.extended_json import same
from eventsync.errors import Malformed

HEX = "0123456789abcdef01234567"
UUID = uuid.UUID("6f1c3b9a-0d5e-4c21-9b7f-1a2b3c4d5e6f")

CANONICAL: list[tuple[Any, str]] = [
    (ObjectId(HEX), HEX),
    ("42", "42"),
    (42, "int:42"),
    (0, "int:0"),
    (-5, "int:-5"),
    (Int64(2**40), f"int:{2**40}"),
    (Int64(-(2**63)), f"int:{-(2**63)}"),
    (UUID, f"uuid:{UUID}"),
    ("", "str:"),
    (HEX, f"str:{HEX}"),
    (HEX.upper(), HEX.upper()),
    (HEX[:-1], HEX[:-1]),
    ("int:5", "str:int:5"),
    ("int:", "str:int:"),
    ("str:a", "str:str:a"),
    ("uuid:x", "str:uuid:x"),
    ("ejson:1", "str:ejson:1"),
    (".", "str:."),
    ("..", "str:.."),
    ("...", "..."),
    ("a/../b", "a/../b"),
    ("a\0b", 'ejson:"a\\u0000b"'),
    ("\0", 'ejson:"\\u0000"'),
    (None, "ejson:null"),
    ("x" * MAX_READ_BYTES, "x" * MAX_READ_BYTES),
    (DBRef("x", 1), 'ejson:{"$ref":"x","$id":1}'),
    ({"k": DBRef("x", 1)}, 'ejson:{"k":{"$ref":"x","$id":1}}'),
    (Decimal128("5.0"), 'ejson:{"$numberDecimal":"5.0"}'),
    (MinKey(), 'ejson:{"$minKey":1}'),
    (-0.0, "ejson:-0.0"),
    ("a:b", "a:b"),
    ("a/b?c#d%é ", "a/b?c#d%é "),
    (5.5, "ejson:5.5"),
    (5.0, "ejson:5.0"),
    (math.inf, 'ejson:{"$numberDouble":"Infinity"}'),
    (True, "ejson:true"),
    (Decimal128("5"), 'ejson:{"$numberDecimal":"5"}'),
    (datetime(2026, 1, 1, tzinfo=UTC), 'ejson:{"$date":"2026-01-01T00:00:00Z"}'),
    (b"ab", 'ejson:{"$binary":{"base64":"YWI=","subType":"00"}}'),
    ({"a": 1, "b": "x"}, 'ejson:{"a":1,"b":"x"}'),
]


@pytest.mark.parametrize(("value", "text"), CANONICAL, ids=[text[:60] for _, text in CANONICAL])
def test_an_id_and_its_canonical_text(value: Any, text: str) -> None:
    assert format_id(value) == text
    assert same(parse_id(text), value)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("str:abc", "abc"),
        (".", "str:."),
        ("a\0b", 'ejson:"a\\u0000b"'),
        ('ejson:"abc"', "abc"),
        ("ejson:5", "int:5"),
        ('ejson:{"$numberLong":"5"}', "int:5"),
        (f'ejson:{{"$oid":"{HEX}"}}', HEX),
        (f"uuid:{UUID.hex}", f"uuid:{UUID}"),
        (f"uuid:{str(UUID).upper()}", f"uuid:{UUID}"),
        ('ejson:{ "a" : 1 }', 'ejson:{"a":1}'),
    ],
)
def test_other_spellings_are_brought_into_the_canonical_form(text: str, canonical: str) -> None:
    assert format_id(parse_id(text)) == canonical


def test_an_int64_id_and_an_int32_id_are_one_id() -> None:
    # MongoDB compares numbers across types: a collection can't hold both.
    assert format_id(Int64(5)) == format_id(5) == "int:5"


def test_a_uuid_that_was_read_as_binary_is_that_uuid() -> None:
    assert format_id(Binary.from_uuid(UUID)) == f"uuid:{UUID}"
    assert format_id(Binary(b"abc", 4)).startswith("ejson:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "int:",
        "int:05",
        "int:-0",
        "int:+5",
        "int: 5",
        "int:5.0",
        "int:٣",
        f"int:{2**63}",
        "int:" + "9" * 19,
        "uuid:",
        "uuid:xyz",
        "ejson:",
        "ejson:[1]",
        'ejson:{"$regularExpression":{"pattern":"a","options":""}}',
        'ejson:{"$ne":1}',
        'ejson:{"a":1,"a":2}',
        f"ejson:{2**64 + 1}",
        "\ud800",
        "x" * (MAX_READ_BYTES + 1),
        "é" * (MAX_READ_BYTES // 2 + 1),
        "\ud800" * MAX_ID_BYTES,
    ],
    ids=lambda text: repr(text[:40]),
)
def test_texts_that_name_no_id_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_id(text)


@pytest.mark.parametrize("value", [None, [], [1], Regex("a"), "x" * (MAX_ID_BYTES + 1), "é" * 600])
def test_values_that_can_be_no_id_are_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        check_id(value)


def test_the_longest_id_is_taken() -> None:
    assert check_id("x" * MAX_ID_BYTES) == "x" * MAX_ID_BYTES
    assert parse_id("x" * MAX_ID_BYTES) == "x" * MAX_ID_BYTES
