"""Decoding stored events and applying them to a document. Pure.

Source: https://www.rfc-editor.org/rfc/rfc6902
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from eventsync.domain.events import Op
from eventsync.domain.ids import IdText
from eventsync.domain.patches.diff import Operation, diff
from eventsync.domain.patches.json_pointer import unescape
from eventsync.domain.positions import Seq
from eventsync.domain.values.extended_json import Document
from eventsync.domain.values.type_hints import from_tree_with_hints
from eventsync.errors import EventsyncError


class Damaged(EventsyncError):
    """The stored log or a stored snapshot is not what was written."""

    code = "damaged"


class DamagedEvents(Damaged):
    """Events of a log are missing or unreadable, up to `last`. Reading can continue after it."""

    def __init__(self, message: str, last: Seq) -> None:
        super().__init__(message)
        self.last = last


State = tuple[int, Document] | None
"""A document's version and content, without `_sync`; None if there is no document."""


@dataclass(frozen=True, slots=True)
class Change:
    """The part of an event that changes the document. `document` and `patch` hold BSON values."""

    seq: Seq
    collection: str
    id: IdText
    op: Op
    base: int
    version: int
    document: Document | None = None
    patch: list[Operation] | None = None


def read_change(body: bytes, type_hints: Sequence[str]) -> Change:
    """Decode an event's body, BSON-exact. Raises `ValueError`, `LookupError` or `Malformed` if it is not an event."""
    tree = orjson.loads(body)
    content = tree.get("doc", tree.get("patch"))
    value = _patch(content, type_hints) if isinstance(content, list) else from_tree_with_hints(content, type_hints)
    return Change(
        tree["seq"],
        tree["collection"],
        tree["id"],
        tree["op"],
        tree["base"],
        tree["version"],
        document=value if isinstance(value, dict) else None,
        patch=value if isinstance(value, list) else None,
    )


def _patch(tree: list[Any], type_hints: Sequence[str]) -> list[Operation]:
    patch: list[Operation] = from_tree_with_hints(tree, type_hints)
    return patch


def applied(state: State, change: Change) -> State:
    """Return the document's state after the event. The result reuses and changes the content of `state` and `change`.

    Raises `Damaged` for an event that can't follow `state`.
    """
    if change.op == "delete":
        return None
    if change.op != "update":
        if change.document is None:
            raise Damaged(f"event {change.seq}: a {change.op} without its document")
        return change.version, change.document
    if state is None or change.patch is None:
        missing = "the document" if state is None else "the patch"
        raise Damaged(f"event {change.seq} updates {change.collection}/{change.id}: {missing} is not there")
    try:
        return change.version, patched(state[1], change.patch)
    except (LookupError, TypeError, ValueError) as error:
        raise Damaged(
            f"event {change.seq}: its patch does not fit {change.collection}/{change.id}: {error!r}"
        ) from error


def patched(document: Document, patch: Sequence[Operation]) -> Document:
    """Apply a patch of `domain.patches.diff` (`add`, `remove`, `replace`) to `document` in place, and return it.

    Raises `LookupError`, `TypeError` or `ValueError` if the patch does not fit.
    """
    for operation in patch:
        _, *way, last = map(unescape, operation["path"].split("/"))
        container: Any = document
        for part in way:
            container = container[_index(part) if isinstance(container, list) else part]
        _change(container, last, operation)
    return document


def between(before: State, after: State) -> list[Operation]:
    """Return the RFC 6902 patch from one state to another. A missing document is added or removed as a whole."""
    if before is not None and after is not None:
        return diff(before[1], after[1])
    if after is not None:
        return [{"op": "add", "path": "", "value": after[1]}]
    return [{"op": "remove", "path": ""}] if before is not None else []


def _change(container: Any, last: str, operation: Operation) -> None:
    op = operation["op"]
    if isinstance(container, list):
        index = _index(last)
        # An `add` inserts before this item, or after the last one.
        where = slice(index, index if op == "add" else index + 1)
        if index + (op != "add") > len(container):
            raise IndexError(f"no item {index}")
        container[where] = [] if op == "remove" else [operation["value"]]
    elif not isinstance(container, dict) or op not in {"add", "remove", "replace"}:
        raise TypeError(f"{op} in a {type(container).__name__}")
    else:
        if op != "add":
            del container[last]
        if op != "remove":
            container[last] = operation["value"]


def _index(part: str) -> int:
    if not part.isdecimal():
        raise ValueError(f"{part!r} is no array index")
    return int(part)
