"""Reading the type wrappers of Extended JSON (`{"$oid": …}`, `{"$date": …}`) into BSON values.

This reader is stricter than `bson.json_util`, which accepts spellings outside the specification and reads some of them
inexactly: a silent change here would be stored. The deprecated types (`$symbol`, `$undefined`, `$dbPointer`) are
refused for the same reason.

Source: https://github.com/mongodb/specifications/blob/master/source/extended-json.md
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.errors import BSONError
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from eventsync.domain.bson_scan.opaque import WRAPPER, Opaque
from eventsync.errors import Malformed

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Tree = dict[str, Any]
"""A parsed JSON object."""

_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_DOUBLE = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?|NaN|-?Infinity", re.ASCII)
_DATE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3}0*)?)?(Z|[+-]\d\d:?\d\d)",
    re.ASCII,
)
_SUBTYPE = re.compile(r"[0-9a-fA-F]{1,2}", re.ASCII)
_OPTIONS = frozenset("ilmsux")
_BINARY = struct.Struct("<iB")


def unwrap(tree: Tree, convert: Callable[[Any], Any]) -> Any:
    """Return the BSON value of an object with `$` keys. `convert` reads the Extended JSON inside it.

    Raises `Malformed` for an unknown or invalid type wrapper.
    """
    names = tree.keys()
    if (read := _SINGLE.get(next(iter(names)))) is None or len(names) > 1:
        read = next((read for required, allowed, read in _WRAPPERS if required <= names <= (allowed or names)), None)
    if read is None:
        listed = "/".join(sorted(names))[:200]
        raise Malformed(f"{listed}: a field must not start with '$' unless it names an Extended JSON type")
    try:
        return read(tree, convert)
    except (TypeError, ValueError, KeyError, ArithmeticError, BSONError) as error:
        raise Malformed(f"{json.dumps(tree)[:200]} is not valid Extended JSON: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _member(tree: Tree, name: str, *keys: str) -> Tree:
    """Return the object under `name`, which must have exactly these keys."""
    inner = tree[name]
    if not isinstance(inner, dict) or inner.keys() != set(keys):
        raise ValueError(f"{name} takes an object of {' and '.join(keys)}")
    return inner


def _integer(low: int, high: int, make: Callable[[int], Any]) -> Callable[[Tree, Any], Any]:
    def read(tree: Tree, _: Any) -> Any:
        ((name, text),) = tree.items()
        if not _INTEGER.fullmatch(_text(text)) or not low <= int(text) <= high:
            raise ValueError(f"{name} takes a string of digits within its range")
        return make(int(text))

    return read


_int64 = _integer(INT64_MIN, INT64_MAX, Int64)


def _double(tree: Tree, _: Any) -> float:
    text = _text(tree["$numberDouble"])
    value = float(text) if _DOUBLE.fullmatch(text) else None
    if value is None or (math.isinf(value) and "Infinity" not in text):
        raise ValueError("not a 64-bit float")
    return value


def _date(tree: Tree, _: Any) -> datetime | DatetimeMS:
    """Read ISO 8601 with an offset and at most milliseconds, or milliseconds since 1970 for any year."""
    inner = tree["$date"]
    if isinstance(inner, str):
        if not _DATE.fullmatch(inner):
            raise ValueError("an ISO 8601 date has an offset and at most milliseconds")
        return datetime.fromisoformat(inner).astimezone(UTC)
    millis = int(_int64(_member(tree, "$date", "$numberLong"), None))
    try:
        return EPOCH + timedelta(milliseconds=millis)
    except OverflowError:
        return DatetimeMS(millis)


def _binary(tree: Tree, _: Any) -> bytes | uuid.UUID | Opaque:
    inner = _member(tree, "$binary", "base64", "subType")
    data = base64.b64decode(_text(inner["base64"]), validate=True)
    if not _SUBTYPE.fullmatch(_text(inner["subType"])):
        raise ValueError("subType takes one or two hex digits")
    subtype = int(inner["subType"], 16)
    if subtype == 0:
        return data
    if subtype == UUID_SUBTYPE:
        # A UUID of another length may refer to a stored opaque value.
        return uuid.UUID(bytes=data) if len(data) == 16 else Opaque(0x05, _BINARY.pack(len(data), subtype) + data)
    return Binary(data, subtype)


def _regex(tree: Tree, _: Any) -> Regex[str]:
    inner = _member(tree, "$regularExpression", "pattern", "options")
    pattern, options = _text(inner["pattern"]), _text(inner["options"])
    if not _OPTIONS.issuperset(options):
        raise ValueError("the options of a regular expression are i, l, m, s, u and x")
    if "\0" in pattern:
        raise ValueError("a regular expression has no null character")
    return Regex(pattern, options)


def _timestamp(tree: Tree, _: Any) -> Timestamp:
    inner = _member(tree, "$timestamp", "t", "i")
    if type(inner["t"]) is not int or type(inner["i"]) is not int:
        raise TypeError("$timestamp takes two integers")
    return Timestamp(inner["t"], inner["i"])


def _code(tree: Tree, convert: Callable[[Any], Any]) -> Code:
    scope = convert(tree["$scope"]) if "$scope" in tree else None
    if "$scope" in tree and not isinstance(scope, dict):
        raise TypeError("$scope takes an object")
    return Code(_text(tree["$code"]), scope)


def _reference(tree: Tree, convert: Callable[[Any], Any]) -> DBRef:
    """Read a DBRef, which is a convention and not a type: `$ref` and `$id`, an optional `$db`, then any fields."""
    rest = {name: convert(value) for name, value in tree.items() if name not in _REFERENCE}
    if any(name.startswith("$") for name in rest):
        raise ValueError("no other field of a DBRef may start with '$'")
    database = _text(tree["$db"]) if "$db" in tree else None
    return DBRef(_text(tree["$ref"]), convert(tree["$id"]), database, rest)


_REFERENCE = frozenset({"$ref", "$id", "$db"})


def _constant(value: type[MinKey | MaxKey]) -> Callable[[Tree, Any], Any]:
    def read(tree: Tree, _: Any) -> Any:
        if list(tree.values()) != [1] or isinstance(next(iter(tree.values())), bool | float):
            raise ValueError("takes the number 1")
        return value()

    return read


def _opaque(tree: Tree, _: Any) -> Opaque:
    """Read an opaque value, which only the server itself writes in this form."""
    inner = _member(tree, WRAPPER, "type", "base64")
    if not _SUBTYPE.fullmatch(_text(inner["type"])):
        raise ValueError("type takes one or two hex digits")
    return Opaque.framed(int(inner["type"], 16), base64.b64decode(_text(inner["base64"]), validate=True))


def _one(name: str, read: Callable[[Tree, Any], Any]) -> tuple[frozenset[str], frozenset[str] | None, Any]:
    return frozenset({name}), frozenset({name}), read


_WRAPPERS: Final[tuple[tuple[frozenset[str], frozenset[str] | None, Callable[[Tree, Any], Any]], ...]] = (
    _one("$oid", lambda tree, _: ObjectId(_text(tree["$oid"]))),
    _one("$date", _date),
    _one("$numberInt", _integer(INT32_MIN, INT32_MAX, int)),
    _one("$numberLong", _int64),
    _one("$numberDouble", _double),
    _one("$numberDecimal", lambda tree, _: Decimal128(_text(tree["$numberDecimal"]))),
    _one("$binary", _binary),
    _one("$uuid", lambda tree, _: uuid.UUID(_text(tree["$uuid"]))),
    _one("$regularExpression", _regex),
    _one("$timestamp", _timestamp),
    _one("$minKey", _constant(MinKey)),
    _one("$maxKey", _constant(MaxKey)),
    _one(WRAPPER, _opaque),
    (frozenset({"$code"}), frozenset({"$code", "$scope"}), _code),
    (frozenset({"$ref", "$id"}), None, _reference),
)
"""Required names, allowed names (None: any), and the reader of such an object."""

_SINGLE: Final = {name: read for required, _, read in _WRAPPERS if len(required) == 1 for name in required}
"""The readers of objects with this name alone."""
