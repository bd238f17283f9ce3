"""BSON that the driver refuses: a reader that can't fail, and a writer that gives the same bytes back. Pure.

MongoDB checks lengths and little else of what it stores, so a document may hold text that is not UTF-8, a binary whose
inner length is wrong, or a type that the driver does not know. Such a value is `Opaque` here: its type and its bytes.
All other values of the document are what the driver makes of them.

In JSON an opaque value reads as its type with replacement characters, where only its text is at fault. Else it is
`{"$opaque": {"type": "05", "base64": "…"}}`: the BSON type in hex, and the bytes of the value. A document that can't be
split into fields is `{"_id": …, "$opaque": …}`. `domain.values.type_hints` keeps the exact bytes beside what is
stored.

Source: https://bsonspec.org/spec.html
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from types import NoneType
from typing import Any, Final, NamedTuple

import bson
from bson.binary import UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.dbref import DBRef
from bson.errors import BSONError, InvalidDocument
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument

Document = dict[str, Any]
"""A decoded BSON document: keys are field names, values are BSON values as `CODEC` decodes them."""

CODEC: Final[CodecOptions[Document]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    # A date beyond year 9999 is a legal BSON value: it stays exact as DatetimeMS instead of failing the read.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""Decodes all documents of the user: aware datetimes, standard UUIDs, nothing lossy."""

MAX_STORED_DEPTH: Final = 190
"""Deepest nesting that is read. MongoDB stores 180 levels unless `maxBSONDepth` is raised; orjson writes 254, and a
walk through a document takes up to three Python frames a level.
"""

WRAPPER: Final = "$opaque"

_LEAST_DEEP: Final = 7 * MAX_STORED_DEPTH
"""Bytes below which a document can't nest deeper: each level takes a type, a name, a length and two NULs."""

_DOCUMENT, _ARRAY, _BINARY = 0x03, 0x04, 0x05
_CONTAINERS: Final = frozenset({_DOCUMENT, _ARRAY})
_TEXTUAL: Final = frozenset({0x02, 0x0B, 0x0C, 0x0D, 0x0E})
"""String, regular expression, DBPointer, code and symbol: readable with replacement characters."""

_FIXED: Final = {
    0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0,
}  # fmt: skip
"""Bytes of the values whose type says how many there are."""

_BEHIND_LENGTH: Final = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
"""Bytes of the values that begin with a length, besides those that it counts."""

_INT32: Final = struct.Struct("<i")
_WHOLE_UP_TO: Final = 3
"""Down to this level a container is first tried as a whole. Deeper ones are not, or each byte is read at each level."""

_SPLIT: Final = 16
"""Values that the driver refuses together are tried in so many parts."""


class Opaque:
    """A BSON value that can't be read as its type says: the type byte, and the bytes of the value."""

    __slots__ = ("kind", "raw")

    def __init__(self, kind: int, raw: bytes) -> None:
        self.kind = kind
        self.raw = raw

    @classmethod
    def framed(cls, kind: int, raw: bytes) -> Opaque:
        """Make one whose bytes are as long as its type asks for. Raises `ValueError`."""
        if _size(kind, raw, 0, len(raw)) != len(raw):
            raise ValueError(f"a value of type {kind:02x} has another length")
        return cls(kind, raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and (self.kind, self.raw) == (other.kind, other.raw)

    def __hash__(self) -> int:
        return hash((self.kind, self.raw))

    def __repr__(self) -> str:
        return f"Opaque(0x{self.kind:02x}, {self.raw[:40]!r})"

    def shown(self) -> Any:
        """Return the value to write as JSON: with replacement characters, or `spelled`."""
        if self.kind in _TEXTUAL:
            try:
                return bson.decode(_alone(self.kind, self.raw), _REPLACING)[""]
            except Exception:  # noqa: BLE001 - whatever the driver can't do, the other form can
                return self.spelled()
        return self.spelled()

    def spelled(self) -> dict[str, dict[str, str]]:
        """Return the form that names type and bytes, and reads back as the same value."""
        return {WRAPPER: {"type": f"{self.kind:02x}", "base64": base64.b64encode(self.raw).decode()}}


class OddDocument(Document):
    """A document in which a field name is not UTF-8: the name's odd bytes are lone surrogates (PEP 383)."""


class UnreadableDocument(OddDocument):
    """`{"_id": …, "$opaque": Opaque}`: a document that can't be split into fields."""


_REPLACING: Final = CODEC.with_options(unicode_decode_error_handler="replace")
_BINARY_UUIDS: Final = CODEC.with_options(uuid_representation=UuidRepresentation.UNSPECIFIED)


class _Broken(ValueError):
    """The elements of a document don't fill it."""

    def __str__(self) -> str:
        return "the bytes are no BSON"


class _Element(NamedTuple):
    kind: int
    name: bytes
    value: bytes


# --- reading ------------------------------------------------------------------------------------------------------


def read(raw: bytes | memoryview, codec: CodecOptions[Document] = CODEC) -> Document:
    """Return the document in `raw`, whatever that is. Never fails."""
    data = bytes(raw)
    reader = _Reader(codec)
    found: list[_Element] = []
    try:
        for element in _elements(data):
            found.append(element)  # noqa: PERF402 - what comes before the break is kept
    except _Broken:
        ids = [id_of(element.kind, element.value) for element in found if element.name == b"_id"]
        return UnreadableDocument({"_id": ids[-1] if ids else None, WRAPPER: Opaque(_DOCUMENT, data)})
    document = dict(zip(map(reader.name, found), reader.values(found, 0), strict=True))
    for kind, name, value in found:
        if name == b"_id" and kind == _DOCUMENT and _is_inexact(document["_id"], value):
            document["_id"] = Opaque(kind, value)
    return OddDocument(document) if reader.odd_names else document


def field_of(raw: bytes | memoryview, name: str) -> Any:
    """Return the value of one field of a document, or None. Nothing after the field is read. Never fails.

    (A `RawBSONDocument` decodes all arrays of a document as soon as it is asked for any field.)
    """
    data, wanted = bytes(raw), name.encode()
    try:
        for element in _elements(data):
            if element.name == wanted:
                return (id_of if name == "_id" else value_of)(element.kind, element.value)
    except _Broken:
        return read(data).get(name)
    return None


def value_of(kind: int, raw: bytes) -> Any:
    """Return the value of an element of type `kind`. Never fails."""
    if kind == _DOCUMENT:
        reader = _Reader(CODEC)
        value = reader.values([_Element(kind, b"", raw)], -1)[0]
        return OddDocument(value) if reader.odd_names and isinstance(value, dict) else value
    return _Reader(CODEC).values([_Element(kind, b"", raw)], 0)[0]


def id_of(kind: int, raw: bytes) -> Any:
    """Return the value of an `_id`: as `value_of`, but `Opaque` where it would be written back as another one."""
    value = value_of(kind, raw)
    return Opaque(kind, raw) if kind == _DOCUMENT and _is_inexact(value, raw) else value


def inexact_id(raw: bytes | memoryview, document: Mapping[str, Any]) -> bool:
    """Return True if the `_id` of `document`, which was decoded from `raw`, would be written back as another value.

    The driver reads the deprecated types as others, and drops flags of regular expressions that it does not know. In a
    field that loses little; a document whose `_id` is read like that is never found again. Only an object can hold
    such a value: `eventsync.domain.ids` knows what else there is.
    """
    if not is_object_id(document):
        return False
    # MongoDB puts it first.
    return raw[4] == _DOCUMENT and bytes(raw[5:9]) == b"_id\0" and _is_inexact(document["_id"], bytes(raw[9:]))


def is_object_id(document: Mapping[str, Any]) -> bool:
    """Return True if the `_id` of a decoded document is an object. All others are exact (see `inexact_id`)."""
    kind = type(document.get("_id"))
    return kind is dict or kind is DBRef


def _is_inexact(value: Any, raw: bytes) -> bool:
    """Return True if `value`, decoded from the object at the start of `raw`, is encoded as another object."""
    return isinstance(value, Mapping | DBRef) and not raw.startswith(element_of(value)[1])


def too_deep(raw: bytes | memoryview, document: Mapping[str, Any]) -> bool:
    """Return True if `document`, which was decoded from `raw`, nests deeper than `MAX_STORED_DEPTH`."""
    # Only a document with that many bytes that look like the type of a container is gone through.
    if len(raw) < _LEAST_DEEP or (found := bytes(raw)).count(3) + found.count(4) < MAX_STORED_DEPTH:
        return False
    return _deeper(document.values(), MAX_STORED_DEPTH)


def _deeper(values: Any, limit: int) -> bool:
    """Return True if a container is more than `limit` levels below those that contain `values`."""
    level: list[Any] = [value for value in values if isinstance(value, dict | list)]
    for _ in range(limit):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def parts_of(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """Return type, name and bytes of each element of a document or an array, up to the first that is broken."""
    found: list[tuple[int, bytes, bytes]] = []
    with suppress(_Broken):
        found.extend(_elements(data))
    return found


def is_container(kind: int) -> bool:
    """Return True for the types of objects and arrays."""
    return kind in _CONTAINERS


def is_array(kind: int) -> bool:
    """Return True for the type of arrays."""
    return kind == _ARRAY


def _elements(data: bytes) -> Iterator[_Element]:
    """Yield the elements of a document. Raises `_Broken` after the last valid one if they don't fill it."""
    end = len(data) - 1
    if len(data) < 5 or _INT32.unpack_from(data)[0] != len(data) or data[end]:
        raise _Broken
    at = 4
    while at < end:
        named = data.find(b"\0", at + 1, end)
        if named < 0:
            raise _Broken
        kind, start = data[at], named + 1
        at_end = start + _size(kind, data, start, end)
        if at_end > end:
            raise _Broken
        yield _Element(kind, data[at + 1 : named], data[start:at_end])
        at = at_end


def _size(kind: int, data: bytes, start: int, end: int) -> int:
    if (size := _FIXED.get(kind)) is not None:
        return size
    if (more := _BEHIND_LENGTH.get(kind)) is not None:
        length = _INT32.unpack_from(data, start)[0] if start + 4 <= end else -1
        if length < 0 or (more == 0 and length < 5):
            raise _Broken
        return int(length) + more
    if kind == 0x0B:
        pattern = data.find(b"\0", start, end)
        options = data.find(b"\0", pattern + 1, end) if pattern >= 0 else -1
        if options >= 0:
            return options + 1 - start
    raise _Broken  # a type that the specification does not know has a length that nobody knows


class _Reader:
    """Reads the values of one document. `odd_names` is True once a name in it is not UTF-8."""

    def __init__(self, codec: CodecOptions[Document]) -> None:
        self._codec = codec
        self._odd = 0
        self.odd_names = False

    def name(self, element: _Element) -> str:
        try:
            return element.name.decode()
        except UnicodeDecodeError:
            self.odd_names = True
            self._odd += 1
            return element.name.decode("utf-8", "surrogateescape")

    def values(self, elements: Sequence[_Element], depth: int) -> list[Any]:
        """Decode the values of these, as many at a time as the driver takes. `depth` is that of their document."""
        found: list[Any] = []
        waiting = [elements] if elements else []
        while waiting:
            run = waiting.pop()
            taken = self._at_once(run, depth)
            if taken is not None:
                found += taken
            elif len(run) == 1:
                found.append(self._alone(run[0], depth))
            else:
                step = -(-len(run) // _SPLIT)
                waiting += [run[start : start + step] for start in range(0, len(run), step)][::-1]
        return found

    def _at_once(self, run: Sequence[_Element], depth: int) -> list[Any] | None:
        if depth >= _WHOLE_UP_TO and any(element.kind in _CONTAINERS for element in run):
            return None
        body = b"".join(b"%c%d\0%b" % (kind, n, value) for n, (kind, _, value) in enumerate(run))
        try:
            values = list(bson.decode(_framed(body), self._codec).values())
        except Exception:  # noqa: BLE001 - whatever the driver finds wrong, one of them is to be looked at alone
            return None
        return None if len(values) != len(run) or _deeper(values, MAX_STORED_DEPTH - depth) else values

    def _alone(self, element: _Element, depth: int) -> Any:
        kind, _, raw = element
        if kind in _CONTAINERS and depth < MAX_STORED_DEPTH:
            return self._container(kind, raw, depth + 1)
        if kind == _BINARY:
            try:
                return bson.decode(_alone(kind, raw), _BINARY_UUIDS)[""]  # a UUID of another length is a binary
            except Exception:  # noqa: BLE001, S110 - then it is opaque
                pass
        self._odd += 1
        return Opaque(kind, raw)

    def _container(self, kind: int, raw: bytes, depth: int) -> Any:
        try:
            elements = list(_elements(raw))
        except _Broken:
            self._odd += 1
            return Opaque(kind, raw)
        before = self._odd
        values = self.values(elements, depth)
        if kind == _ARRAY:
            return values
        found = dict(zip(map(self.name, elements), values, strict=True))
        return _reference(found) if self._odd == before else found


def _reference(found: Document) -> Any:
    """Return a DBRef where the driver reads one, else `found`."""
    if not isinstance(found.get("$ref"), str) or "$id" not in found or not isinstance(found.get("$db", ""), str):
        return found
    rest = {name: value for name, value in found.items() if name not in {"$ref", "$id", "$db"}}
    return DBRef(found["$ref"], found["$id"], found.get("$db"), rest)


def _alone(kind: int, raw: bytes) -> bytes:
    return _framed(b"%c\0%b" % (kind, raw))


def _framed(body: bytes | bytearray) -> bytes:
    return b"".join((_INT32.pack(len(body) + 5), body, b"\0"))


# --- writing ------------------------------------------------------------------------------------------------------


def encode(document: Mapping[str, Any]) -> bytes:
    """Encode a document; opaque values keep their bytes. Raises the errors of `bson.encode`."""
    try:
        return bson.encode(document, codec_options=CODEC)
    except (BSONError, UnicodeError):
        return _framed(_elements_of(document))


def writable(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `document` in a form that the driver can encode: unchanged if nothing in it is odd."""
    return RawBSONDocument(encode(document)) if is_odd(document) else document


def is_odd(value: Any) -> bool:
    """Return True if `value` contains an opaque value or a name that is not UTF-8."""
    # By far the commonest first: `isinstance` of an abstract class takes several times as long.
    kind = type(value)
    if kind in SCALARS:
        return False
    if kind is dict:
        return any(not is_text(name) or is_odd(item) for name, item in value.items())
    if isinstance(value, RawBSONDocument):
        return False
    inner = _opened(value)
    if isinstance(inner, Mapping):
        return any(not is_text(name) or is_odd(item) for name, item in inner.items())
    return any(map(is_odd, inner)) if isinstance(inner, list) else isinstance(inner, Opaque)


SCALARS: Final = frozenset({str, int, float, bool, NoneType, bytes, datetime, ObjectId, Int64})
"""Types of values that contain no others: the common ones."""


def opaques(value: Any) -> Iterator[Opaque]:
    """Yield all opaque values in `value`."""
    if isinstance(value, Opaque):
        yield value
    elif isinstance(inner := _opened(value), Mapping):
        for item in inner.values():
            yield from opaques(item)
    elif isinstance(inner, list):
        for item in inner:
            yield from opaques(item)


def _opened(value: Any) -> Any:
    """Return the inner object of a DBRef or of code with a scope; other values unchanged."""
    if isinstance(value, DBRef):
        return value.as_doc()
    return value.scope if isinstance(value, Code) else value


def is_text(name: str) -> bool:
    """Return True if a name can be encoded as UTF-8."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def readable(name: str) -> str:
    """Return a name with replacement characters for bytes that are not UTF-8."""
    return name if is_text(name) else name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def element_of(value: Any) -> tuple[int, bytes]:
    """Return type and bytes of a value as an element of a document. Raises what `bson.encode` raises."""
    element = _elements_of({"": value})
    return element[0], bytes(element[2:])


def _elements_of(container: Mapping[str, Any] | list[Any]) -> bytearray:
    """Return the encoded elements of a document or an array. (One Python frame a level: documents nest deep.)"""
    written = bytearray()
    for key, value in enumerate(container) if isinstance(container, list) else container.items():
        name = str(key).encode("utf-8", "surrogateescape")
        if b"\0" in name:
            raise InvalidDocument("a field name must not contain a null character")
        inner = value.as_doc() if isinstance(value, DBRef) else value
        if isinstance(inner, Opaque):
            kind, raw = inner.kind, inner.raw
        elif isinstance(inner, list):
            kind, raw = _ARRAY, _framed(_elements_of(inner))
        elif isinstance(inner, Mapping) and not isinstance(inner, RawBSONDocument):
            kind, raw = _DOCUMENT, _framed(_elements_of(inner))
        else:
            alone = bson.encode({"": inner}, codec_options=CODEC)
            kind, raw = alone[4], alone[6:-1]
        written += b"%c%b\0%b" % (kind, name, raw)
    return written
