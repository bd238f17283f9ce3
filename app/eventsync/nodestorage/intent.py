"""The write that an operation makes of the stored document. Pure: no driver call, no clock.

`intent_of` checks once, in advance, everything that does not depend on the stored document.

The author's guard is asked here, about the very state that the write's filter holds, so no other write comes between
the check and the write. To an author that may not read a document, it does not exist: conditions, edits and errors are
about what the author sees.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Final

import bson
from bson.errors import BSONError, InvalidDocument
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.bson_scan.ambiguous import AmbiguousDocument
from eventsync.domain.bson_scan.opaque import UnreadableDocument, encode, is_odd, opaques
from eventsync.domain.ids import PLAIN_IDS, check_id, format_id, possible_id, same_id
from eventsync.domain.patches.diff import diff
from eventsync.domain.patches.json_patch import JsonPatch, equal
from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.patches.minimal_update import minimal_update
from eventsync.domain.stamp import FIELD, Stamp
from eventsync.domain.values.extended_json import (
    CODEC,
    MAX_DEPTH,
    RAW_CODEC,
    Document,
    check_depth,
    decode,
    same,
)
from eventsync.domain.values.json_document import ABSENT, JsonDocument
from eventsync.errors import Conflict, Malformed, NotFound, PatchFailed, TooLarge, VersionMismatch
from eventsync.nodestorage.author import Author, Guard
from eventsync.nodestorage.node import Node
from eventsync.nodestorage.operations import Create, Delete, Replace, Update, WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult

_EMPTY: Final = Timestamp(0, 0)
_TIMESTAMP: Final = b"\x11"
_OPAQUE: Final = "a value that can't be read as its type says ($opaque) may only stay where it is stored already"


@dataclass(slots=True)
class Insert:
    """Insert this document."""

    document: RawBSONDocument


@dataclass(slots=True)
class Modify:
    """Apply this update, an operator document or a pipeline, to the stored document that was read.

    `is_ambiguous` is True if that is an `AmbiguousDocument`, so that no decoded document is what is stored afterwards.
    """

    update: Any
    is_ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Set `stamp` on the stored document, then delete it, in one transaction. `trace` is as that of an `Author`."""

    stamp: Stamp
    trace: str | None = None


@dataclass(slots=True)
class PlannedWrite:
    """The write to make (None: nothing), and the result to return afterwards."""

    result: WriteResult
    write: Insert | Modify | Remove | None
    size: int = 0
    """The size of the written document or update in bytes, if it is large."""


@dataclass(slots=True)
class Intent:
    """A checked operation. `decide` takes the stored document, or None, and runs again after each lost race.

    With `reads` False, the stored document does not matter. With `transacts`, the operation needs a transaction.
    """

    collection: str
    id: Any
    decide: Callable[[Node | None, Author], PlannedWrite]
    reads: bool = True
    transacts: bool = False


def intent_of(operation: WriteOperation, policy: WritePolicy) -> Intent:
    """Check an operation. Raises `Malformed` and `TooLarge`; `decide` raises what depends on the stored document."""
    if isinstance(operation, Create):
        return _create(operation, policy)
    if isinstance(operation, Update):
        return _update(operation, policy)
    if isinstance(operation, Replace):
        return _replace(operation, policy)
    return _delete(operation)


def _create(operation: Create, policy: WritePolicy) -> Intent:
    sent = operation.document
    whole = sent.value() if isinstance(sent, JsonDocument) else sent
    given = operation.id
    if given is not ABSENT and "_id" in whole and not same(whole["_id"], given):
        raise Malformed("id and the document's _id differ")
    new_id = check_id(whole["_id"]) if "_id" in whole else ObjectId() if given is ABSENT else given
    encoded = _checked_bytes(new_id, whole, policy)
    # BSON keeps all values of JSON as they are. Others may be stored as similar ones: a tuple as an array.
    is_same = isinstance(sent, JsonDocument) and type(new_id) in PLAIN_IDS
    document = {"_id": new_id} | whole if is_same else decode(encoded)

    def decide(_: Node | None, author: Author) -> PlannedWrite:
        return _insertion(document, encoded, author, author.guard(operation.collection))

    return Intent(operation.collection, new_id, decide, reads=False)


def _update(operation: Update, policy: WritePolicy) -> Intent:
    edit = _prepared(operation, policy)
    touched = operation.edit.touched() if isinstance(operation.edit, JsonPatch | MergePatch) else None

    def decide(stored: Node | None, author: Author) -> PlannedWrite:
        guard = author.guard(operation.collection)
        node = _expected(operation, stored, guard)
        if isinstance(node.document, UnreadableDocument):
            raise PatchFailed(_named(operation, "can't be read field by field: replace or delete it as a whole"))
        after = _edited(node, edit, policy, guard)
        _check_distinct(operation, node, after)
        return _modification(node, after, author, guard, touched)

    return Intent(operation.collection, operation.id, decide)


def _prepared(operation: Update, policy: WritePolicy) -> Callable[[Document], Document]:
    edit = operation.edit
    if isinstance(edit, JsonPatch):
        return edit.prepared(
            operations=policy.patch_operations, document_bytes=policy.document_bytes, steps=policy.patch_steps
        )
    if isinstance(edit, MergePatch):
        return edit.prepared()
    # A function may modify its argument, so it gets a copy: the result is compared with the original.
    return lambda document: edit(decode(encode(document)))


def _replace(operation: Replace, policy: WritePolicy) -> Intent:
    sent = operation.document
    whole: Any = sent.value() if isinstance(sent, JsonDocument) else sent
    # Unreadable values may stay in a stored document, but a new document must not contain any.
    new_id = _typed_id(operation.id, whole)
    known = {**whole, "_id": new_id} if isinstance(whole, dict) else None
    document = _checked(possible_id(new_id), whole, policy, known)
    odd = is_odd(document)

    def decide(stored: Node | None, author: Author) -> PlannedWrite:
        guard = author.guard(operation.collection)
        if seen(stored, guard) is None and operation.upsert and not _must_exist(operation):
            if odd:
                raise Malformed(_OPAQUE)
            # A stored document may have an id that no new one can have: null, or a longer one.
            check_id(operation.id)
            change = _insertion(document, encode(document), author, guard)
            if stored is not None:
                raise Conflict(_named(operation, "can't be written: it exists already"), lasting=True)
            return change
        node = _expected(operation, stored, guard)

        def edit(before: Document) -> Document:
            after = sent.in_place_of(before) if isinstance(sent, JsonDocument) else document
            # The stored id, which may be of another type than the one that found it.
            return {**after, "_id": node.id}

        after = _edited(node, edit, policy, guard)
        _check_distinct(operation, node, after)
        return _modification(node, after, author, guard)

    return Intent(operation.collection, operation.id, decide)


def _typed_id(id: Any, document: Any) -> Any:
    """Return the id of a new `document`: its own if that has the same text as `id`, which names no type of number."""
    given = document.get("_id", id) if isinstance(document, dict) else id
    return given if given is not id and not same(given, id) and same_id(given, id) else id


def _delete(operation: Delete) -> Intent:
    def decide(stored: Node | None, author: Author) -> PlannedWrite:
        guard = author.guard(operation.collection)
        node = _expected(operation, stored, guard)
        if guard is not None:
            guard.delete(node.document)
        version = node.version + 1
        mark = Stamp(version, author.op_id, author.by, deleted=True)
        return PlannedWrite(WriteResult(format_id(node.id), version, None, []), Remove(mark, author.trace))

    return Intent(operation.collection, operation.id, decide, transacts=True)


def seen(stored: Node | None, guard: Guard | None) -> Node | None:
    """Return a stored document as its reader sees it; None if there is none, or if it may not be read."""
    if stored is None or guard is None:
        return stored
    shown = guard.shown(stored.document)
    return None if shown is None else Node(stored.id, stored.version, shown)


def _expected(operation: Update | Replace | Delete, stored: Node | None, guard: Guard | None) -> Node:
    """Return the stored document if it satisfies the condition. Raises `NotFound` and `VersionMismatch`."""
    shown = seen(stored, guard)
    if stored is None or shown is None:
        if not _must_exist(operation):
            raise NotFound(_named(operation, "does not exist"))
        raise VersionMismatch(_named(operation, "does not exist, but the write requires a state of it"), current=None)
    # By the tag of what is seen, so that no tag tells what is hidden.
    if operation.condition is None or operation.condition.holds((shown.version, shown.document)):
        return stored
    problem = f"is {shown.etag} now, which the write's conditions exclude"
    raise VersionMismatch(_named(operation, problem), current=shown.version, etag=shown.etag)


def _check_distinct(operation: Update | Replace, node: Node, after: Document) -> None:
    """Raise `Conflict` for a change of a field with a name twice: MongoDB would change the first value, not the last.

    MongoDB even aborts at some updates of such a field by a pipeline.
    """
    before = node.document
    if not isinstance(before, AmbiguousDocument):
        return
    for name in before.fields:
        if name not in after or not same(before[name], after[name]):
            problem = f"has a name twice in {name!r}, so the field can't be changed: delete the document"
            raise Conflict(_named(operation, problem), lasting=True)


def _edited(node: Node, edit: Callable[[Document], Document], policy: WritePolicy, guard: Guard | None) -> Document:
    """Return the document after an edit of what is seen of it. Raises what the edit, the guard and `_checked` raise."""
    if guard is None:
        return _checked(node.id, edit(node.document), policy, node.document)
    checked: Document | None = None

    def checked_edit(shown: Document) -> Document:
        nonlocal checked
        checked = _checked(node.id, edit(shown), policy, shown)
        return checked

    after = guard.edit(node.document, checked_edit)
    # Where nothing is hidden, the two are one.
    return after if after is checked else _checked(node.id, after, policy, node.document, guarded=True)


def _must_exist(operation: Update | Replace | Delete) -> bool:
    """Return True if the condition names a state of a stored document."""
    return operation.condition is not None and operation.condition.match is not None


def _named(operation: Update | Replace | Delete, problem: str) -> str:
    return f"{operation.collection}/{format_id(operation.id)} {problem}"


def _insertion(document: Document, encoded: bytes, author: Author, guard: Guard | None) -> PlannedWrite:
    if _TIMESTAMP in encoded and any(value == _EMPTY for value in document.values() if isinstance(value, Timestamp)):
        raise Malformed("MongoDB replaces an empty timestamp in a new document; give it a time")
    if guard is not None:
        guard.create(document)
    stored = RawBSONDocument(Stamp(1, author.op_id, author.by).appended_to(encoded, author.trace), RAW_CODEC)
    return PlannedWrite(_result(document["_id"], 1, document, [], guard, created=True), Insert(stored))


def _modification(
    before: Node, after: Document, author: Author, guard: Guard | None, touched: Container[str] | None = None
) -> PlannedWrite:
    """Return the write that makes `after` of the stored document. Fields that are not `touched` are the same in both.

    Comparing them as well would take a third of the time of a small patch.
    """
    was, now = before.document, after
    # A patch names a field of an odd document by the text that clients see.
    if touched is not None and type(was) is dict:
        was = {name: value for name, value in was.items() if name in touched}
        now = {name: value for name, value in after.items() if name in touched}
    patch = diff(was, now)
    if not patch:
        return PlannedWrite(_result(before.id, before.version, before.document, [], guard), None)
    version = before.version + 1
    stamp = Stamp(version, author.op_id, author.by).stored(author.trace)
    whole = isinstance(before.document, UnreadableDocument)
    update: Any = None if whole else minimal_update(was, now)
    if update is None:
        # A pipeline, because a plain replacement rejects fields that start with `$` and replaces empty timestamps.
        update = [{"$replaceWith": {"$literal": after | {FIELD: stamp}}}]
    else:
        update["$set"] = update.get("$set", {}) | {FIELD: stamp}
    write = Modify(update, isinstance(before.document, AmbiguousDocument))
    return PlannedWrite(_result(before.id, version, after, patch, guard), write)


def _result(
    id: Any, version: int, document: Document, patch: list[Any], guard: Guard | None, *, created: bool = False
) -> WriteResult:
    """Return the result of a write, as its author may see it."""
    shown = document if guard is None else guard.shown(document)
    if shown is None:
        return WriteResult(format_id(id), version, None, [], created=created, withheld=True)
    patch = patch if guard is None else guard.redacted(patch)
    return WriteResult(format_id(id), version, shown, patch, created=created)


def _not_bson(error: Exception) -> str:
    """Describe the fault without the library's message, which may contain the whole document."""
    if isinstance(error, OverflowError):
        return "an integer does not fit into 64 bits"
    if isinstance(error, UnicodeError):
        return "a text is not Unicode"
    return "it holds a name or a value that BSON can't"


def _checked(
    id: Any, document: Any, policy: WritePolicy, before: Document | None = None, *, guarded: bool = False
) -> Document:
    """Return the document as MongoDB will store it: `_id` first, each value with its BSON type.

    An unreadable value is allowed only if `before` has it too. Raises `Malformed` and `TooLarge`; a `guarded` document
    may hold hidden values, whose size an error does not tell.
    """
    after = decode(_checked_bytes(id, document, policy, before, guarded=guarded))
    # What is ambiguous can't be changed (`_check_distinct`), so it decides nothing afterwards either.
    return AmbiguousDocument(after, before.fields) if isinstance(before, AmbiguousDocument) else after


def _checked_bytes(
    id: Any, document: Any, policy: WritePolicy, before: Document | None = None, *, guarded: bool = False
) -> bytes:
    """Return what `_checked` does, as BSON."""
    if not isinstance(document, dict):
        raise Malformed("a document is an object")
    if FIELD in document:
        raise Malformed(f"{FIELD} is reserved")
    if "_id" in document and (given := document["_id"]) is not id and not (equal(given, id) or same_id(given, id)):
        raise Malformed(f"the document's _id is not {format_id(id)}")
    try:
        encoded = _encoded({"_id": None} | document | {"_id": id}, before)
    except (BSONError, ValueError, OverflowError, TypeError, RecursionError) as error:
        check_depth(document)
        raise Malformed(f"the document is not BSON: {_not_bson(error)}") from error
    # Each level has the type of an object or of an array. Without so many of these bytes, nothing nests too deep.
    if encoded.count(b"\3") + encoded.count(b"\4") >= MAX_DEPTH:
        check_depth(document)
    if len(encoded) > policy.document_bytes:
        size = "" if guarded else f"{len(encoded)} bytes, "
        raise TooLarge(f"the document would have {size}more than {policy.document_bytes} bytes")
    return encoded


def _encoded(document: Document, before: Document | None) -> bytes:
    try:
        return bson.encode(document, codec_options=CODEC)
    except (InvalidDocument, UnicodeError):
        present = set(opaques(document))
        if present and (before is None or not present <= set(opaques(before))):
            raise Malformed(_OPAQUE) from None
        return encode(document)
