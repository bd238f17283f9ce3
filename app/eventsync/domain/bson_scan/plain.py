"""Test by bytes if a BSON document is plain, that is, if orjson alone can encode it and no type hints are needed.

A walk over all values of a document takes longer than decoding it; a search of its bytes takes a tenth of that. The
search has no false negatives, because each pattern matches all occurrences of its type. It may have false positives
(the bytes of a number may look like a field), which only make the encoding slower.

A pattern for a value matches each run of bytes without 0 that has the type's byte, up to the end of what may be the
name, and captures the value if it is one. So it reads each byte once. A pattern that fails at a value would begin again
at the next such byte: for a binary of 100 KiB of them it would take ten seconds.

Source: https://bsonspec.org/spec.html
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

TYPES: Final = bytes([*range(0x01, 0x14), 0x7F, 0xFF])
"""The type bytes, one of which precedes each field name."""

_EXPONENT: Final = bytes(range(0xF0, 0x100))
"""Values of the second-last byte of a double whose exponent has all bits set."""

_ODD_DOUBLE: Final = re.compile(rb"(?s)\x01[^\0]*+\0?(?=(.{6}[%b][\x7f\xff])?)" % re.escape(_EXPONENT))
"""NaN and the infinities: all bits of the exponent are set."""

_UUID: Final = re.compile(rb"(?s)\x05[^\0]*+\0?(?=(.{4}\x04)?)")
"""A binary of the UUID subtype, of any length."""

_DOLLAR: Final = re.compile(rb"[%b]\$" % re.escape(TYPES))
"""A field name that starts with `$`, after its type byte."""

_ODD_DECIMAL: Final = re.compile(rb"(?s)\x13[^\0]*+\0?(?=(.{15}[\x60-\x7f\xe0-\xff]|.{13}[\xed-\xff])?)")
"""A decimal that may be an infinity, a NaN, or have a coefficient of about 34 digits and more."""

DECIMAL_COEFFICIENT: Final = (1 << 113) - 1
DECIMAL_LIMIT: Final = 10**34
"""The mask of a decimal's coefficient in its 128 bits, and the first coefficient with too many digits."""

_LOOKS: Final = 64
"""Occurrences that are tested one by one; for more, the pattern is faster."""

_SHORT_INT64: Final = re.compile(rb"(?s)\x12[^\0]*+\0?(?=(.{4}(?:\0{4}|\xff{4}))?)")
"""An int64 that would nearly fit into an int32."""

_NAMELESS: Final = frozenset({ObjectId, Decimal128, bytes, Int64})
"""Types unknown to orjson that contain no field names."""


def is_plain(raw: bytes, int64s: int = 0, decoded: Any = None) -> bool:
    """Return True if `raw` has no NaN, infinity, UUID or `$` name, and at most `int64s` short int64 values.

    `decoded` is the content of `raw`, or its relevant parts. It is checked if some bytes look like a `$` name.
    """
    # Each pattern requires a rare byte, and the search for a byte is ten times as fast as the pattern. (The byte is
    # given as a number: `b"$" in raw` takes four times as long, because Python first tries it as a number and fails.)
    return not (
        (ord("$") in raw and _may_have_dollars(raw) and (decoded is None or _has_dollars(decoded)))
        or is_misread(raw)
        or (0x13 in raw and any(_ODD_DECIMAL.findall(raw)))
        or (0x12 in raw and sum(map(bool, _SHORT_INT64.findall(raw))) > int64s)
    )


def is_odd_decimal(value: Decimal128) -> bool:
    """Return True if a decimal does not have the canonical form of its text: NaN and zero have several forms."""
    bits = int.from_bytes(value.bid, "little")
    if (bits >> 125) & 3 == 3 or bits & DECIMAL_COEFFICIENT >= DECIMAL_LIMIT:
        return Decimal128(str(value)).bid != value.bid
    return False


def _may_have_dollars(raw: bytes) -> bool:
    return _may_stand_behind(raw, ord("$"), TYPES) and _DOLLAR.search(raw) is not None


def _has_dollars(decoded: Any) -> bool:
    """Return True if a name, or a string, starts with `$`.

    (In 5 KiB of doubles the bytes of a `$` name occur in one of ten cases, so this check avoids many slow encodings.)
    """
    try:
        return b'"$' in orjson.dumps(decoded, default=_stand_in, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:
        return True  # orjson can't encode it


def _stand_in(value: Any) -> str:
    return "" if type(value) in _NAMELESS else "$"


def is_misread(raw: bytes | memoryview) -> bool:
    """Return True if `raw` may have a NaN, an infinity or a UUID, which orjson would misrepresent."""
    data = bytes(raw)  # `re` and `in` search bytes faster than a view
    odd = (0x7F in data and _may_stand_behind(data, 0x7F, _EXPONENT)) or (
        0xFF in data and _may_stand_behind(data, 0xFF, _EXPONENT)
    )
    return (odd and any(_ODD_DOUBLE.findall(data))) or (0x05 in data and any(_UUID.findall(data)))


def _may_stand_behind(raw: bytes, byte: int, before: bytes) -> bool:
    """Return True if `byte` follows one of `before`, or if it is too frequent to test.

    (A few KiB of numbers contain any byte, and the patterns take as long as decoding them.)
    """
    at = raw.find(byte)
    for _ in range(_LOOKS):
        if at < 0:
            return False
        if raw[at - 1] in before:
            return True
        at = raw.find(byte, at + 1)
    return True
