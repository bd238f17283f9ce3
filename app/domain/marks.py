"""What Relaxed Extended JSON can't tell, kept beside it, so that what is stored as JSON reads back BSON-exact.

A *mark* is a JSON Pointer (RFC 6901) into the JSON form of a value. What stands there says what is marked:

- a number: it is an int64, although it would fit into an int32;
- an object: it is a plain object, although a name in it starts with `$`;
- a binary's `subType`: it has the subtype of UUIDs, and is none.

Sources: https://www.rfc-editor.org/rfc/rfc6901 ,
https://github.com/mongodb/specifications/blob/master/source/extended-json.md
"""

from __future__ import annotations

import base64
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from app.domain.diff import escape
from app.domain.values import Literal, from_tree
from app.domain.wrappers import INT32_MAX, INT32_MIN
from app.errors import Malformed

_EXACT: Final = frozenset({str, int, float, bool, type(None), ObjectId, datetime, Decimal128, bytes, uuid.UUID})
_FEW: Final = 20
_SHORT: Final = 4096
_SUBTYPE: Final = "/$binary/subType"


def marks_of(value: Any) -> list[str]:
    """The marks of a BSON value; none for nearly all values, and those cost little."""
    return list(_pointers(value, "")) if _inexact(value) else []


def read_marked(tree: Any, pointers: Sequence[str]) -> Any:
    """`from_tree`, with the marks of the value that `tree` was made from. `tree` is used up.

    Raises `Malformed`, also for marks that don't belong to `tree`.
    """
    root: dict[str, Any] = {"": tree}
    for pointer in pointers:
        try:
            _mark(root, pointer)
        except (LookupError, TypeError, ValueError) as error:
            raise Malformed(f"{pointer[:200]!r} marks nothing: {error!r}") from error
    return from_tree(root[""])


def packed(pointers: Sequence[str]) -> list[str] | bytes:
    """Marks as they are stored: many of them, or long ones, take a fraction of their bytes together."""
    listed = list(pointers)
    plain = len(listed) <= _FEW and sum(map(len, listed)) <= _SHORT
    return listed if plain else zlib.compress(orjson.dumps(listed), 1)


def unpacked(stored: Sequence[str] | bytes | None) -> Sequence[str]:
    """What `packed` has made. Raises `Malformed` for anything else."""
    if not isinstance(stored, bytes):
        return stored or ()
    try:
        listed: list[str] = orjson.loads(zlib.decompress(stored))
    except (zlib.error, ValueError) as error:
        raise Malformed(f"the marks can't be read: {error}") from error
    return listed


def unescape(token: str) -> str:
    """The field name that a reference token stands for."""
    return token.replace("~1", "/").replace("~0", "~")


def _inexact(value: Any) -> bool:
    kind = type(value)
    if kind in _EXACT:
        return False
    if kind is Int64:
        return bool(INT32_MIN <= value <= INT32_MAX)
    if kind is dict:
        for name, item in value.items():  # noqa: SIM110 - on each event's path, and a generator takes half as long again
            if name[:1] == "$" or (type(item) not in _EXACT and _inexact(item)):
                return True
        return False
    if kind is list:
        return any(map(_inexact, value))
    return isinstance(value, DBRef | Code) or (kind is Binary and value.subtype == UUID_SUBTYPE)


def _pointers(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Int64):
        if INT32_MIN <= value <= INT32_MAX:
            yield path
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _pointers(item, f"{path}/{index}")
    elif isinstance(value, DBRef):
        yield from _members(value.as_doc(), path)
    elif isinstance(value, Mapping):
        if any(name.startswith("$") for name in value):
            yield path
        yield from _members(value, path)
    elif isinstance(value, Code):
        yield from _pointers(value.scope, f"{path}/$scope")
    elif isinstance(value, Binary) and value.subtype == UUID_SUBTYPE:
        yield path + _SUBTYPE


def _members(value: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, item in value.items():
        yield from _pointers(item, f"{path}/{escape(name)}")


def _mark(root: dict[str, Any], pointer: str) -> None:
    container, key = _place(root, pointer)
    found = container[key]
    if isinstance(found, dict):
        container[key] = Literal(found)
    elif type(found) is int:
        container[key] = Int64(found)
    elif isinstance(found, str) and pointer.endswith(_SUBTYPE):
        binary = container["base64"]
        container, key = _place(root, pointer.removesuffix(_SUBTYPE))
        container[key] = Binary(base64.b64decode(binary, validate=True), UUID_SUBTYPE)
    else:
        raise TypeError(f"{type(found).__name__} has no mark")


def _place(root: dict[str, Any], pointer: str) -> tuple[Any, Any]:
    """The container that the pointer's last token is looked up in, and that token as its key."""
    *way, last = map(unescape, pointer.split("/"))
    container: Any = root
    for part in way:
        container = container[_key(container, part)]
    return container, _key(container, last)


def _key(container: Any, part: str) -> str | int:
    return int(part) if isinstance(container, list) else part
