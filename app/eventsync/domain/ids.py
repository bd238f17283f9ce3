"""Document ids and their text form, as paths, shapes and `id` fields carry them.

24 lowercase hex digits are an ObjectId; `int:42` and `uuid:…` name those types; `str:…` forces a string; `ejson:…` is
Extended JSON of any type; anything else is that string itself. The server always returns the canonical form, the
shortest one that reads back as the same id and passes every proxy in a URL.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, NewType

import orjson
from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex

from eventsync.domain.bson_scan.opaque import Opaque, element_of, id_of, is_text, value_of, writable
from eventsync.domain.values.extended_json import from_tree, parse_json, to_json
from eventsync.domain.values.type_wrappers import INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN
from eventsync.errors import Malformed

IdText = NewType("IdText", str)
"""The canonical text form of a document id."""

MAX_ID_BYTES: Final = 1024
"""Longest id text of a new document, in UTF-8 bytes: ids are part of URLs and of every event."""

MAX_READ_BYTES: Final = 16 * 1024
"""Longest id text in a request, because other writers may store longer ids. Percent-encoded, it fits into a URL."""

_OBJECT_ID = re.compile(r"[0-9a-f]{24}", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_PREFIXED = ("int:", "uuid:", "str:", "ejson:")
_DOTS = (".", "..")
"""Clients and proxies remove these path segments, percent-encoded or not (RFC 3986 section 5.2.4)."""


def format_id(value: Any) -> IdText:
    """Return the canonical text of an id. Types without their own form become `ejson:` + Extended JSON."""
    if isinstance(value, int) and not isinstance(value, bool):
        return IdText(f"int:{int(value)}")
    if isinstance(value, str) and not isinstance(value, Code):
        return _format_text(value)
    if isinstance(value, ObjectId):
        return IdText(str(value))
    if isinstance(value, uuid.UUID):
        return IdText(f"uuid:{value}")
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16:
        return IdText(f"uuid:{uuid.UUID(bytes=bytes(value))}")
    return IdText("ejson:" + to_json(_spelled(value)).decode())


def _format_text(value: str) -> IdText:
    if "\0" in value:
        # Proxies refuse a URL with `%00`, so use the escape of JSON.
        return IdText("ejson:" + to_json(value).decode())
    ambiguous = not value or value in _DOTS or value.startswith(_PREFIXED) or _OBJECT_ID.fullmatch(value)
    return IdText(f"str:{value}" if ambiguous else value)


def _spelled(value: Any) -> Any:
    """Return an id in a form whose JSON reads back as the same id."""
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, Mapping) and all(map(_is_plain, value)):
        return {name: _spelled(item) for name, item in value.items()}
    return Opaque(*element_of(value)).spelled() if _is_lost(value) else value


def _is_lost(value: Any) -> bool:
    """Return True if Extended JSON can't express a value."""
    if isinstance(value, Binary):
        return value.subtype == UUID_SUBTYPE  # a UUID of another length
    if isinstance(value, DBRef):
        return any(map(_holds_lost, value.as_doc().values()))
    return isinstance(value, Opaque | Mapping)


def _holds_lost(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_lost, value))
    if isinstance(value, Mapping):
        return not all(map(_is_plain, value)) or any(map(_holds_lost, value.values()))
    return _is_lost(value)


def _is_plain(name: str) -> bool:
    """Return True if an object with a field of this name reads back as an object."""
    return is_text(name) and not name.startswith("$")


def parse_id(text: str) -> Any:
    """Return the id for a text. Raises `Malformed`."""
    if not text or len(text.encode("utf-8", "surrogatepass")) > MAX_READ_BYTES:
        raise Malformed(f"a document id has 1 to {MAX_READ_BYTES} bytes")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise Malformed("a document id must be valid text")
    return _parsed(text)


def stored_id(text: IdText) -> Any:
    """Return the id for a text of `format_id`, also one that no request may name.

    Other writers may store longer ids and ids that nest deeper.
    """
    try:
        return parse_id(text)
    except Malformed:
        kind, colon, rest = text.partition(":")
        if kind == "ejson" and colon:
            return read_id(orjson.loads(rest))
        return rest if kind == "str" and colon else text


def _parsed(text: str) -> Any:
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
    return possible_id(read_id(parse_json(text.encode())))


def read_id(tree: Any) -> Any:
    """Return the id for Extended JSON, as it is decoded from a document. Raises `Malformed`."""
    value = from_tree(tree)
    return id_of(value.kind, value.raw) if isinstance(value, Opaque) else _as_stored(value)


def _as_stored(value: Any) -> Any:
    if isinstance(value, Opaque):
        return value_of(value.kind, value.raw)
    if type(value) is dict:
        return {name: _as_stored(item) for name, item in value.items()}
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {"int": _integer, "uuid": _uuid, "str": str, "ejson": _extended}


def possible_id(value: Any) -> Any:
    """Return `value` if it can be the `_id` of a stored document. Raises `Malformed`."""
    if isinstance(value, list | Regex | re.Pattern):
        raise Malformed("an _id can't be an array or a regular expression")
    return value


def check_id(value: Any) -> Any:
    """Return `value` if it can be the `_id` of a new document. Raises `Malformed`."""
    if value is None:
        raise Malformed("the _id of a new document can't be null")
    if len(format_id(possible_id(value)).encode()) > MAX_ID_BYTES:
        raise Malformed(f"the _id of a new document must not be longer than {MAX_ID_BYTES} bytes as text")
    return value


def same_id(left: Any, right: Any) -> bool:
    """Return True if two ids have the same text.

    MongoDB considers more ids equal: 5 and the decimal 5, or `a` and `A` under a collation.
    """
    return format_id(left) == format_id(right)


def filter_of(*values: Any) -> Mapping[str, Any]:
    """Return the filter for the documents whose `_id`s are `values`, in a form that the driver can encode.

    MongoDB stores no names of array items in an index. If an array inside an id has non-standard names, a `$in` over
    several ids never ends. Ids that are `Opaque` objects are therefore compared without the index.
    """
    odd = [value for value in values if isinstance(value, Opaque) and value.kind == _DOCUMENT]
    if not odd or len(values) == 1:
        return {"_id": query_of(*values)}
    others = [value for value in values if value not in odd]
    return {"$or": [{"_id": query_of(*others)}, {"$expr": {"$in": ["$_id", writable({"$literal": odd})]}}]}


PLAIN_IDS: Final = frozenset({str, int, Int64, ObjectId, uuid.UUID, bytes})
"""Types of ids that a filter finds by the index, each by its own text only, also by `$in`."""


def query_of(*values: Any) -> Any:
    """Return the condition for these ids, in a form that the driver can encode.

    For one id of most types it is the id: MongoDB finds a document by such a filter without a plan, which would take
    50 µs. A DBPointer, a deprecated type, is decoded as a DBRef, so a DBRef matches both.
    """
    if len(values) == 1 and type(values[0]) in PLAIN_IDS:
        return values[0]
    pointers = [pointer for value in values if (pointer := pointer_of(value)) is not None]
    return writable({"$in": [*values, *pointers]} if pointers or len(values) != 1 else {"$eq": values[0]})


def pointer_of(value: Any) -> Opaque | None:
    """Return the DBPointer that is decoded as `value`, or None if there is none."""
    if not isinstance(value, DBRef) or not isinstance(value.id, ObjectId) or len(value.as_doc()) != 2:
        return None
    name = value.collection.encode()
    return Opaque(_DB_POINTER, struct.pack("<i", len(name) + 1) + name + b"\0" + value.id.binary)


_DOCUMENT: Final = 0x03
_DB_POINTER: Final = 0x0C
