"""BSON values and their JSON form: MongoDB Relaxed Extended JSON v2, both ways, types intact.

Inside the server a document is a plain `dict` of BSON values as PyMongo decodes them with `CODEC`. Outside it is
Extended JSON. A BSON value that JSON has no word for (`{"$oid": …}`, `{"$date": …}`) is *one* value here, never an
object with a field: patches can't reach inside it.

Source: https://github.com/mongodb/specifications/blob/master/source/extended-json.md
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.decimal128 import Decimal128
from bson.errors import BSONError
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument

from app.errors import Malformed

Document = dict[str, Any]
"""A decoded BSON document: keys are field names, values are BSON values as `CODEC` decodes them."""

CODEC: Final[CodecOptions[Document]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    # A date beyond year 9999 is a legal BSON value: it stays exact as DatetimeMS instead of failing the read.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""How every document of the user is decoded: aware datetimes, standard UUIDs, nothing lossy."""

RAW_CODEC: Final[CodecOptions[RawBSONDocument]] = CODEC.with_options(document_class=RawBSONDocument)
"""The same, for readers that pass documents on without looking inside."""

MAX_DEPTH: Final = 100
"""Deepest nesting accepted. BSON stops at 180 levels and orjson at 254; both must stay out of reach."""

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_RELAXED = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_representation=json_util.DatetimeRepresentation.ISO8601,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    document_class=dict,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODE_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


# --- BSON → JSON ------------------------------------------------------------------------------------------------


def to_json(value: Any) -> bytes:
    """Encode a BSON value (a whole document, or any part of one) as Relaxed Extended JSON, UTF-8."""
    if _has_odd_float(value):
        value = _spell_floats(value)
    return orjson.dumps(value, default=_encode_leaf, option=_ENCODE_OPTIONS)


def to_tree(value: Any) -> Any:
    """The JSON form as plain Python values (dict, list, str, int, float, bool, None)."""
    return orjson.loads(to_json(value))


def _encode_leaf(value: Any) -> Any:
    """What orjson does not know: called once for each such value, the commonest first."""
    kind = type(value)
    if kind is ObjectId:
        return {"$oid": str(value)}
    if kind is datetime:
        return {"$date": _date_text(value)} if value >= _EPOCH else json_util.default(value, _RELAXED)
    if kind is Int64:
        return int(value)
    if kind is Decimal128:
        return {"$numberDecimal": str(value)}
    if isinstance(value, RawBSONDocument):
        return _spell_floats(dict(value))
    try:
        return json_util.default(value, _RELAXED)
    except TypeError as error:
        raise Malformed(f"a value of type {kind.__name__} is not a BSON value") from error


def _date_text(value: datetime) -> str:
    """ISO 8601 in UTC with milliseconds only where there are some, as the Extended JSON specification writes it."""
    if value.tzinfo is not UTC:
        value = value.astimezone(UTC)
    millis = value.microsecond // 1000
    return f"{value:%Y-%m-%dT%H:%M:%S}.{millis:03d}Z" if millis else f"{value:%Y-%m-%dT%H:%M:%S}Z"


def _has_odd_float(value: Any) -> bool:
    """Whether a NaN or an infinity is anywhere inside: orjson would write null for it, silently."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_odd_float(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_odd_float(item) for item in value)
    return False


def _spell_floats(value: Any) -> Any:
    """The same value with every NaN and infinity as `{"$numberDouble": …}`."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$numberDouble": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, Mapping):
        return {key: _spell_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spell_floats(item) for item in value]
    return value


# --- JSON → BSON ------------------------------------------------------------------------------------------------


def parse_json(body: bytes) -> Any:
    """Parse JSON text from a client into plain Python values.

    Stricter than most parsers, because what is silently changed here would be silently stored: duplicate keys, integers
    beyond 64 bits, NaN, lone surrogates and nesting over `MAX_DEPTH` are refused.

    Raises `Malformed`.
    """
    try:
        orjson.loads(body)  # RFC 8259 to the letter, depth bounded: the slower parser below never sees anything else
        tree = json.loads(body, object_pairs_hook=_unique_keys, parse_int=_bounded_int)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body is not valid JSON: {error}") from error
    check_depth(tree)
    return tree


def check_depth(tree: Any, limit: int = MAX_DEPTH) -> None:
    """Raise `Malformed` where `tree` nests deeper than `limit`."""
    level = [tree]
    for _ in range(limit + 1):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    raise Malformed(f"the value nests deeper than {limit} levels")


def from_tree(tree: Any) -> Any:
    """Turn Extended JSON (canonical or relaxed, as parsed) into BSON values of exactly the types it names.

    Raises `Malformed` for a field that starts with `$` and is no type wrapper, and for a wrapper that is not valid.
    """
    if isinstance(tree, dict):
        return _object(tree)
    if isinstance(tree, list):
        return [from_tree(item) for item in tree]
    if isinstance(tree, int) and not isinstance(tree, bool):
        return tree if INT32_MIN <= tree <= INT32_MAX else Int64(tree)
    return tree


def _object(tree: dict[str, Any]) -> Any:
    for name in tree:
        if "\0" in name:
            raise Malformed("a field name must not contain a null character")
    if not any(name.startswith("$") for name in tree):
        return {name: from_tree(item) for name, item in tree.items()}
    return _wrapper(tree)


def _wrapper(tree: dict[str, Any]) -> Any:
    """One `$`-keyed object → one BSON value."""
    names = frozenset(tree)
    if not any(required <= names <= allowed for required, allowed in _WRAPPERS):
        raise Malformed(
            f"{'/'.join(sorted(names))}: a field must not start with '$' unless it names an Extended JSON type"
        )
    if check := _CHECKS.get(next(iter(names))):
        return check(tree)
    try:
        value = json_util.object_hook(
            tree if "$scope" not in names else tree | {"$scope": from_tree(tree["$scope"])}, _RELAXED
        )
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, BSONError) as error:
        raise Malformed(f"{json.dumps(tree)[:200]} is not valid Extended JSON: {error}") from error
    if isinstance(value, dict):
        raise Malformed(f"{json.dumps(tree)[:200]} is not valid Extended JSON")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("an object has the same key twice")
    return tree


def _bounded_int(text: str) -> int:
    if len(text) > 20 or not INT64_MIN <= (value := int(text)) <= INT64_MAX:
        raise ValueError(f"{text[:24]} is not a 64-bit integer")
    return value


def _wrappers(*forms: str) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """Each form is `required names ? optional names`."""
    split = [form.partition("?") for form in forms]
    return tuple((frozenset(a.split()), frozenset(a.split()) | frozenset(b.split())) for a, _, b in split)


_WRAPPERS = _wrappers(
    "$oid", "$symbol", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$binary", "$uuid",
    "$code ? $scope", "$timestamp", "$regularExpression", "$dbPointer", "$date", "$minKey", "$maxKey", "$undefined",
)  # fmt: skip


def _number(low: int, high: int, make: Callable[[int], Any]) -> Callable[[dict[str, Any]], Any]:
    def check(tree: dict[str, Any]) -> Any:
        (name, text), *_ = tree.items()
        if not isinstance(text, str) or not text.lstrip("-").isdecimal() or not low <= int(text) <= high:
            raise Malformed(f"{name} takes a string of digits within its range, not {text!r}")
        return make(int(text))

    return check


def _date(tree: dict[str, Any]) -> Any:
    """`{"$date": …}`: json_util takes more spellings than the specification, and some of them inexactly."""
    inner = tree["$date"]
    if not isinstance(inner, str) and not (isinstance(inner, dict) and list(inner) == ["$numberLong"]):
        raise Malformed('$date takes an ISO 8601 string or {"$numberLong": "milliseconds"}')
    try:
        if isinstance(inner, str):
            parsed = datetime.fromisoformat(inner)
            if parsed.tzinfo is None or parsed.microsecond % 1000:
                raise Malformed(f"$date needs an offset and at most milliseconds, not {inner!r}")
            return parsed.astimezone(UTC)
        millis = _number(INT64_MIN, INT64_MAX, int)(inner)
        return json_util.object_hook({"$date": {"$numberLong": str(millis)}}, _RELAXED)
    except (ValueError, OverflowError) as error:
        raise Malformed(f"{inner!r} is not a date: {error}") from error


_CHECKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "$numberInt": _number(INT32_MIN, INT32_MAX, int),
    "$numberLong": _number(INT64_MIN, INT64_MAX, Int64),
    "$date": _date,
}


# --- types that JSON can't name ---------------------------------------------------------------------------------


def keep_types(old: Any, new: Any) -> Any:
    """`new`, with each plain JSON number that stands where `old` has an int64 or a double kept in that type.

    A plain `6` names no BSON type (JavaScript can't even write `6.0`), so it takes the type of the number it
    replaces. A number that names its type (`{"$numberLong": …}`) arrives here as that type and is left alone,
    and so is a number that the old type could not hold exactly.
    """
    if type(new) is int:
        if type(old) is Int64:
            return Int64(new)
        return float(new) if type(old) is float and float(new) == new else new
    if isinstance(new, dict) and isinstance(old, Mapping):
        return {name: keep_types(old[name], item) if name in old else item for name, item in new.items()}
    if isinstance(new, list) and isinstance(old, list):
        kept = [keep_types(was, item) for was, item in zip(old, new, strict=False)]
        return kept + new[len(kept) :]
    return new


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal in value *and* BSON type, field order aside.

    Python's `==` finds `True == 1 == 1.0 == Int64(1)` and `nan != nan`; in a database those are the wrong way round.
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        if isinstance(left, RawBSONDocument) and isinstance(right, RawBSONDocument) and left.raw == right.raw:
            return True
        return left.keys() == right.keys() and all(same(value, right[name]) for name, value in left.items())
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return (
            math.isnan(left)
            if math.isnan(right)
            else (left, math.copysign(1, left)) == (right, math.copysign(1, right))
        )
    return bool(left == right)
