"""An event as readers get it, and the row of `events` that it is read from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from eventsync.domain.events import Group, unfinished
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.replay import DamagedEvents

UNREADABLE: Final = (LookupError, TypeError, ValueError, AttributeError, zlib.error)
"""What reading back a row raises that nobody has written like that."""


class StoredEvent(NamedTuple):
    """`body` is its JSON, ready to send.

    (A frozen dataclass takes four times as long to make, and every event that is read is made into one.)
    """

    seq: Seq
    collection: str
    id: IdText
    body: bytes
    group: Group | None = None

    @property
    def closes(self) -> bool:
        """True if a reader may stop after it: it is outside any transaction, or the last event of one."""
        return unfinished(self.group) is None


class Unpacked(NamedTuple):
    """The body of a row that was packed, in its place."""

    body: bytes


def stored_event(row: Mapping[str, Any]) -> StoredEvent:
    """An `events` document that has its body, read back."""
    return StoredEvent(row["_id"]["n"], row["c"], row["i"], body_of(row), group_of(row))


def body_of(row: Mapping[str, Any]) -> bytes:
    """Of an `events` document that has its body."""
    stored = row["b"]
    if isinstance(stored, Unpacked):
        body = stored.body
    else:
        body = stored.encode() if isinstance(stored, str) else zlib.decompress(stored)
    if body[:1] != b"{" or body[-1:] != b"}":
        raise ValueError("its body is no JSON object")
    return body


def said(event: StoredEvent, name: str) -> Any:
    """A member of an event's body. Raises `DamagedEvents` where the body is no event's."""
    try:
        return orjson.loads(event.body)[name]
    except UNREADABLE as error:
        raise DamagedEvents(f"event {event.seq} can't be read: {error!r}", event.seq) from error


def body_size(row: Mapping[str, Any]) -> int:
    """Return the size of its body as it is there, 0 where it has none."""
    body = row.get("b")
    if isinstance(body, Unpacked):
        return len(body.body)
    return len(body) if isinstance(body, str | bytes) else 0


def group_of(row: Mapping[str, Any]) -> Group | None:
    """The transaction that an `events` document is of."""
    group = row.get("g")
    return Group(group["id"], group["n"], group["of"]) if group else None


def unreadable(row: Mapping[str, Any], error: Exception) -> DamagedEvents:
    """Return the error to raise instead of `error`, which names the event."""
    seq = row["_id"]["n"]
    return DamagedEvents(f"event {row['_id']['l']}:{seq} can't be read: {error!r}", Seq(int(seq)))
