"""Documents with one field name twice in an object: MongoDB stores them, and no driver shows both values. Pure.

The driver keeps the last value, MongoDB finds by the first one. So no predicate is decided by a field with such an
object: neither by what clients are shown, nor by what MongoDB would find.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import bson
from bson.errors import BSONError

from eventsync.domain.bson_scan.opaque import (
    CODEC,
    SCALARS,
    Document,
    UnreadableDocument,
    is_array,
    is_container,
    parts_of,
)
from eventsync.domain.bson_scan.plain import TYPES

_COUNTED: Final = 4
"""Most fields that are counted: for more, encoding the change takes less time."""


class AmbiguousDocument(Document):
    """A decoded document. In its `fields` a name stands twice, or they stand twice themselves."""

    def __init__(self, document: Mapping[str, Any], fields: frozenset[str]) -> None:
        super().__init__(document)
        self.fields = fields


def checked(document: Document, raw: bytes) -> Document:
    """Return `document`, which was decoded from `raw`; as an `AmbiguousDocument` if it is one."""
    # The driver encodes ten times as fast as the names can be compared here.
    if isinstance(document, UnreadableDocument) or _is_encoded_as(document, raw):
        return document
    fields = _ambiguous(raw)
    return AmbiguousDocument(document, fields) if fields else document


class FieldName(NamedTuple):
    """A field's name, as text and in BSON: `ended` may be the end of another name, `pattern` has the type before it."""

    text: str
    ended: bytes
    pattern: re.Pattern[bytes]

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the name for its text."""
        ended = text.encode("utf-8", "surrogateescape") + b"\0"
        return cls(text, ended, re.compile(b"[%b]%b" % (TYPES, re.escape(ended))))

    def at_most(self, count: int, raw: bytes) -> bool:
        """Return True if the name is certainly not more often in `raw`."""
        # Not the pattern alone: counting is much faster. But `id` ends many other names and texts.
        return raw.count(self.ended) <= count or len(self.pattern.findall(raw)) <= count


def is_distinct(change: Document, images: Iterable[str], raw: bytes, fields: Sequence[FieldName]) -> bool:
    """Return True if no image in a change is ambiguous in these fields. False is inconclusive.

    `raw` is the BSON that the change was decoded from.
    """
    if len(fields) <= _COUNTED:
        present = [image for name in images if (image := change.get(name)) is not None]
        if all(_is_once(field, change.get("updateDescription") or {}, present, raw) for field in fields):
            return True
    return _is_encoded_as(change, raw)


def is_doubtful(change: Document, after: str, before: str, raw: bytes) -> bool:
    """Return True if the image `after` an update may be wrong, because a changed field is ambiguous `before`.

    MongoDB changes the first value of a name, and makes the image as if it had changed all of them. `raw` is the BSON
    that the change was decoded from.
    """
    described = change.get("updateDescription") or {}
    updated, removed = described.get("updatedFields", ()), described.get("removedFields", ())
    paths = [*updated, *removed, *(array["field"] for array in described.get("truncatedArrays", ()))]

    def is_single(path: str) -> bool:
        # Removed names are texts, which look like names here.
        expected = sum(path in each for each in (updated, removed, change[after], change[before]))
        return "." not in path and raw.count(path.encode("utf-8", "surrogateescape") + b"\0") <= expected

    if (len(paths) <= _COUNTED and all(map(is_single, paths))) or _is_encoded_as(change, raw):
        return False
    fields = next((_ambiguous(value) for _, name, value in parts_of(raw) if name == before.encode()), frozenset[str]())
    # A path with dots may also be the name of a field.
    return any(path in fields or path.partition(".")[0] in fields for path in paths)


def _is_once(field: FieldName, described: Mapping[str, Any], images: Iterable[Document], raw: bytes) -> bool:
    """Return True if each image has a field once at most, and no objects in it."""
    name = field.text
    expected = int(name in described.get("updatedFields", ()))
    for image in images:
        if name in image:
            expected += 1
            if not _is_flat(image[name]):
                return False
    # Each image that has it has it once at least, so once exactly if there are no more.
    return field.at_most(expected, raw)


def _is_encoded_as(document: Document, raw: bytes) -> bool:
    try:
        return bson.encode(document, codec_options=CODEC) == raw
    except (BSONError, UnicodeError, OverflowError):
        return False


def _is_flat(value: Any) -> bool:
    kind = type(value)
    return kind in SCALARS or (kind is list and all(type(item) in SCALARS for item in value))


def _ambiguous(raw: bytes) -> frozenset[str]:
    """Return the fields of a document that stand twice, or that have a name twice within."""
    found, seen = set[bytes](), set[bytes]()
    for kind, name, value in parts_of(raw):
        if name in seen or (is_container(kind) and _repeats(kind, value)):
            found.add(name)
        seen.add(name)
    return frozenset(name.decode("utf-8", "surrogateescape") for name in found)


def _repeats(kind: int, raw: bytes) -> bool:
    """Return True if an object has a name twice; the names of arrays are numbers, and count nothing."""
    waiting = [(kind, raw)]
    while waiting:
        kind, raw = waiting.pop()
        seen = set[bytes]()
        for inner, name, value in parts_of(raw):
            if not is_array(kind):
                if name in seen:
                    return True
                seen.add(name)
            if is_container(inner):
                waiting.append((inner, value))
    return False
