"""Type hints beside Relaxed Extended JSON, so that values stored as JSON read back BSON-exact.

A *type hint* is a JSON Pointer (RFC 6901) into the JSON form of a value. The target determines its meaning:

- a number: it is an int64, although it would fit into an int32;
- an object: it is a plain object, although a name in it starts with `$`;
- a binary's `subType`: it has the subtype of UUIDs, and is none.

The pointers of a hostile document can take many times its own size. Its only hint is then `bson:` and the value itself,
as BSON in base64.

For values that JSON can't express at all (invalid UTF-8, for example), the pointer is followed by a NUL, which no field
name contains, and by the BSON type and bytes.

Sources: https://www.rfc-editor.org/rfc/rfc6901 ,
https://github.com/mongodb/specifications/blob/master/source/extended-json.md
"""

from __future__ import annotations

import base64
import uuid
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.errors import BSONError
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.bson_scan.opaque import (
    WRAPPER,
    OddDocument,
    Opaque,
    UnreadableDocument,
    element_of,
    encode,
    read,
    value_of,
)
from eventsync.domain.bson_scan.plain import is_odd_decimal
from eventsync.domain.patches.json_pointer import escape, unescape
from eventsync.domain.values.extended_json import Literal, decode, from_tree
from eventsync.domain.values.type_wrappers import INT32_MAX, INT32_MIN
from eventsync.errors import Malformed

_EXACT: Final = frozenset({str, int, float, bool, type(None), ObjectId, datetime, bytes, uuid.UUID})
_DOCUMENT: Final = 0x03
_FEW: Final = 20
_SHORT: Final = 4096
_SUBTYPE: Final = "/$binary/subType"
_WHOLE: Final = "bson:"
"""The prefix of a hint that contains the value itself. A pointer is empty or begins with `/`."""

_MAX_LETTERS: Final = 32 * 1024 * 1024
"""Pointers with more letters than this are not written one by one."""


def type_hints_of(value: Any) -> list[str]:
    """Return the type hints of a BSON value. Nearly all values have none, and are tested fast."""
    if not _inexact(value):
        return []
    try:
        return _Pointers().of(value)
    except _TooMany:
        return [_WHOLE + base64.b64encode(encode({"": value})).decode()]


def from_tree_with_hints(tree: Any, pointers: Sequence[str]) -> Any:
    """Convert Extended JSON as `from_tree` does, with the type hints of the original value. Changes `tree`.

    Raises `Malformed`, also for hints that don't fit `tree`.
    """
    if pointers and pointers[0].startswith(_WHOLE):
        return _whole(pointers[0])
    # Each pointer begins with an empty token, which so leads to the tree. The tree itself may be replaced, too.
    root: dict[str, Any] = {"": tree}
    exact: list[tuple[str, Any]] = []
    for pointer in pointers:
        try:
            where, nul, value = pointer.partition("\0")
            if nul:
                # What stands there in the JSON is for clients, and must not be read as a value.
                _replace(root, where, None)
                exact.append((where, _read_exact(value, whole=not where)))
            else:
                _mark(root, pointer)
        except (LookupError, TypeError, ValueError) as error:
            raise Malformed(f"{pointer[:200]!r} names no value: {error!r}") from error
    root[""] = from_tree(root[""])
    for where, value in exact:
        _replace(root, where, value)
    return root[""]


def pack_type_hints(pointers: Sequence[str]) -> list[str] | bytes:
    """Return the stored form of type hints, which is compressed if they are many or long."""
    listed = list(pointers)
    plain = len(listed) <= _FEW and sum(map(len, listed)) <= _SHORT
    return listed if plain else zlib.compress(orjson.dumps(listed), 1)


def unpack_type_hints(stored: Sequence[str] | bytes | None) -> Sequence[str]:
    """Read the stored form of type hints. Raises `Malformed`."""
    if not isinstance(stored, bytes):
        return stored or ()
    try:
        listed: list[str] = orjson.loads(zlib.decompress(stored))
    except (zlib.error, ValueError) as error:
        raise Malformed(f"the type hints can't be read: {error}") from error
    return listed


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
    return any(map(_inexact, value)) if kind is list else _is_inexact_leaf(value)


def _is_inexact_leaf(value: Any) -> bool:
    """Return True if a value of a rarer type may need type hints."""
    if isinstance(value, Decimal128):
        return is_odd_decimal(value)
    if isinstance(value, Binary):
        return value.subtype == UUID_SUBTYPE
    return isinstance(value, DBRef | Code | Opaque | OddDocument)


class _TooMany(Exception):
    """The pointers have more letters than `_MAX_LETTERS`."""


class _Pointers:
    """Walks through a value. `_way` is the current path, which becomes a pointer only for a hint."""

    __slots__ = ("_found", "_left", "_way")

    def __init__(self) -> None:
        self._found: list[str] = []
        self._way: list[str] = []
        self._left = _MAX_LETTERS

    def of(self, value: Any) -> list[str]:
        self._walk(value)
        return self._found

    def _add_exact(self, value: Any) -> None:
        kind, raw = element_of(value[WRAPPER] if isinstance(value, UnreadableDocument) else value)
        self._add("\0" + base64.b64encode(b"%c%b" % (kind, raw)).decode())

    def _add(self, behind: str = "") -> None:
        pointer = "".join([f"/{escape(token)}" for token in self._way]) + behind
        self._left -= len(pointer)
        if self._left < 0:
            raise _TooMany
        self._found.append(pointer)

    def _walk(self, value: Any) -> None:
        if isinstance(value, list):
            for index, item in enumerate(value):
                self._enter(str(index), item)
        elif isinstance(value, OddDocument):
            self._add_exact(value)
        elif isinstance(value, Mapping):
            if any(name.startswith("$") for name in value):
                self._add()
            self._members(value)
        else:
            self._leaf(value)

    def _leaf(self, value: Any) -> None:
        if isinstance(value, Int64):
            if INT32_MIN <= value <= INT32_MAX:
                self._add()
        elif isinstance(value, DBRef | Code):
            self._compound(value)
        elif isinstance(value, Binary):
            if value.subtype == UUID_SUBTYPE:
                self._add(_SUBTYPE)
        elif _is_lost(value):
            self._add_exact(value)

    def _compound(self, value: DBRef | Code) -> None:
        """Handle a value whose inside no pointer can reach once it is decoded: exact as a whole or not at all."""
        before = len(self._found)
        document = value.as_doc() if isinstance(value, DBRef) else {"$scope": value.scope}
        self._members(document)
        named = [name for name in document if name.startswith("$")]
        known = isinstance(value, Code) or named == [name for name in ("$ref", "$id", "$db") if name in document]
        if not known or any("\0" in pointer for pointer in self._found[before:]):
            del self._found[before:]
            self._add_exact(value)

    def _members(self, value: Mapping[str, Any]) -> None:
        for name, item in value.items():
            self._enter(name, item)

    def _enter(self, token: str, item: Any) -> None:
        if type(item) in _EXACT:
            return
        self._way.append(token)
        self._walk(item)
        self._way.pop()


def _is_lost(value: Any) -> bool:
    """Return True if no JSON form reads back as the same value."""
    if isinstance(value, Opaque):
        return bool(value.shown() != value.spelled())
    return isinstance(value, Decimal128) and is_odd_decimal(value)


def _read_exact(text: str, *, whole: bool) -> Any:
    data = base64.b64decode(text, validate=True)
    return read(data[1:]) if whole and data[0] == _DOCUMENT else value_of(data[0], data[1:])


def _whole(type_hint: str) -> Any:
    try:
        return decode(base64.b64decode(type_hint.removeprefix(_WHOLE), validate=True))[""]
    except (LookupError, ValueError, BSONError) as error:
        raise Malformed(f"the value of a type hint can't be read: {error!r}") from error


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
        raise TypeError(f"{type(found).__name__} has no type hint")


def _replace(root: dict[str, Any], pointer: str, value: Any) -> None:
    container, key = _place(root, pointer)
    if container[key] is not value:  # which raises where there is nothing
        container[key] = value


def _place(root: dict[str, Any], pointer: str) -> tuple[Any, Any]:
    """Return the container of the pointer's last token, and that token as its key."""
    *way, last = map(unescape, pointer.split("/"))
    container: Any = root
    for part in way:
        container = container[_key(container, part)]
    return container, _key(container, last)


def _key(container: Any, part: str) -> str | int:
    return int(part) if isinstance(container, list) else part
