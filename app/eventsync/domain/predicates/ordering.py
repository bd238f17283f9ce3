"""The comparison order of BSON values, as keys that Python compares.

`key_of` gives each value a pair of rank and key. Two values are equal for MongoDB if their pairs are equal, and among
values of one rank the smaller value has the smaller key. Values of different ranks are never compared by a filter
("type bracketing").

The driver reads some deprecated types as others: undefined as null, a symbol as a string, a DBPointer as a DBRef. They
compare as what they are read as, which is right for symbols, and for undefined if it is no item of a container.

Source: https://www.mongodb.com/docs/manual/reference/bson-type-comparison-order/
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS, _datetime_to_millis
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.values.numbers import number_of, number_text
from eventsync.domain.values.type_wrappers import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN

Key = tuple[int, Any]
"""Rank and key of a value."""


class Undecidable(Exception):
    """A value that can't be read decides: the document is treated as if it matched nothing."""


class _Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""The value of a field that is not there."""

DOUBLE, STRING, OBJECT, ARRAY, BINARY, OBJECT_ID, BOOL, DATE, NULL = 1, 2, 3, 4, 5, 7, 8, 9, 10
REGEX, CODE, SYMBOL, SCOPED_CODE, INT, TIMESTAMP, LONG, DECIMAL = 11, 13, 14, 15, 16, 17, 18, 19
MIN_KEY, MAX_KEY = -1, 127

_TYPES: Final[Mapping[type, int]] = {
    _Missing: 0, float: DOUBLE, str: STRING, dict: OBJECT, DBRef: OBJECT, list: ARRAY, bytes: BINARY, Binary: BINARY,
    uuid.UUID: BINARY, ObjectId: OBJECT_ID, bool: BOOL, datetime: DATE, DatetimeMS: DATE, type(None): NULL,
    Regex: REGEX, re.Pattern: REGEX, Timestamp: TIMESTAMP, Int64: LONG, Decimal128: DECIMAL, MinKey: MIN_KEY,
    MaxKey: MAX_KEY,
}  # fmt: skip

RANKS: Final[Mapping[int, int]] = {
    MIN_KEY: -1, 0: 0, 6: 0, NULL: 5, DOUBLE: 10, INT: 10, LONG: 10, DECIMAL: 10, STRING: 15, SYMBOL: 15, OBJECT: 20,
    ARRAY: 25, BINARY: 30, OBJECT_ID: 35, BOOL: 40, DATE: 45, TIMESTAMP: 47, REGEX: 50, 12: 55, CODE: 60,
    SCOPED_CODE: 65, MAX_KEY: 127,
}  # fmt: skip
"""The rank of each BSON type: values of one rank are compared with each other."""

NULLISH: Final = frozenset({0, 5})
"""Ranks of what `null` matches: null, and a field that is not there."""

NUMERIC: Final = 10
_RANK_OF: Final = {kind: RANKS[number] for kind, number in _TYPES.items()} | {int: NUMERIC}


def type_number(value: Any) -> int:
    """Return the number of a value's BSON type, 0 for `MISSING`."""
    number = _TYPES.get(type(value))
    if number is not None:
        return number
    if isinstance(value, int):
        return INT if INT32_MIN <= value <= INT32_MAX and not isinstance(value, Int64) else LONG
    if isinstance(value, Opaque):
        return MIN_KEY if value.kind == 0xFF else value.kind
    if isinstance(value, Code):
        return CODE if value.scope is None else SCOPED_CODE
    return next((number for kind, number in _BASES if isinstance(value, kind)), 0x80)


_BASES: Final = ((Mapping, OBJECT), (list, ARRAY), (str, STRING), (bytes, BINARY), (float, DOUBLE), (datetime, DATE))


def rank_of(value: Any) -> int:
    """Return the rank of a value. Raises `Undecidable` for a type that nobody knows."""
    rank = _RANK_OF.get(type(value))
    if rank is None:
        rank = RANKS.get(type_number(value))
    if rank is None:
        raise Undecidable
    return rank


def key_of(value: Any) -> Key:
    """Return rank and key of a value. Raises `Undecidable` for a container that can't be read."""
    rank = rank_of(value)
    make = _KEYS.get(rank)
    return rank, make(value) if make else ()


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """Return the value as a document if it is one. Raises `Undecidable` for one that can't be read."""
    if type(value) is dict or isinstance(value, Mapping):
        return value
    if isinstance(value, DBRef):
        return value.as_doc()
    if type(value) is Opaque:
        check_readable(value)
    return None


def check_readable(value: Opaque) -> None:
    """Raise `Undecidable` for a container that can't be read."""
    if value.kind in {OBJECT, ARRAY}:
        raise Undecidable


def _number_key(value: Any) -> tuple[bool, Any]:
    # NaN is the smallest number.
    number = number_of(value)
    return (True, number) if number == number else (False, 0)  # noqa: PLR0124 - NaN alone differs from itself


def text_key(value: Any) -> bytes:
    """Return the bytes of a string, which MongoDB compares, also of one that is not UTF-8."""
    if isinstance(value, Opaque):
        return value.raw[4:-1]
    return str(value).encode("utf-8", "surrogatepass")


def _object_key(value: Any) -> tuple[Any, ...]:
    found = []
    for name, item in (as_mapping(value) or {}).items():
        rank, key = key_of(item)
        found.append((rank, name.encode("utf-8", "surrogateescape"), key))
    return tuple(found)


def _array_key(value: Any) -> tuple[Key, ...]:
    if isinstance(value, Opaque):
        raise Undecidable
    return tuple(map(key_of, value))


def _binary_key(value: Any) -> tuple[int, int, bytes]:
    """Return length, subtype and bytes, in the order in which MongoDB compares them."""
    if isinstance(value, Opaque):
        return struct.unpack_from("<i", value.raw)[0], value.raw[4], value.raw[5:]
    if isinstance(value, uuid.UUID):
        return 16, UUID_SUBTYPE, value.bytes
    data, subtype = bytes(value), getattr(value, "subtype", 0)
    if subtype == 2:
        data = struct.pack("<i", len(data)) + data  # the driver removes this inner length
    return len(data), subtype, data


def millis(value: datetime | DatetimeMS) -> int:
    """Return a date as BSON stores it: milliseconds since 1970, rounded down."""
    return _datetime_to_millis(value) if isinstance(value, datetime) else int(value)


_KEYS: Final[Mapping[int, Callable[[Any], Any]]] = {
    10: _number_key,
    15: text_key,
    20: _object_key,
    25: _array_key,
    30: _binary_key,
    35: lambda value: value.binary,
    40: bool,
    45: millis,
    47: lambda value: (value.time, value.inc),
}
"""The comparison of values of a rank. Those of other ranks are never in a filter, so their rank alone decides."""


def value_bytes(value: Any) -> bytes:
    """Return the same bytes for all values that MongoDB considers equal, and others for all other values."""
    # The commonest values, several times as fast.
    if type(value) is str:
        text = value.encode("utf-8", "surrogatepass")
        return b"(2:n2:15b%d:%b" % (len(text), text)
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        digits = b"%d" % value
        return b"(2:n2:10(2:n1:1n%d:%b" % (len(digits), digits)
    return key_bytes(key_of(value))


def key_bytes(item: Any) -> bytes:
    """Encode a key, or a part of one. No encoding is the beginning of another."""
    if isinstance(item, tuple):
        return b"(%d:%b" % (len(item), b"".join(map(key_bytes, item)))
    text = item if isinstance(item, bytes) else number_text(item).encode()
    return b"%c%d:%b" % (b"b" if isinstance(item, bytes) else b"n", len(text), text)
