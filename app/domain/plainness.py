"""Whether a BSON document is plain, told from its bytes: nothing in it needs more than orjson and no mark.

Walking through all values of a document takes longer than decoding it; searching its bytes takes a tenth of that. The
search never misses what is there, for each pattern matches every place where its type stands. It may find what is not
(the bytes of a number may look like a field): then the values are walked through, which is only slower.

Source: https://bsonspec.org/spec.html
"""

from __future__ import annotations

import re
from typing import Final

_ODD_DOUBLE: Final = re.compile(rb"(?s)\x01[^\0]*\0.{6}[\xf0-\xff][\x7f\xff]")
"""NaN and the infinities: all bits of the exponent are set."""

_UUID: Final = re.compile(rb"(?s)\x05[^\0]*\0.{4}\x04")
"""A binary of the subtype of UUIDs, also where it holds none."""

_DOLLAR: Final = re.compile(rb"[\x01-\x13\x7f\xff]\$")
"""A field name that starts with `$`, right behind its type."""

_SHORT_INT64: Final = re.compile(rb"(?s)\x12(?=[^\0]*\0.{4}(?:\0{4}|\xff{4}))")
"""An int64 that would fit into an int32, or nearly. It looks ahead, so that no match hides another."""


def is_plain(raw: bytes, int64s: int = 0) -> bool:
    """Whether nothing in `raw` is a NaN, an infinity, a UUID, a `$` name, or a short int64 but for `int64s` of them."""
    # Each pattern needs a byte that few documents have, and a byte is looked for ten times as fast as a pattern. (As a
    # number: for `b"$" in raw` Python first raises, and swallows, that it is none, which takes four times as long.)
    return not (
        (ord("$") in raw and _DOLLAR.search(raw))
        or is_misread(raw)
        or (0x12 in raw and len(_SHORT_INT64.findall(raw)) > int64s)
    )


def is_misread(raw: bytes | memoryview) -> bool:
    """Whether something in `raw` may be a NaN, an infinity or a UUID: what orjson would write in its own way."""
    found = bytes(raw)  # which `re` and `in` go through faster than a view
    return bool(
        (0x05 in found and _UUID.search(found)) or ((0x7F in found or 0xFF in found) and _ODD_DOUBLE.search(found))
    )
