"""Converts a MongoDB change to an event. Pure: no driver call, no clock, no state.

Sources: https://www.mongodb.com/docs/manual/reference/change-events/ and `docs/reference/events.md`, which lists
the event of each kind of change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import bson
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from eventsync.domain.bson_scan.ambiguous import checked, is_distinct, is_doubtful
from eventsync.domain.bson_scan.opaque import (
    WRAPPER,
    OddDocument,
    Opaque,
    UnreadableDocument,
    encode,
    field_of,
    inexact_id,
    is_object_id,
    too_deep,
)
from eventsync.domain.bson_scan.plain import is_misread, is_plain
from eventsync.domain.events import Event, Op, encode_patch
from eventsync.domain.ids import IdText, format_id
from eventsync.domain.patches.diff import Operation, Touched, diff
from eventsync.domain.routes import NO_DEFINITIONS, Router, Routes
from eventsync.domain.stamp import FIELD, Stamp, trace_in, unstamp, unversioned
from eventsync.domain.values.extended_json import JSON_CODEC, RAW_CODEC, Document, decode, longer_than, same, to_json
from eventsync.domain.values.type_hints import type_hints_of
from eventsync.domain.values.type_wrappers import INT32_MAX, INT32_MIN
from eventsync.errors import EventsyncError

_NONE = Stamp()

STAMPED = "stampedBeforeChange"
"""In a delete without its image: the `_sync` that an API delete has set just before it, in the same transaction."""

_LONG_PATH = 1000
_MAX_LETTERS = 1024 * 1024
"""Paths longer than `_LONG_PATH` are split as long as their possible prefixes have at most `_MAX_LETTERS` in all.

Beyond that it is cheaper to compare the whole documents: a field's name may consist of a million dots.
"""


class StateMissing(EventsyncError):
    """The change lacks an image that its conversion needs."""

    code = "state_missing"


DecodedChange = dict[str, Any]
"""A change as plain values, including its images."""


class EncodedEvent(NamedTuple):
    """An encoded event. It does not hold the values: the documents of a transaction may have millions of them."""

    collection: str
    id: IdText
    version: int
    encoded: bytes
    type_hints: Sequence[str]
    """Those of its document or patch."""
    routes: Routes | None = None
    unrouted: Sequence[str] = ()
    """The definitions that its document can't be routed by."""
    trace: str | None = None
    """The `traceparent` that the write has left in the stamp, if it was looked for."""


def encode_event(event: Event, routes: Routes | None = None, unrouted: Sequence[str] = ()) -> EncodedEvent:
    """Encode an event."""
    encoded, type_hints = event.encode(), list[str]()
    if not event.plain:
        type_hints = type_hints_of(event.document if event.document is not None else event.patch or [])
    return EncodedEvent(event.collection, event.id, event.version, encoded, type_hints, routes, unrouted)


def encode_routed(
    event: Event,
    router: Router,
    before: Document | None,
    after: Document | None,
    raw: bytes | memoryview | None = None,
) -> EncodedEvent:
    """Encode an event with the routes of the document from one state to the other. Both may have their stamps.

    `raw` is the BSON that `after` was decoded from, or has that within it.
    """
    if not router.covers(event.collection):
        return encode_event(event)
    routes, unrouted = router.routes(event.collection, before, after)
    if routes is not None and routes.enters and event.op == "update" and after is not None:
        # The same test of all values would take four times as long as the encoding.
        is_exact = raw is not None and not is_misread(raw)
        routes = routes._replace(document=to_json(unstamp(after)[1], plain=is_exact))
    return encode_event(event, routes, unrouted)


def encode_change(
    event: Event | None,
    change: DecodedChange,
    router: Router = NO_DEFINITIONS,
    raw: bytes | memoryview | None = None,
    *,
    images: Mapping[str, Any] | None = None,
    traced: bool = False,
) -> EncodedEvent | None:
    """Encode the event of a decoded change, if it has one, with its routes. `raw` is as for `convert`.

    `images` has the images as raw documents, if `change` was not decoded from `raw`. `traced`: look for the context of
    a trace, too.
    """
    if event is None:
        return None
    # The images are the very states that MongoDB would match, whatever stands for them in the event.
    before, after = change.get(BEFORE), change.get(AFTER)
    if router.covers(event.collection):
        before, after = _told_apart(change, before, after, router.fields(event.collection), raw, images or {})
    encoded = encode_routed(event, router, before, after, None if isinstance(change, OddChange) else raw)
    # A later change from elsewhere leaves the stamp of the last write through the API.
    return encoded._replace(trace=_trace(change)) if traced and not event.external else encoded


def _told_apart(
    change: DecodedChange,
    before: Document | None,
    after: Document | None,
    fields: Sequence[str],
    raw: bytes | memoryview | None,
    images: Mapping[str, Any],
) -> tuple[Document | None, Document | None]:
    """Return the images of a change, those with a field name twice as `AmbiguousDocument`."""
    if raw is not None:
        whole = bytes(raw)
        if is_distinct(change, IMAGES, whole, fields):
            return before, after
        images = RawBSONDocument(whole, RAW_CODEC)
    return _checked(before, images.get(BEFORE)), _checked(after, images.get(AFTER))


def _checked(document: Document | None, raw: Any) -> Document | None:
    return checked(document, bytes(raw.raw)) if document is not None and isinstance(raw, RawBSONDocument) else document


def _trace(change: DecodedChange) -> str | None:
    """Return the `traceparent` in the stamp that the change, a write through the API, has left."""
    if change["operationType"] == "delete":
        return trace_in(change[STAMPED] if STAMPED in change else (change.get(BEFORE) or {}).get(FIELD))
    return trace_in((change.get(AFTER) or {}).get(FIELD))


def convert_raw(raw: bytes, router: Router = NO_DEFINITIONS, traced: bool = False) -> tuple[EncodedEvent | None, bool]:
    """Decode a large change, convert it and encode its event, all in a helper process. Raises like `convert`.

    Return the event, and True if something in the change can't be decoded. `traced` is as for `encode_change`.
    """
    change = decode_change(RawBSONDocument(raw, RAW_CODEC))
    is_odd = isinstance(change, OddChange)
    return encode_change(convert(change, raw), change, router, raw, traced=traced), is_odd


def convert_reread(
    change: DecodedChange, images: Mapping[str, bytes], router: Router = NO_DEFINITIONS, traced: bool = False
) -> EncodedEvent | None:
    """Do the same for an insert, replace or delete whose images are given by name as BSON."""
    read = {name: RawBSONDocument(raw) for name, raw in images.items()}
    decoded = _decode_fields(change | read)
    return encode_change(convert(decoded), decoded, router, images=read, traced=traced)


def keep_as_bytes(
    change: DecodedChange, images: Mapping[str, bytes], router: Router = NO_DEFINITIONS, traced: bool = False
) -> EncodedEvent | None:
    """Do the same if that fails: the event has the document as bytes."""
    read = {name: RawBSONDocument(raw) for name, raw in images.items()}
    decoded = _decode_fields(change | read)
    return encode_change(unreadable(change | read), decoded, router, images=read, traced=traced)


def encode_replacement(
    collection: str,
    id_text: IdText,
    base: int | None,
    raw: bytes,
    at: datetime,
    was: bytes | None = None,
    router: Router = NO_DEFINITIONS,
) -> tuple[EncodedEvent, bool]:
    """Encode the event that replaces a document of version `base`, None if there is none, by the BSON document `raw`.

    `was` is its BSON in the log, from which its former routes are computed. Return the event, and True if it holds the
    document as bytes because JSON can't represent it.
    """
    found = decode(raw)
    after = checked(found, raw) if router.covers(collection) else found
    version, document = unversioned(found)
    op: Op = "create" if base is None else "replace"
    event = Event(collection, id_text, op, base or 0, version, at, document=document)
    before = decode(was) if was is not None and router.covers(collection) else None
    try:
        return encode_routed(event, router, before, after), False
    except Exception:  # noqa: BLE001 - one document must not stop a repair
        event = event._replace(document=unreadable_document(document.get("_id"), document))
        return encode_routed(event, router, before, after), True


def encode_deletion(
    collection: str,
    id_text: IdText,
    version: int,
    at: datetime,
    was: bytes | None = None,
    router: Router = NO_DEFINITIONS,
) -> EncodedEvent:
    """Encode the event that deletes a document. `was` is its BSON in the log, from which its routes are computed."""
    event = Event(collection, id_text, "delete", version, version, at)
    return encode_routed(event, router, None if was is None else decode(was), None)


def outline(change: RawBSONDocument) -> DecodedChange:
    """Decode a change except for what may be large: its images and its `updateDescription`."""
    return Outline(
        (name, decode(value.raw, JSON_CODEC) if isinstance(value, RawBSONDocument) and name not in _LARGE else value)
        for name, value in change.items()
    )


class Outline(DecodedChange):
    """A change whose large fields are not decoded."""


BEFORE, AFTER = "fullDocumentBeforeChange", "fullDocument"
IMAGES = (AFTER, BEFORE)
_LARGE = frozenset({*IMAGES, "updateDescription"})


def outline_without_images(change: RawBSONDocument) -> DecodedChange:
    """Return the outline of a change whose images are to be read from the collection.

    Its `updateDescription` has the stamp only: it may be as large as the document, and is no use without the images.
    """
    parts = {name: value for name, value in outline(change).items() if name not in _LARGE}
    description = change.get("updateDescription")
    if description is not None:
        stamp = field_of(description["updatedFields"].raw, FIELD)
        parts["updateDescription"] = {"updatedFields": {} if stamp is None else {FIELD: stamp}}
    return parts


class OddChange(DecodedChange):
    """A change that contains something that the driver can't decode."""


def decode_change(change: Mapping[str, Any]) -> DecodedChange:
    """Decode a change, in one go if possible, which is much faster than field by field. Never fails."""
    if isinstance(change, RawBSONDocument):
        try:
            decoded = bson.decode(change.raw, JSON_CODEC)
        except Exception:  # noqa: BLE001 - one document can't be decoded, and only that one is read in another way
            return OddChange(_decode_fields(change))
        key = decoded.get("documentKey")
        # Another look at a field of a raw document makes an object for each of its fields.
        is_inexact = key is not None and is_object_id(key) and inexact_id(change["documentKey"].raw, key)
        odd = is_inexact or too_deep(change.raw, decoded)
        return OddChange(_decode_fields(change)) if odd else decoded
    return _decode_fields(change)


def _decode_fields(change: Mapping[str, Any]) -> DecodedChange:
    return {
        name: decode(value.raw, JSON_CODEC) if isinstance(value, RawBSONDocument) else value
        for name, value in change.items()
    }


def convert(change: Mapping[str, Any], raw: bytes | memoryview | None = None) -> Event | None:
    """Return the event of one document change, or None for a change that clients do not see.

    (An API delete marks the document just before it deletes it, in the same transaction: the mark is such a change.)
    `raw` is the BSON that `change` was decoded from; it shows faster than the values how the event is to be encoded.

    Raises `StateMissing` for an update without both images, or with a wrong one, and for a delete or replacement
    without the one before.
    """
    parts = change if isinstance(change, dict) else decode_change(change)
    if parts["operationType"] == "update":
        return _updated(parts, raw)
    if isinstance(parts, OddChange):
        raw = None  # Some values were not decoded from it.
    kind = parts["operationType"]
    if kind == "insert":
        return _created(parts, raw)
    if kind == "replace":
        return _replaced(parts, raw)
    return _deleted(parts)


def unreadable(change: Mapping[str, Any]) -> Event:
    """Return the event of a change that can't be converted although it has its images: the document as bytes."""
    before, after = change.get(BEFORE), change.get(AFTER)
    base = Stamp.of({FIELD: change[STAMPED]}).version if STAMPED in change else _version(before)
    value = _document(change["documentKey"])["_id"]
    name, key, at = change["ns"]["coll"], format_id(value), change["wallTime"]
    if after is None:
        return Event(name, key, "delete", base, base, at)
    op: Op = "create" if change["operationType"] == "insert" else "replace"
    return Event(name, key, op, base, _version(after), at, unreadable_document(value, _document(after)))


def unreadable_document(value: Any, document: Document) -> Document:
    """Return the stand-in for a document that JSON can't represent. `value` is its id."""
    return UnreadableDocument({"_id": value, WRAPPER: Opaque(0x03, encode(unstamp(document)[1]))})


def _document(image: Any) -> Document:
    return decode(image.raw, JSON_CODEC) if isinstance(image, RawBSONDocument) else dict(image)


def _version(image: Any) -> int:
    return 0 if image is None else Stamp.of(_document(image)).version


def _image(change: DecodedChange, name: str) -> Document:
    document: Document | None = change.get(name)
    if document is None:
        raise StateMissing(f"{_where(change)}: it has no {name}")
    return document


def _where(change: DecodedChange) -> str:
    return f"{change['operationType']} of {change['ns']['coll']}/{format_id(change['documentKey']['_id'])}"


def _created(change: DecodedChange, raw: bytes | memoryview | None) -> Event:
    after = _image(change, AFTER)
    stamp, document = unstamp(after)
    return _event(change, "create", _NONE, stamp, document=document, plain=_plain(raw, after))


def _updated(change: DecodedChange, raw: bytes | memoryview | None) -> Event | None:
    was, before = unstamp(_image(change, BEFORE))
    stamp, after = unstamp(_image(change, AFTER))
    if raw is not None and is_doubtful(change, AFTER, BEFORE, bytes(raw)):
        raise StateMissing(f"{_where(change)}: a name stands twice in a changed field, so its {AFTER} may be wrong")
    if isinstance(before, OddDocument) or isinstance(after, OddDocument):
        # A patch can't name a field whose name is not UTF-8.
        marked = stamp.deleted and not was.deleted and same(before, after)
        return None if marked else _event(change, "replace", was, stamp, document=after)
    # `updateDescription` only narrows the comparison: its dotted paths may mean one field or several.
    patch = diff(before, after, None if isinstance(change, OddChange) else _touched(change))
    if stamp.deleted and not was.deleted and not patch:
        return None
    # A patch that outgrows the document is of no advantage.
    patch_json = encode_patch(patch)
    if len(patch) > 1 and _outgrows(patch_json, after):
        return _event(change, "replace", was, stamp, document=after)
    return _event(change, "update", was, stamp, patch=patch, patch_json=patch_json)


def _replaced(change: DecodedChange, raw: bytes | memoryview | None) -> Event:
    before, after = _image(change, BEFORE), _image(change, AFTER)
    stamp, document = unstamp(after)
    return _event(change, "replace", Stamp.of(before), stamp, document=document, plain=_plain(raw, before, after))


def _deleted(change: DecodedChange) -> Event:
    before = _image(change, BEFORE)
    was = Stamp.of({FIELD: change[STAMPED]} if STAMPED in change else before)
    # The stamp of an API delete has raised the version already, in the change before.
    if was.deleted:
        return _event(change, "delete", Stamp(max(0, was.version - 1)), was)
    return _event(change, "delete", was, Stamp(was.version))


def _event(
    change: DecodedChange,
    op: Op,
    was: Stamp,
    now: Stamp,
    *,
    document: Document | None = None,
    patch: list[Operation] | None = None,
    plain: bool = False,
    patch_json: bytes | None = None,
) -> Event:
    """Make an event. A write through the API raises the version by one; any other change is external."""
    op_id, by = (now.op_id, now.by) if now.version == was.version + 1 else (None, None)
    name, key = change["ns"]["coll"], format_id(change["documentKey"]["_id"])
    # Positional arguments: keywords take twice as long, for each change.
    at = change["wallTime"]
    return Event(name, key, op, was.version, now.version, at, document, patch, op_id, by, plain, patch_json)


def _plain(raw: bytes | memoryview | None, *images: Document) -> bool:
    """Return True if the documents are known to be plain, except for the versions in their stamps."""
    if raw is None:
        return False
    versions = 0
    for image in images:
        stamp = image.get(FIELD)
        version = stamp.get("v") if isinstance(stamp, dict) else None
        versions += type(version) is Int64 and INT32_MIN <= version <= INT32_MAX
    return is_plain(bytes(raw), versions, images)


def _touched(change: DecodedChange) -> Touched | None:
    """Return the paths that an update may have changed by its `updateDescription`, or None if it has none."""
    if (description := change.get("updateDescription")) is None:
        return None
    paths = [(path, 0) for path in (*description.get("updatedFields", ()), *description.get("removedFields", ()))]
    paths += [(array["field"], array["newSize"]) for array in description.get("truncatedArrays", ())]
    if sum(path.count(".") * len(path) for path, _ in paths if len(path) > _LONG_PATH) > _MAX_LETTERS:
        return None
    found: dict[str, int] = {}
    for path, first in paths:
        if first or "." in path:
            _touch(found, path, first)
        else:
            found[path] = 0
    return found


def _touch(found: dict[str, int], path: str, first: int) -> None:
    """Add a changed path; if it is an array, it has changed from the item `first` on.

    A dotted path may mean a field with dots in its name, or one inside another: either may have changed.
    """
    found[path] = min(first, found.get(path, first))
    end = path.find(".")
    while end >= 0:
        name, after = path[:end], path.find(".", end + 1)
        item = path[end + 1 : after if after >= 0 else None]
        index = int(item) if item.isascii() and item.isdecimal() else 0
        found[name] = min(index, found.get(name, index))
        end = after


def _outgrows(patch_json: bytes, document: Document) -> bool:
    """Return True if the patch is longer than the document, in JSON."""
    # A cheap estimate first: encoding the document would cost as much as the patch has saved.
    length = len(patch_json)
    return not longer_than(document, length) and length > len(to_json(document))
