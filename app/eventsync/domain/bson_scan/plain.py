"""Whether a BSON document is plain, told from its bytes: nothing in it needs more than orjson and no mark.

Walking through all values of a document takes longer than decoding it; searching its bytes takes a tenth of that. The
search never misses what is there, for each pattern matches every place where its type stands. It may find what is not
(the bytes of a number may look like a field): then the values are walked through, which is only slower.

Source: https://bsonspec.org/spec.html
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

_TYPES: Final = bytes([*range(0x01, 0x14), 0x7F, 0xFF])
"""What stands before a field name."""

_EXPONENT: Final = bytes(range(0xF0, 0x100))
"""What stands before the last byte of a double whose exponent has all bits set."""

_ODD_DOUBLE: Final = re.compile(rb"(?s)\x01[^\0]*\0.{6}[%b][\x7f\xff]" % re.escape(_EXPONENT))
"""NaN and the infinities: all bits of the exponent are set."""

_UUID: Final = re.compile(rb"(?s)\x05[^\0]*\0.{4}\x04")
"""A binary of the subtype of UUIDs, also where it holds none."""

_DOLLAR: Final = re.compile(rb"[%b]\$" % re.escape(_TYPES))
"""A field name that starts with `$`, right behind its type."""

_ODD_DECIMAL: Final = re.compile(rb"(?s)\x13[^\0]*\0(?:.{15}[\x60-\x7f\xe0-\xff]|.{13}[\xed-\xff])")
"""A decimal that no driver writes may be there: an infinity, a NaN, or a coefficient of about 34 digits and more."""

_DECIMAL_COEFFICIENT: Final = (1 << 113) - 1
_DECIMAL_LIMIT: Final = 10**34

_LOOKS: Final = 64
"""Places that are looked at one by one; where there are more, the pattern is quicker."""

_SHORT_INT64: Final = re.compile(rb"(?s)\x12(?=[^\0]*\0.{4}(?:\0{4}|\xff{4}))")
"""An int64 that would fit into an int32, or nearly. It looks ahead, so that no match hides another."""

_NAMELESS: Final = frozenset({ObjectId, Decimal128, bytes, Int64})
"""Types that orjson asks about, and that hold no names."""


def is_plain(raw: bytes, int64s: int = 0, decoded: Any = None) -> bool:
    """Whether nothing in `raw` is a NaN, an infinity, a UUID, a `$` name, or a short int64 but for `int64s` of them.

    `decoded` is what `raw` holds, or the parts of it that matter: asked where bytes look like a `$` name.
    """
    # Each pattern needs a byte that few documents have, and a byte is looked for ten times as fast as a pattern. (As a
    # number: for `b"$" in raw` Python first raises, and swallows, that it is none, which takes four times as long.)
    return not (
        (ord("$") in raw and _may_have_dollars(raw) and (decoded is None or _has_dollars(decoded)))
        or is_misread(raw)
        or (0x13 in raw and _ODD_DECIMAL.search(raw) is not None)
        or (0x12 in raw and len(_SHORT_INT64.findall(raw)) > int64s)
    )


def is_odd_decimal(value: Decimal128) -> bool:
    """Tell whether a decimal is written in another way than its text would be: NaN and zero have several forms."""
    bits = int.from_bytes(value.bid, "little")
    if (bits >> 125) & 3 == 3 or bits & _DECIMAL_COEFFICIENT >= _DECIMAL_LIMIT:
        return Decimal128(str(value)).bid != value.bid
    return False


def _may_have_dollars(raw: bytes) -> bool:
    return _may_stand_behind(raw, ord("$"), _TYPES) and _DOLLAR.search(raw) is not None


def _has_dollars(decoded: Any) -> bool:
    """Whether a name starts with `$`; also where a string does.

    (Among the doubles of 5 KiB the bytes of a `$` name are found one time in ten; then all would be walked through.)
    """
    try:
        return b'"$' in orjson.dumps(decoded, default=_stand_in, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:
        return True  # something that orjson does not write


def _stand_in(value: Any) -> str:
    return "" if type(value) in _NAMELESS else "$"


def is_misread(raw: bytes | memoryview) -> bool:
    """Whether something in `raw` may be a NaN, an infinity or a UUID: what orjson would write in its own way."""
    found = bytes(raw)  # which `re` and `in` go through faster than a view
    odd = (0x7F in found and _may_stand_behind(found, 0x7F, _EXPONENT)) or (
        0xFF in found and _may_stand_behind(found, 0xFF, _EXPONENT)
    )
    return bool((odd and _ODD_DOUBLE.search(found)) or (0x05 in found and _UUID.search(found)))


def _may_stand_behind(raw: bytes, byte: int, before: bytes) -> bool:
    """Whether `byte` stands right behind one of `before`; also where it is too frequent to say.

    (Any byte is somewhere among the numbers of a few KiB, and the patterns take as long as it takes to decode them.)
    """
    at = raw.find(byte)
    for _ in range(_LOOKS):
        if at < 0:
            return False
        if raw[at - 1] in before:
            return True
        at = raw.find(byte, at + 1)
    return True
