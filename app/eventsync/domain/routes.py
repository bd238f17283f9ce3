"""Routes: which parts of a collection an event belongs to, by keys. Pure.

A definition cuts a collection into parts, one for each bound value, and each part has a key of 16 bytes. The worker
computes the keys of a document before and after each change and stores them with the event. So a reader of one part
finds its events by key, and learns which documents entered and left it, without evaluating anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

import orjson
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.event_body import AT, DOCUMENT, OP, PATCH, content_start, places
from eventsync.domain.predicates.declarations import read_spec, spec_of
from eventsync.domain.predicates.definitions import Definition
from eventsync.domain.predicates.keys import KEY_BYTES, NO_KEYS, Unrouted
from eventsync.domain.predicates.ordering import MISSING, Undecidable
from eventsync.domain.views import Redactor

Transition = Literal["stay", "enter", "leave"]
"""The effect of an event on a part of a collection: the document enters it, leaves it, or neither.

A created document and a deleted one *stay*: their events say it all, and are sent as they are.
"""


class Routes(NamedTuple):
    """The routes of one event: the keys of its document before the change and after it."""

    keys: tuple[bytes, ...]
    """All of them, sorted."""
    enters: frozenset[bytes] = NO_KEYS
    """Those that only the document afterwards has. Empty for a `create`, which enters all of its keys."""
    leaves: frozenset[bytes] = NO_KEYS
    """Those that only the document before had. Empty for a `delete`, which leaves all of its keys."""
    document: bytes | None = None
    """The document afterwards in JSON, if an `update` enters something: its patch tells nothing to a new reader."""

    def transition(self, *clauses: Collection[bytes]) -> Transition | None:
        """Return what the event means to a reader of documents that have a key of each of `clauses`.

        None if the document was not such a document before, and is not afterwards. Pass sets if there are many keys.
        """
        if not self.enters and not self.leaves:
            for clause in clauses:
                for key in self.keys:
                    if key in clause:
                        break
                else:
                    return None
            return "stay"
        before = after = True
        for clause in clauses:
            own = [key for key in self.keys if key in clause]
            before = before and any(key not in self.enters for key in own)
            after = after and any(key not in self.leaves for key in own)
        if before:
            return "stay" if after else "leave"
        return "enter" if after else None


class Router:
    """Computes routes by the active definitions of a log."""

    def __init__(self, definitions: Iterable[Definition] = (), revision: int = 0) -> None:
        """`revision` is that of the registry of declared shapes that names these definitions."""
        self.definitions = tuple(definitions)
        self.revision = revision
        by_collection: dict[str, list[Definition]] = defaultdict(list)
        for definition in self.definitions:
            by_collection[definition.collection].append(definition)
        self._by_collection = {name: _CollectionRouter(each) for name, each in by_collection.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        # Functions can't be sent to a helper process, so it compiles the definitions, once.
        specs = tuple((definition.name, spec_of(definition)) for definition in self.definitions)
        return _compiled, (specs, self.revision)

    def covers(self, collection: str) -> bool:
        """Return True if the collection has definitions."""
        return collection in self._by_collection

    def fields(self, collection: str) -> tuple[str, ...]:
        """Return the fields of a collection that decide."""
        found = self._by_collection.get(collection)
        return () if found is None else found.names

    def routes(
        self, collection: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
    ) -> tuple[Routes | None, tuple[str, ...]]:
        """Return the routes of a change from one state to another, or None if it has no keys.

        Return also the names of the definitions that the document afterwards can't be routed by: it belongs to none of
        their shapes, so it is never shown to somebody who may not have it. Documents may have their stamps: no filter
        sees them.
        """
        found = self._by_collection.get(collection)
        return (None, ()) if found is None else found.routes(before, after)


NO_DEFINITIONS: Final = Router()
"""The router of a log without definitions."""


@lru_cache(maxsize=4)
def _compiled(specs: tuple[tuple[str, str], ...], revision: int) -> Router:
    return Router([read_spec(name, spec) for name, spec in specs], revision)


class _CollectionRouter:
    """Computes routes by the definitions of one collection."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        self._definitions = definitions
        names = sorted({name for definition in definitions for name in definition.fields})
        self.names = tuple(names)
        self._fields = [(name, 2 << number) for number, name in enumerate(names)]
        bits = dict(self._fields)
        self._reads = [_ANY + sum(bits[name] for name in definition.fields) for definition in definitions]
        """The fields that each definition reads, as bits."""
        self._parted: dict[int, tuple[list[Definition], list[Definition]]] = {}
        """The definitions that read one of some fields, and the others, by the bits of these fields."""

    def routes(
        self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
    ) -> tuple[Routes | None, tuple[str, ...]]:
        if before is None or after is None:
            keys, closed = _keys_of(self._definitions, before if after is None else after)
            return _staying(keys), () if after is None else closed
        # Most changes leave the few fields alone that decide.
        if not (changed := self._changed(before, after)):
            keys, closed = _keys_of(self._definitions, after)
            return _staying(keys), closed
        affected, others = self._parts(changed)
        had, _ = _keys_of(affected, before)
        has, closed = _keys_of(affected, after)
        # The keys of two definitions are never equal: they are made of its name, too.
        same, unread = _keys_of(others, after)
        if had == has:
            return _staying(had | same), closed + unread
        return Routes(tuple(sorted(had | has | same)), has - had, had - has), closed + unread

    def _changed(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> int:
        """Return the fields, as bits, that may differ in value or type between two states; `_ANY` if all may."""
        if type(before) is not dict or type(after) is not dict:
            return _ANY
        changed, was_in, now_in = 0, before.get, after.get
        for name, bit in self._fields:
            was, now = was_in(name, MISSING), now_in(name, MISSING)
            if was is now:
                continue
            # Values of other types may be equal to Python and not to MongoDB. (Not by `_is_alike`, for each change.)
            kind = type(was)
            if kind is type(now):
                if kind in _COMPARED and was == now:
                    continue
                if kind is list and len(was) == len(now) and all(map(_is_alike, was, now)):
                    continue
            changed |= bit
        return changed

    def _parts(self, changed: int) -> tuple[list[Definition], list[Definition]]:
        """Return the definitions whose keys may differ if these fields do, and the others."""
        if (parts := self._parted.get(changed)) is None:
            if len(self._parted) >= _PARTED:
                self._parted.clear()
            pairs = list(zip(self._definitions, self._reads, strict=True))
            parts = (
                [one for one, reads in pairs if reads & changed],
                [one for one, reads in pairs if not reads & changed],
            )
            self._parted[changed] = parts
        return parts


def _staying(keys: frozenset[bytes]) -> Routes | None:
    return Routes(tuple(sorted(keys))) if keys else None


def _keys_of(
    definitions: Sequence[Definition], document: Mapping[str, Any] | None
) -> tuple[frozenset[bytes], tuple[str, ...]]:
    """Return the keys of a document, and the names of the definitions that it can't be routed by."""
    if document is None:
        return NO_KEYS, ()
    union = NO_KEYS
    closed: tuple[str, ...] = ()
    is_readable = type(document) is dict
    for definition in definitions:
        try:
            found = definition.find(document) if is_readable else definition.keys(document)
        except Undecidable:
            found = definition.keys(document)
        if found:
            union = union | found if union else found
        elif type(found) is Unrouted:
            closed = (*closed, definition.name)
    return union, closed


def _is_alike(was: Any, now: Any) -> bool:
    return type(was) is type(now) and type(was) in _COMPARED and was == now


_COMPARED: Final = frozenset({str, int, Int64, bool, type(None), ObjectId, datetime})

_ANY: Final = 1
"""The bit of every definition."""

_PARTED: Final = 256
"""Sets of changed fields for which the definitions that read one of them are remembered."""


# --- the event of a reader ----------------------------------------------------------------------------------------


def body_for(body: bytes, transition: Transition, document: bytes | None = None) -> bytes:
    """Return the body of an event as a reader of a route gets it.

    A *stay* is the event as it is. An *enter* is a `create` with `"enter": true` and the whole document: `document`, or
    that of the event itself. A *leave* is a `delete` with `"leave": true` and nothing of the content.

    Raises `ValueError` for a body that is no event, and for an update that enters without a document.
    """
    if transition == "stay":
        return body
    op, base, at = places(body)
    if transition == "leave":
        return b"".join(
            (body[:op], b',"op":"delete","leave":true', body[base : content_start(body, base, at)], body[at:])
        )
    content = content_start(body, base, at)
    if body.startswith(DOCUMENT, content):
        return b"".join((body[:op], b',"op":"create","enter":true', body[base:]))
    if document is None:
        raise ValueError("an update that enters a route has no document")
    head = (body[:op], b',"op":"create","enter":true', body[base:content])
    return b"".join((*head, DOCUMENT, document, body[at:]))


def redacted_body(body: bytes, redaction: Redactor) -> bytes:
    """Return the body of an event without what is hidden. Only the document or the patch is another.

    A patch may be empty then: the event is one all the same, and its version counts. Raises `ValueError` for a body
    that is no event.
    """
    at = body.rindex(AT)
    content = content_start(body, body.index(OP), at)
    if content == at:
        return body
    is_document = body.startswith(DOCUMENT, content)
    start = content + len(DOCUMENT if is_document else PATCH)
    tree = orjson.loads(body[start:at])
    shown = redaction.strip(tree) if is_document else redaction.redact(tree)
    # Most changes touch nothing that is hidden. What is shown of them are the same objects, so comparing is fast.
    return body if shown == tree else b"".join((body[:start], orjson.dumps(shown), body[at:]))


def redacted_row(row: bytes, redaction: Redactor) -> bytes:
    """Return a row of a snapshot, `{"id", "version", "doc"}` in JSON, without what is hidden in its document."""
    # The id is a string, in which quotes have backslashes.
    start = row.index(DOCUMENT) + len(DOCUMENT)
    with memoryview(row) as view:
        return b"".join((view[:start], orjson.dumps(redaction.strip(orjson.loads(view[start:-1]))), b"}"))


# --- what a row stores --------------------------------------------------------------------------------------------


def joined(keys: Collection[bytes]) -> bytes:
    """Return keys as one value, sorted."""
    return b"".join(sorted(keys))


def split(stored: bytes) -> frozenset[bytes]:
    """Return the keys of a joined value. Raises `ValueError` if it has another length."""
    if len(stored) % KEY_BYTES:
        raise ValueError(f"{len(stored)} bytes are no keys of {KEY_BYTES} bytes")
    return frozenset(stored[at : at + KEY_BYTES] for at in range(0, len(stored), KEY_BYTES))
