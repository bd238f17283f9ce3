"""BSON values and their JSON form: MongoDB Relaxed Extended JSON v2, both ways, types intact.

Inside the server a document is a plain `dict` of BSON values, decoded by PyMongo with `CODEC`; outside it is Extended
JSON. A BSON value with a type wrapper (`{"$oid": …}`, `{"$date": …}`) is *one* value and never an object with a field,
so patches can't reach inside it.

Source: https://github.com/mongodb/specifications/blob/master/source/extended-json.md
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import bson
import orjson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.dbref import DBRef
from bson.decimal128 import Decimal128, create_decimal128_context
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.tz_util import utc as utc_zone

from eventsync.domain.bson_scan import opaque
from eventsync.domain.bson_scan.opaque import OddDocument, Opaque, inexact_id, read, readable, too_deep
from eventsync.domain.bson_scan.plain import DECIMAL_COEFFICIENT, DECIMAL_LIMIT
from eventsync.domain.values.type_wrappers import EPOCH, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, unwrap
from eventsync.errors import Malformed

Document = opaque.Document
CODEC: Final = opaque.CODEC

JSON_CODEC: Final = CODEC.with_options(tz_aware=False)
"""Decodes naive datetimes in UTC, which takes 1 µs less each. For documents that are only converted to JSON."""

RAW_CODEC: Final[CodecOptions[RawBSONDocument]] = CODEC.with_options(document_class=RawBSONDocument)
"""Decodes to raw documents, for readers that forward documents without inspecting them."""


def may_hold(document: RawBSONDocument, field: bytes) -> bool:
    """Return True if the document may contain a field whose BSON begins with these bytes, at any depth.

    The document is not parsed.
    """
    # A large document is a memory view, which has no `find`; do not copy it.
    return not isinstance(document.raw, bytes) or document.raw.find(field) >= 0


class Literal(dict[str, Any]):
    """A parsed JSON object that is no type wrapper, even if its names look like one (`domain.values.type_hints`)."""


@dataclass(frozen=True, slots=True)
class JsonText:
    """JSON text in the place of a value: not parsed yet, or already encoded.

    Parsing and encoding a large document takes long, so helper processes do it (`concurrency.offload`).
    """

    text: bytes

    def __len__(self) -> int:
        return len(self.text)


MAX_DEPTH: Final = 100
"""Deepest nesting accepted, below the limits of BSON (180 levels) and of orjson (254)."""

_RELAXED = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_representation=json_util.DatetimeRepresentation.ISO8601,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    document_class=dict,
)
_DECIMAL_BIAS: Final = 6176
_DECIMAL_CONTEXT: Final = create_decimal128_context()
_READ: Final = frozenset({str, int, bool, type(None), datetime, ObjectId, Int64})
"""Types of values that are never misread. Looking here is several times as fast as `isinstance(…, Mapping)`."""

_SCALARS: Final = frozenset({str, float, bool, type(None)})
"""Types of JSON values that are BSON values already."""

_ENCODE_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS


def decode(raw: bytes | memoryview, codec: CodecOptions[Document] = CODEC) -> Document:
    """Decode any document that MongoDB has stored. Never fails.

    A value that the driver refuses (invalid UTF-8, a wrong inner length) must not stop the stream, so it becomes
    `Opaque`. So does an `_id` that the driver decodes as another value (see `inexact_id`).
    """
    try:
        document = bson.decode(raw, codec)
    except Exception:  # noqa: BLE001 - the other reader accepts everything
        return read(raw, codec)
    return read(raw, codec) if inexact_id(raw, document) or too_deep(raw, document) else document


# --- BSON → JSON ------------------------------------------------------------------------------------------------


def to_json(value: Any, *, plain: bool = False) -> bytes:
    """Encode a BSON value (a whole document, or any part of one) as Relaxed Extended JSON, UTF-8.

    `plain` promises that the value has no NaN, infinity or UUID, which skips a check (`domain.bson_scan.plain`).

    Raises `Malformed` for values that no BSON document can hold.
    """
    if not plain and is_misread(value):
        value = spelled(value)
    try:
        return orjson.dumps(value, default=json_leaf, option=_ENCODE_OPTIONS)
    except orjson.JSONEncodeError:
        return _to_readable_json(value)


def _to_readable_json(value: Any) -> bytes:
    """Encode a value with names that are not UTF-8, with replacement characters."""
    try:
        return orjson.dumps(_readable(value), default=json_leaf, option=_ENCODE_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise Malformed(f"the value can't be written as JSON: {error}") from error


def _readable(value: Any) -> Any:
    if isinstance(value, str) and type(value) is str:
        return readable(value)
    if isinstance(value, Mapping):
        return {readable(name): _readable(item) for name, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list) else value


def longer_than(document: Mapping[str, Any], length: int) -> bool:
    """Return True if the document certainly takes more than `length` bytes of JSON.

    False is inconclusive. Only as many values are visited as necessary.
    """
    counted = 0
    waiting: list[Any] = [document]
    while waiting and counted <= length:
        value = waiting.pop()
        if isinstance(value, str):
            counted += len(value) + 2
        elif isinstance(value, Mapping):
            counted += 1 + sum(map(len, value)) + 4 * len(value)  # each name quoted, with a colon and a comma
            waiting.extend(value.values())
        elif isinstance(value, list):
            counted += 1 + len(value)
            waiting.extend(value)
        else:
            counted += 1
    return counted > length


def json_leaf(value: Any) -> Any:  # noqa: PLR0911 - one for each kind
    """Encode a value unknown to orjson, which calls this for each of them. The most common types come first."""
    kind = type(value)
    if kind is ObjectId:
        return {"$oid": str(value)}
    if kind is datetime:
        utc = _in_utc(value)
        return {"$date": _date_text(utc)} if utc.year >= EPOCH.year else json_util.default(value, _RELAXED)
    if kind is Int64:
        return int(value)
    if kind is Decimal128:
        return {"$numberDecimal": _decimal_text(value)}
    if kind is JsonText:
        return orjson.Fragment(value.text)
    if isinstance(value, RawBSONDocument | OddDocument):
        return spelled(dict(value))
    return value.shown() if kind is Opaque else json_util.default(value, _RELAXED)


def _date_text(value: datetime) -> str:
    """Format a date as the Extended JSON specification does: ISO 8601 in UTC, without zero milliseconds."""
    return utc_text(value, "milliseconds" if value.microsecond >= 1000 else "seconds")


def utc_text(value: datetime, precision: str) -> str:
    """Format a time as RFC 3339 in UTC, truncated to `precision`, which is `seconds` or `milliseconds`."""
    utc = _in_utc(value)
    # orjson takes a fifth of the time of `isoformat`, and omits zero microseconds.
    text = orjson.dumps(utc, option=orjson.OPT_NAIVE_UTC).decode()
    if precision == "seconds":
        return text[1:20] + "Z"
    return (text[1:24] if utc.microsecond else text[1:20] + ".000") + "Z"


def _in_utc(value: datetime) -> datetime:
    """Return the same time in UTC. Naive times are already in UTC."""
    return value if value.tzinfo is None or value.tzinfo is utc_zone else value.astimezone(UTC)


def _decimal_text(value: Decimal128) -> str:
    """Return `str(value)`, faster: nearly all decimals are one integer and an exponent."""
    bits = int.from_bytes(value.bid, "little")
    exponent, coefficient = (bits >> 113) & 0x3FFF, bits & DECIMAL_COEFFICIENT
    if (bits >> 125) & 3 == 3 or coefficient >= DECIMAL_LIMIT:
        return str(value)  # an infinity, a NaN, or a form that no driver writes
    number = Decimal(coefficient).scaleb(exponent - _DECIMAL_BIAS, _DECIMAL_CONTEXT)
    return str(number.copy_negate() if bits >> 127 else number)


def is_misread(value: Any) -> bool:
    """Return True if orjson would silently misrepresent a value: NaN or infinity as null, or a UUID as a string."""
    kind = type(value)
    if kind in _READ:
        return False
    if kind is float:
        return not math.isfinite(value)
    if kind is list:
        return any(map(is_misread, value))
    if kind is dict or isinstance(value, Mapping):
        return any(map(is_misread, value.values()))
    return kind is uuid.UUID


def spelled(value: Any) -> Any:
    """Return the value with Extended JSON for everything that `is_misread` detects."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$numberDouble": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, uuid.UUID):
        return json_util.default(value, _RELAXED)
    if isinstance(value, Mapping):
        return {key: spelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [spelled(item) for item in value]
    return value


# --- JSON → BSON ------------------------------------------------------------------------------------------------


def parse_json(body: bytes) -> Any:
    """Parse JSON text from a client into plain Python values.

    Duplicate keys, integers that neither 64 bits nor a double hold, NaN, lone surrogates and nesting over `MAX_DEPTH`
    are refused, because a silent change here would be stored.

    Raises `Malformed`.
    """
    try:
        tree = orjson.loads(body)  # strict and depth-bounded, so the slower parser below only gets valid JSON
        # With fewer brackets nothing nests deeper.
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
            check_depth(tree)
        return tree if _is_exact(body, tree) else _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not valid JSON: {error}") from error


def _is_exact(body: bytes, tree: Any) -> bool:
    """Return True if orjson has certainly read all of `body`: no key twice, and no integer beyond 64 bits.

    This takes a fifth of the time of the parser that refuses both.
    """
    if _LONG_DIGITS in body.translate(_DIGITS_ALIKE) or b"\\u" in body:
        return False
    # Each member has a colon, and so may texts. One that orjson has dropped is missing in the JSON of what is left.
    colons = body.count(b":")
    return colons < 2 or orjson.dumps(tree).count(b":") == colons


def check_depth(tree: Any, limit: int = MAX_DEPTH) -> None:
    """Raise `Malformed` if a value nests more than `limit` levels below the root."""
    level = [tree]
    for _ in range(limit + 1):
        level = level_below(level)
        if not level:
            return
    raise Malformed(f"the value nests deeper than {limit} levels")


def level_below(level: list[Any]) -> list[Any]:
    """Return the values that the objects and arrays among `level` contain."""
    return [
        child
        for node in level
        if isinstance(node, dict | list)
        for child in (node.values() if isinstance(node, dict) else node)
    ]


def copied(value: Any) -> Any:
    """Return a value with copies of its containers, which can be changed in place. Leaves are immutable."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def from_tree(tree: Any) -> Any:
    """Convert parsed Extended JSON, canonical or relaxed, into BSON values of exactly the named types.

    Raises `Malformed` for a `$` field that is no type wrapper, and for an invalid wrapper.
    """
    kind = type(tree)
    if kind in _SCALARS:
        return tree
    if kind is int:
        return tree if INT32_MIN <= tree <= INT32_MAX else Int64(tree)
    if isinstance(tree, dict):
        return _object(tree)
    return [from_tree(item) for item in tree] if isinstance(tree, list) else tree


def _object(tree: dict[str, Any]) -> Any:
    names = " ".join(tree)  # one search over all names: this runs for each object of each document
    if "\0" in names:
        raise Malformed("a field name must not contain a null character")
    is_wrapper = "$" in names and (names.startswith("$") or any(name.startswith("$") for name in tree))
    if is_wrapper and not isinstance(tree, Literal):
        return unwrap(tree, from_tree)
    return {name: item if type(item) in _SCALARS else from_tree(item) for name, item in tree.items()}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("an object has the same key twice")
    return tree


def double_of(digits: int) -> float | None:
    """Return the double that JSON writes as this integer, or None if there is none.

    JavaScript writes doubles below 10²¹ so, and those from 2⁵³ on by their shortest digits, which often are not exact.
    """
    if abs(digits) >= _EXPONENTS:
        return None
    double = float(digits)
    return double if double == digits or int(Decimal(repr(double))) == digits else None


def _bounded_number(text: str) -> int | float:
    if len(text) <= _INTEGER_LENGTH:
        value = int(text)
        if INT64_MIN <= value <= INT64_MAX:
            return value
        if (double := double_of(value)) is not None:
            return double
    raise ValueError(f"{text[:24]} is not a 64-bit integer")


_EXPONENTS: Final = 10**21
"""JavaScript writes numbers from here on with an exponent."""
_INTEGER_LENGTH: Final = len(str(-_EXPONENTS)) - 1
_LONG_DIGITS: Final = b"0" * len(str(INT64_MAX))
"""The digits of an integer that 64 bits may not hold."""
_DIGITS_ALIKE: Final = bytes.maketrans(b"123456789", b"000000000")

_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_int=_bounded_number)


# --- comparing ---------------------------------------------------------------------------------------------------


def same(left: Any, right: Any) -> bool:
    """Return True if two values are equal in value *and* BSON type, regardless of field order.

    Python's `==` has `True == 1 == 1.0 == Int64(1)` and `nan != nan`; for a database both are wrong.
    """
    kind = type(left)
    if kind is not type(right):
        return isinstance(left, Mapping) and isinstance(right, Mapping) and same(dict(left), dict(right))
    if kind is str or kind is int:
        return bool(left == right)
    if kind is dict:
        return left.keys() == right.keys() and all(same(value, right[name]) for name, value in left.items())
    if kind is list:
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Mapping):
        raw = isinstance(left, RawBSONDocument) and isinstance(right, RawBSONDocument) and left.raw == right.raw
        return raw or same(dict(left), dict(right))
    return _same_leaves(left, right)


def _same_leaves(left: Any, right: Any) -> bool:
    if isinstance(left, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return (left, math.copysign(1, left)) == (right, math.copysign(1, right))
    if isinstance(left, DBRef):
        return same(left.as_doc(), right.as_doc())
    if isinstance(left, Code):
        return str(left) == str(right) and same(left.scope, right.scope)
    return bool(left == right)
