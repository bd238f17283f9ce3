"""BSON numbers as exact Python numbers, and one canonical number among equal ones of several types. Pure.

MongoDB compares int, long, double and Decimal128 by their exact values. So does Python, and equal numbers have equal
hashes: 5, 5.0 and `Decimal(5)` are one key of a dictionary.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any, Final

from bson.decimal128 import Decimal128, create_decimal128_context
from bson.int64 import Int64

from eventsync.domain.bson_scan.plain import DECIMAL_COEFFICIENT, DECIMAL_LIMIT
from eventsync.domain.values.type_wrappers import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN

Number = int | float | Decimal
"""An exact number. NaN is always the float."""

_BIAS: Final = 6176
_NAN: Final = 0x1F
_INFINITY: Final = 0x1E
_IN_DECIMAL128: Final = create_decimal128_context()
_EXACT: Final = Context(prec=1100, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""Enough digits for any double."""

_INT64_DIGITS: Final = 19


def decimal_of(value: Decimal128) -> Number:
    """Return the value of a decimal as MongoDB reads it: a coefficient of too many digits is zero."""
    bits = int.from_bytes(value.bid, "little")
    negative = bits >> 127
    if (bits >> 125) & 3 == 3:
        special = (bits >> 122) & 0x1F
        if special == _NAN:
            return math.nan
        return (-math.inf if negative else math.inf) if special == _INFINITY else 0
    coefficient = bits & DECIMAL_COEFFICIENT
    if coefficient >= DECIMAL_LIMIT:
        return 0
    number = Decimal(coefficient).scaleb(((bits >> 113) & 0x3FFF) - _BIAS, _IN_DECIMAL128)
    return -number if negative else number


def number_of(value: Any) -> Number:
    """Return the exact number of a BSON int, long, double or decimal."""
    return decimal_of(value) if isinstance(value, Decimal128) else value


def number_text(number: Number) -> str:
    """Return one text for all equal numbers: the digits of a 64-bit integer, else the shortest exact decimal."""
    if number != number:  # noqa: PLR0124 - NaN alone differs from itself
        return "NaN"
    whole = _int64(number)
    return str(_EXACT.normalize(Decimal(number)) if whole is None else whole)


def canonical_number(value: Any) -> int | float | Decimal128:
    """Return the number that stands for all equal ones: an integer if it is one, else a double, else a decimal."""
    number = number_of(value)
    whole = _int64(number)
    if whole is not None:
        return whole if INT32_MIN <= whole <= INT32_MAX else Int64(whole)
    if isinstance(number, Decimal) and float(number) != number:
        return Decimal128(_IN_DECIMAL128.normalize(number))
    return float(number)


def _int64(number: Number) -> int | None:
    """Return the number if it is a 64-bit integer."""
    if isinstance(number, Decimal):
        # Converting 9E+6111 would take long.
        if number.adjusted() >= _INT64_DIGITS or number != number.to_integral_value():
            return None
    elif isinstance(number, float) and not number.is_integer():
        return None
    whole = int(number)
    return whole if INT64_MIN <= whole <= INT64_MAX else None
