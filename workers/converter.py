"""From a MongoDB change to an event. Pure: no driver call, no clock, no state.

Sources: https://www.mongodb.com/docs/manual/reference/change-events/ and `docs/events.md`, which says what each kind of
change becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.domain.diff import diff
from app.domain.event import Event
from app.domain.ids import IdText, format_id
from app.domain.stamp import Stamp, unstamp
from app.domain.values import Document, decode, to_json
from app.errors import EventsyncError

DOCUMENT_CHANGES = frozenset({"insert", "update", "replace", "delete"})
"""The operation types that change one document. All others change a collection or the stream itself."""


class StateMissing(EventsyncError):
    """The exact state before or after the change is needed and is not in it."""

    code = "state_missing"


@dataclass(frozen=True, slots=True)
class _Change:
    """The parts of a change event that conversion uses."""

    kind: str
    collection: str
    id: IdText
    at: datetime
    before: Document | None
    after: Document | None


def convert(change: Mapping[str, Any]) -> Event | None:
    """The event of one document change; None for a change that clients are not to see by itself.

    (That is the mark which an API delete leaves on the document just before it deletes it, in the same transaction.)

    Raises `StateMissing` for an update without both images, and a delete or replacement without the one before.
    """
    parts = _parts(change)
    if parts.kind == "insert":
        return _created(parts)
    if parts.kind == "update":
        return _updated(parts)
    if parts.kind == "replace":
        return _replaced(parts)
    return _deleted(parts)


def _parts(change: Mapping[str, Any]) -> _Change:
    return _Change(
        kind=change["operationType"],
        collection=change["ns"]["coll"],
        id=format_id(_plain(change["documentKey"])["_id"]),
        at=change["wallTime"],
        before=_plain(change.get("fullDocumentBeforeChange")),
        after=_plain(change.get("fullDocument")),
    )


def _plain(document: Any) -> Any:
    """A raw document decoded; what is decoded already, or absent, as it is."""
    return decode(document.raw) if hasattr(document, "raw") else document


def _needed(document: Document | None, parts: _Change, which: str) -> Document:
    if document is None:
        raise StateMissing(
            f"{parts.kind} of {parts.collection}/{parts.id}: no image of the document {which} the change"
        )
    return document


def _created(parts: _Change) -> Event:
    stamp, document = unstamp(_needed(parts.after, parts, "after"))
    return _event(parts, "create", Stamp(), stamp, document=document)


def _updated(parts: _Change) -> Event | None:
    was, before = unstamp(_needed(parts.before, parts, "before"))
    stamp, after = unstamp(_needed(parts.after, parts, "after"))
    patch = diff(before, after)
    if stamp.deleted and not was.deleted and not patch:
        return None
    # Measured in JSON: a patch that is larger than the document is a worse way to say the same.
    if len(patch) > 1 and len(to_json(patch)) > len(to_json(after)):
        return _event(parts, "replace", was, stamp, document=after)
    return _event(parts, "update", was, stamp, patch=patch)


def _replaced(parts: _Change) -> Event:
    was = Stamp.of(_needed(parts.before, parts, "before"))
    stamp, document = unstamp(_needed(parts.after, parts, "after"))
    return _event(parts, "replace", was, stamp, document=document)


def _deleted(parts: _Change) -> Event:
    was = Stamp.of(_needed(parts.before, parts, "before"))
    if was.deleted:
        return _event(parts, "delete", Stamp(was.version - 1), was)
    return _event(parts, "delete", was, Stamp(was.version))


def _event(parts: _Change, op: Any, was: Stamp, now: Stamp, **content: Any) -> Event:
    """A write through the API is known by its version, one above the version before; all else came from elsewhere."""
    ours = now.version == was.version + 1
    return Event(
        collection=parts.collection,
        id=parts.id,
        op=op,
        base=was.version,
        version=now.version,
        at=parts.at,
        op_id=now.op_id if ours else None,
        by=now.by if ours else None,
        **content,
    )
