"""The documents of a shape, and the position at which they are so. No network, no clock, no storage.

A message is applied as a whole or not at all, so the events of a MongoDB transaction are never seen in part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from eventsync_client.patch import PatchError, apply_patch
from eventsync_client.positions import Position

Json = dict[str, Any]
Kind = Literal["create", "update", "delete"]
Source = Literal["snapshot", "squashed", "events"]


class Row(NamedTuple):
    """A document and its version."""

    version: int
    doc: Json


class RawChange(NamedTuple):
    """A change of one document: what was held before, and what is held after. One of them is None at most."""

    shape: str
    id: str
    source: Source
    before: Row | None
    after: Row | None
    event: Json | None = None

    @property
    def kind(self) -> Kind:
        """The kind of change, by what the client held and holds."""
        if self.after is None:
            return "delete"
        return "create" if self.before is None else "update"


@dataclass(slots=True)
class Update:
    """The changes by one message, for a store: one transaction. `position` None: only a snapshot helps.

    `clear`: the shape has no rows but those of `put`.
    """

    shape: str
    position: str | None
    put: dict[str, Row] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    clear: bool = False
    changes: list[RawChange] = field(default_factory=list)


class Gap(Exception):
    """The message does not continue the state that is held. `update` is set if the state itself is not sound."""

    def __init__(self, message: str, update: Update | None = None) -> None:
        super().__init__(message)
        self.update = update


class Held:
    """One shape that is followed."""

    def __init__(self, shape: str, position: str | None = None, documents: Mapping[str, Row] | None = None) -> None:
        self.shape = shape
        self.documents: dict[str, Row] = dict(documents or {})
        self.position = None if position is None else Position.parse(position)
        self.live = False
        """True while it has caught up on the present connection."""
        self.retry_at: float | None = None
        """Time of the next `subscribe`, after a temporary refusal."""
        self._staged: list[Json] = []
        self._parts = 0

    @property
    def position_text(self) -> str | None:
        """The position, as the wire has it."""
        return None if self.position is None else str(self.position)

    def disconnected(self) -> None:
        """Discard what only the connection made true: incomplete messages, and being live."""
        self._void()
        self.live, self.retry_at = False, None

    def _void(self) -> None:
        self._staged, self._parts = [], 0

    def apply(self, message: Json) -> Update | None:
        """Apply a message of this shape. Returns None if nothing has changed. Raises `Gap`."""
        match message["type"]:
            case "events":
                return self._events(message)
            case "snapshot":
                return self._snapshot(message)
            case "squashed":
                return self._squashed(message)
            case "live":
                return self._live(message)
            case "reset":
                self._reset()
        return None

    def advance(self, text: str) -> Update | None:
        """Move the position forward, in the same log; never back."""
        position = Position.parse(text)
        if self.position is None or not position.reaches(self.position) or position == self.position:
            return None
        self.position = position
        return Update(self.shape, text)

    def _snapshot(self, message: Json) -> Update | None:
        if (docs := self._whole(message)) is None:
            return None
        before, after = self.documents, {row["id"]: Row(row["version"], row["doc"]) for row in docs}
        update = Update(self.shape, message["position"], after, clear=True)
        for key, row in after.items():
            self._note(update, key, before.get(key), row, "snapshot")
        for key in before.keys() - after.keys():
            self._note(update, key, before[key], None, "snapshot")
        self.documents, self.position = after, Position.parse(message["position"])
        return update

    def _squashed(self, message: Json) -> Update | None:
        self._check(message["from"])
        if (docs := self._whole(message)) is None:
            return None
        update = self.advance(message["to"])
        if update is None:
            return None
        for document in docs:
            key = document["id"]
            row = None if document.get("deleted") else Row(document["version"], document["doc"])
            self._note(update, key, self.documents.get(key), row, "squashed")
            self._set(update, key, row)
        return update

    def _whole(self, message: Json) -> list[Json] | None:
        """Keep the rows of a part. Returns all once the last part is there."""
        if message["part"] == 0:
            self._void()
        if message["part"] != self._parts:
            return None  # the rest of a former subscription
        self._staged += message["docs"]
        self._parts += 1
        if not message["last"]:
            return None
        docs = self._staged
        self._void()
        return docs

    def _note(self, update: Update, key: str, before: Row | None, after: Row | None, source: Source) -> None:
        """Record a change, unless the document is as it was."""
        if before is after or (before is not None and after is not None and _same_row(before, after)):
            return
        update.changes.append(RawChange(self.shape, key, source, before, after))

    def _set(self, update: Update, key: str, row: Row | None) -> None:
        if row is not None:
            self.documents[key] = update.put[key] = row
        elif self.documents.pop(key, None) is not None:
            update.remove.append(key)

    def _check(self, start: str) -> None:
        """Raise `Gap` if a message from `start` on does not continue the state."""
        if self.position is not None and not self.position.reaches(Position.parse(start)):
            raise Gap(f"what comes for {self.shape} begins at {start}, behind the own position {self.position}")

    def _events(self, message: Json) -> Update | None:
        if self.position is None:
            return None  # of a former subscription: the snapshot that is to come has them
        self._check(message["from"])
        own, documents = self.position.seq, self.documents
        touched: dict[str, Row | None] = {}
        changes: list[RawChange] = []
        for event in message["events"]:
            if event["seq"] <= own:
                continue
            key = event["id"]
            before = touched[key] if key in touched else documents.get(key)
            touched[key] = after = self._result(event, before)
            if before is not None or after is not None:
                changes.append(RawChange(self.shape, key, "events", before, after, event))
        update = self.advance(message["to"])
        if update is None:
            return None
        for key, row in touched.items():
            self._set(update, key, row)
        update.changes = changes
        return update

    def _result(self, event: Json, before: Row | None) -> Row | None:
        """Return the document after an event. Raises `Gap` if the state is not the one that the server assumes."""
        if event["op"] == "delete":
            return None
        if event["op"] != "update":
            return Row(event["version"], event["doc"])
        if before is None:
            raise self._unsound(event, "the document is not here")
        try:
            return Row(event["version"], apply_patch(before.doc, event["patch"]))
        except PatchError as error:
            raise self._unsound(event, str(error)) from error

    def _unsound(self, event: Json, reason: str) -> Gap:
        self.position = None
        return Gap(f"event {event['seq']} of {event['id']} does not apply: {reason}", Update(self.shape, None))

    def _live(self, message: Json) -> Update | None:
        update = self.advance(message["position"])
        self.live = self.position is not None
        return update

    def _reset(self) -> None:
        # The documents stay visible until the snapshot that follows replaces them. So does what a store has: after a
        # crash, the old position is reset again.
        self._void()
        self.position, self.live = None, False


def _same_row(one: Row, other: Row) -> bool:
    if one.version != other.version:
        return False
    # As text: in Python 1, 1.0 and True are equal.
    return json.dumps(one.doc, sort_keys=True) == json.dumps(other.doc, sort_keys=True)
