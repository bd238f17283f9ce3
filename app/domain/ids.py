"""Document ids and their text form, as paths, shapes and `id` fields carry them.

24 lowercase hex digits are an ObjectId; `int:42` and `uuid:…` name those types; `str:…` forces a string; anything
else is that string itself. The server always answers with the canonical form, which is the shortest that reads back
as the same id.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, Final, NewType

from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex

from app.domain.values import from_tree, parse_json, to_json
from app.domain.wrappers import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN
from app.errors import Malformed

IdText = NewType("IdText", str)
"""The canonical text form of a document id."""

MAX_ID_BYTES: Final = 1024
"""Longest id text, in UTF-8 bytes: ids travel in URLs and in every event."""

_OBJECT_ID = re.compile(r"[0-9a-f]{24}", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_PREFIXED = ("int:", "uuid:", "str:", "ejson:")


def format_id(value: Any) -> IdText:
    """The canonical text of an id. Types without a form of their own are written as `ejson:` + Extended JSON."""
    if isinstance(value, int) and not isinstance(value, bool):
        return IdText(f"int:{int(value)}")
    if isinstance(value, str) and not isinstance(value, Code):
        ambiguous = not value or value.startswith(_PREFIXED) or _OBJECT_ID.fullmatch(value)
        return IdText(f"str:{value}" if ambiguous else value)
    if isinstance(value, ObjectId):
        return IdText(str(value))
    if isinstance(value, uuid.UUID):
        return IdText(f"uuid:{value}")
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16:
        return IdText(f"uuid:{uuid.UUID(bytes=bytes(value))}")
    return IdText("ejson:" + to_json(value).decode())


def parse_id(text: str) -> Any:
    """The id that a text names. Raises `Malformed`."""
    if not text or len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise Malformed(f"a document id has 1 to {MAX_ID_BYTES} bytes")
    if "\0" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
        raise Malformed("a document id must be valid text without null characters")
    if _OBJECT_ID.fullmatch(text):
        return ObjectId(text)
    prefix, colon, rest = text.partition(":")
    parse = _PARSERS.get(prefix) if colon else None
    return parse(rest) if parse else text


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text) or text == "-0" or not INT64_MIN <= int(text) <= INT64_MAX:
        raise Malformed(f"int:{text} is not a 64-bit integer")
    value = int(text)
    return value if INT32_MIN <= value <= INT32_MAX else Int64(value)


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise Malformed(f"uuid:{text} is not a UUID") from error


def _extended(text: str) -> Any:
    return check_id(from_tree(parse_json(text.encode())))


_PARSERS: dict[str, Callable[[str], Any]] = {"int": _integer, "uuid": _uuid, "str": str, "ejson": _extended}


def check_id(value: Any) -> Any:
    """`value`, if MongoDB can take it as an `_id` and our text form can carry it. Raises `Malformed`."""
    if value is None or isinstance(value, list | Regex | re.Pattern):
        raise Malformed("an _id can't be null, an array or a regular expression")
    if len(format_id(value).encode()) > MAX_ID_BYTES:
        raise Malformed(f"an _id must not be longer than {MAX_ID_BYTES} bytes as text")
    return value
