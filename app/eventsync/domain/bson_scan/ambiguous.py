"""Documents with one field name twice in an object: MongoDB stores them, and no driver shows both values. Pure.

The driver keeps the last value, MongoDB finds by the first one. So no predicate is decided by a field with such an
object: neither by what clients are shown, nor by what MongoDB would find.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import bson
from bson.errors import BSONError

from eventsync.domain.bson_scan.opaque import (
    CODEC,
    SCALARS,
    Document,
    OddDocument,
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


def like(document: Mapping[str, Any], copied: Document) -> Document:
    """Return `copied`, made of `document`, as an `OddDocument` or an `AmbiguousDocument` if the document is one."""
    if isinstance(document, AmbiguousDocument):
        return AmbiguousDocument(copied, document.fields)
    return type(document)(copied) if isinstance(document, OddDocument) else copied


def is_decidable(document: Mapping[str, Any], fields: frozenset[str]) -> bool:
    """Return False if a predicate that reads these fields can't know if it matches a document."""
    if isinstance(document, AmbiguousDocument):
        return document.fields.isdisjoint(fields)
    return not isinstance(document, UnreadableDocument)


def is_distinct(change: Document, images: Iterable[str], raw: bytes, fields: Sequence[str]) -> bool:
    """Return True if no image in a change is ambiguous in these fields. False is inconclusive.

    `raw` is the BSON that the change was decoded from.
    """
    present = [image for name in images if (image := change.get(name)) is not None]

    def is_plain(field: str) -> bool:
        return _is_single(field, change, present, raw) and all(_is_flat(image.get(field)) for image in present)

    return (len(fields) <= _COUNTED and all(map(is_plain, fields))) or _is_encoded_as(change, raw)


def is_doubtful(change: Document, after: str, before: str, raw: bytes) -> bool:
    """Return True if the image `after` an update may be wrong, because a changed field is ambiguous `before`.

    MongoDB changes the first value of a name, and makes the image as if it had changed all of them. `raw` is the BSON
    that the change was decoded from.
    """
    described = change.get("updateDescription") or {}
    paths = [*described.get("updatedFields", ()), *described.get("removedFields", ())]
    paths += [array["field"] for array in described.get("truncatedArrays", ())]
    images = (change[after], change[before])

    def is_plain(path: str) -> bool:
        return "." not in path and _is_single(path, change, images, raw)

    if (len(paths) <= _COUNTED and all(map(is_plain, paths))) or _is_encoded_as(change, raw):
        return False
    fields = next((_ambiguous(value) for _, name, value in parts_of(raw) if name == before.encode()), frozenset[str]())
    # A path with dots may also be the name of a field.
    return any(path in fields or path.partition(".")[0] in fields for path in paths)


def _is_single(name: str, change: Document, images: Iterable[Document], raw: bytes) -> bool:
    """Return True if each image of a change has a name once at most, at the top."""
    described = change.get("updateDescription") or {}
    ended = name.encode("utf-8", "surrogateescape") + b"\0"
    # What has the name has it once at least, so once exactly if there are no more.
    named = sum(name in each for each in (described.get("updatedFields", ()), *images))
    # Removed names are texts. The name may end others, such as `_id`; a search with the type before it is slower.
    return raw.count(ended) <= named + (name in described.get("removedFields", ())) or (
        len(re.findall(b"[%b]%b" % (TYPES, re.escape(ended)), raw)) <= named
    )


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
