"""The types of numbers that MongoDB's `$eq` and the size of a document do not distinguish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bson.decimal128 import Decimal128
from bson.int64 import Int64

from eventsync.domain.bson_scan.opaque import is_text

NumberTypes = Mapping[str, str]
"""Paths of numbers with the names of their types, as `$type` gives them."""

_MAX_NUMBERS: Final = 16
"""Most numbers to compare. Each costs MongoDB about a microsecond."""


def number_types(document: Mapping[str, Any]) -> NumberTypes | None:
    """Return the numbers of `document` that another type could replace unnoticed, or None if they can't be compared.

    `$eq` takes 5 and 5.0 for the same. An int32 is shorter than all other numbers, so the size of the document tells
    it. An int64 and a double have one size, so each int64, and each double without a fraction, needs a look. No look
    tells the decimals 5.0 and 5.00 apart, nor 0.0 and -0.0, nor the types inside of an array.
    """
    found: dict[str, str] = {}
    return found if _walk(document, "", found) and len(found) <= _MAX_NUMBERS else None


def _walk(value: Any, path: str | None, found: dict[str, str]) -> bool:
    """Add the numbers in `value`, whose path is None if MongoDB knows none. Return False if one can't be compared."""
    kind = type(value)
    if kind is dict:
        return all(_walk(item, _joined(path, name), found) for name, item in value.items())
    if kind is list:
        return all(_walk(item, None, found) for item in value)
    if kind is Int64 or (kind is float and value.is_integer()):
        if path is None or (value == 0 and kind is float):
            return False
        found[path] = "long" if kind is Int64 else "double"
    return kind is not Decimal128


def _joined(path: str | None, name: str) -> str | None:
    if path is None or not name or name.startswith("$") or "." in name or not is_text(name):
        return None
    return f"{path}.{name}" if path else name
