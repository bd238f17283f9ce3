"""Several writes in one `insert` and one `update` command, with the exact outcome of each.

MongoDB answers an `update` of many statements with the number of documents that matched, not with their ids. Each
statement therefore *fails* where the stored document is not the one that was read: its guard then converts a word to a
number. The failure names the statement. Only a document that is gone fails silently. Such a statement lowers the number
of matches, and the stamps of the documents tell which one it was.

The guard is in the value of the stamp that the statement sets, so that its filter is the `_id` alone. MongoDB plans any
other filter: 75 µs of 180 for a statement among others. Where a pipeline can't make the change, the guard is in the
filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WriteError,
)

from eventsync.domain.bson_scan.opaque import encode, writable
from eventsync.domain.ids import IdText
from eventsync.domain.stamp import FIELD, Stamp
from eventsync.domain.values.extended_json import RAW_CODEC, decode
from eventsync.errors import Unavailable
from eventsync.mongodb.errors import is_in_doubt, refusal, short
from eventsync.nodestorage.documents import Documents, exact_id, sent_update
from eventsync.nodestorage.intent import Insert, Modify
from eventsync.nodestorage.number_types import NumberTypes
from eventsync.nodestorage.retry import Lost

_LOST: Final = "eventsync: another state "
"""The word that is no number. It marks the failure of a guard among other failures of conversions."""

_FAIL: Final = {"$toInt": {"$concat": [_LOST, {"$toString": {"$bsonSize": "$$ROOT"}}]}}
"""It depends on the document, because MongoDB computes constants before it looks at any."""


@dataclass(slots=True)
class GroupedWrite:
    """A write of a group. `stamp` is what it leaves in the document.

    `state` is the document that a `Modify` was decided on, and `numbers` the types to compare besides. With
    `in_objects`, a pipeline can make the change.
    """

    key: IdText
    id: Any
    write: Insert | Modify
    stamp: Stamp
    state: RawBSONDocument | None = None
    numbers: NumberTypes | None = None
    in_objects: bool = False


async def write_group(documents: Documents, writes: Sequence[GroupedWrite]) -> list[Exception | None]:
    """Make the writes, several of one document in their order. Return for each its error, or None if it was made.

    The error is `Lost` if the stored document is not the `state`, `Unavailable` if the outcome is unknown, or the
    driver's.
    """
    inserts = [index for index, each in enumerate(writes) if isinstance(each.write, Insert)]
    updates = [index for index, each in enumerate(writes) if isinstance(each.write, Modify)]
    outcomes: list[Exception | None] = [None] * len(writes)

    async def send(indexes: list[int]) -> None:
        made = await _sent(documents, [writes[index] for index in indexes])
        for index, outcome in zip(indexes, made, strict=True):
            outcomes[index] = outcome

    # An update may change a document that an insert of the same group makes.
    if inserts:
        await send(inserts)
    if updates:
        await send(updates)
    return outcomes


async def _sent(documents: Documents, writes: Sequence[GroupedWrite]) -> list[Exception | None]:
    """Send one command: either all of the writes are inserts, or none is."""
    try:
        done = (await documents.collection.bulk_write(list(map(_request, writes)), ordered=False)).bulk_api_result
    except BulkWriteError as error:
        done = error.details
    # No answer. After some errors (a lost connection, a timeout) the command may still have been carried out, wholly or
    # in part: then the documents tell.
    except (PyMongoError, BSONError) as error:
        if is_in_doubt(error):
            return await _confirmed(documents, writes, [error] * len(writes))
        if len(writes) > 1 and _ends_midway(error):
            unknown: list[Exception | None] = [Unavailable(_GIVEN_UP).because(short(error)) for _ in writes]
            return await _confirmed(documents, writes, unknown)
        return [error] * len(writes)
    outcomes: list[Exception | None] = [None] * len(writes)
    for refused in done["writeErrors"]:
        outcomes[refused["index"]] = statement_error(refused)
    made = [index for index, outcome in enumerate(outcomes) if outcome is None]
    # A majority has not confirmed what was made: it may be rolled back. Only a majority read tells.
    if doubts := done["writeConcernErrors"]:
        for index in made:
            outcomes[index] = WriteConcernError(doubts[0].get("errmsg", ""), doubts[0].get("code"), doubts[0])
        return await _confirmed(documents, writes, outcomes)
    if silent := len(made) - done["nMatched"] - done["nInserted"]:
        return await _counted(documents, writes, outcomes, silent)
    return outcomes


def _ends_midway(error: PyMongoError | BSONError) -> bool:
    """Return True if MongoDB may have made some of the writes of a command that failed so.

    It gives up a command that is interrupted as a whole, and keeps what the statements before have made.
    """
    return isinstance(error, OperationFailure) and refusal("", error) is None


def _request(each: GroupedWrite) -> InsertOne[Any] | UpdateOne:
    if isinstance(each.write, Insert):
        return InsertOne(each.write.document)
    if each.state is None:
        raise AssertionError("an update is decided on a document")
    # `$eq` takes equal numbers of different types for the same. The size shows an int32 in place of a longer number,
    # and the types are compared where a guess might differ in them.
    same = {
        "$and": [
            {"$eq": [{"$bsonSize": "$$ROOT"}, len(each.state.raw)]},
            *({"$eq": [{"$type": f"${path}"}, kind]} for path, kind in (each.numbers or {}).items()),
            {"$eq": ["$$ROOT", {"$literal": each.state}]},
        ]
    }
    if each.in_objects:
        return UpdateOne({"_id": each.id}, [{"$set": _assignments(each.write.update, same)}])
    guard = {"$expr": {"$cond": [same, True, _FAIL]}}
    return UpdateOne({"_id": exact_id(each.state)} | guard, sent_update(each.write.update, each.state))


def _assignments(update: Mapping[str, Any], same: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `$set` of a pipeline that does what `update` does, and fails unless the document is the `same`."""
    assigned: dict[str, Any] = dict.fromkeys(update.get("$unset", ()), "$$REMOVE")
    # New fields get the order in which they are named here.
    for path, value in sorted(update["$set"].items(), key=_by_name):
        assigned[path] = writable({"$literal": value})
    assigned[FIELD] = {"$cond": [same, assigned[FIELD], _FAIL]}
    return assigned


def statement_error(refused: Mapping[str, Any]) -> Exception:
    """Return the error of one statement. It keeps no documents."""
    text, code = str(refused.get("errmsg", "")), refused.get("code")
    details = {name: value for name, value in refused.items() if name != "op"}
    if code == _DUPLICATE:
        return DuplicateKeyError(text, code, details)  # its text quotes a value, which may say anything
    return Lost() if _LOST in text else WriteError(text, code, details)


async def _confirmed(
    documents: Documents, writes: Sequence[GroupedWrite], outcomes: list[Exception | None]
) -> list[Exception | None]:
    """Replace errors that leave the outcome open by None where the stored document shows that the write was made."""
    try:
        made = await _made(documents, writes)
    except PyMongoError:
        return outcomes  # the first error says what is known
    return [
        None
        if index in made and (outcome is None or isinstance(outcome, Unavailable) or is_in_doubt(outcome))
        else outcome
        for index, outcome in enumerate(outcomes)
    ]


async def _counted(
    documents: Documents, writes: Sequence[GroupedWrite], outcomes: list[Exception | None], silent: int
) -> list[Exception | None]:
    """Find the `silent` updates among those without an error whose documents were gone."""
    open_ = [index for index, outcome in enumerate(outcomes) if outcome is None]
    try:
        made = await _made(documents, writes)
    except PyMongoError:
        made = set()
    # An update whose document is gone fails silently, and leaves no stamp.
    missing = [index for index in open_ if index not in made]
    # With more missing than silent, another writer has changed or deleted a document since.
    known = len(missing) == silent
    for index in missing:
        outcomes[index] = Lost() if known else Unavailable(_UNKNOWN)
    return outcomes


async def _made(documents: Documents, writes: Sequence[GroupedWrite]) -> set[int]:
    """Return the indexes of the writes that stored documents show, at majority read concern."""
    # A stamp names version, operation and author. No other write leaves the same, so it proves that this one was made.
    stamps = await documents.stamps([each.id for each in writes])
    made: set[int] = set()
    seen: set[IdText] = set()
    for index in reversed(range(len(writes))):
        # A later write of the same document was decided on the state that the earlier one makes.
        if writes[index].key in seen or stamps.get(writes[index].key) == writes[index].stamp:
            made.add(index)
            seen.add(writes[index].key)
    return made


class StateAfter(NamedTuple):
    """The document as MongoDB stores it after a write. `in_objects`: a pipeline can make the write (`_assignments`)."""

    document: RawBSONDocument
    in_objects: bool = False


def state_after(write: Insert | Modify, state: RawBSONDocument | None) -> StateAfter | None:
    """Return the document as MongoDB stores it after the write, or None if that is not certain.

    MongoDB appends new fields in the order of their names.
    Source: https://www.mongodb.com/docs/manual/reference/operator/update/set/
    """
    if isinstance(write, Insert):
        return StateAfter(write.document)
    if state is None or type(write.update) is not dict or write.is_ambiguous:
        return None
    document = decode(bytes(state.raw))
    if type(document) is not dict:
        return None
    in_objects = True
    try:
        for path in write.update.get("$unset", ()):
            target, name, by_index = _place(document, path)
            del target[name]
            in_objects = in_objects and not by_index
        for path, value in sorted(write.update.get("$set", {}).items(), key=_by_name):
            target, name, by_index = _place(document, path)
            if isinstance(target, dict) and name not in target and name.isdigit():
                return None  # MongoDB orders numbers by value
            target[name] = value
            in_objects = in_objects and not by_index
    except (KeyError, IndexError, ValueError, TypeError):
        return None
    after = encode(document)
    # MongoDB finds out what a pipeline has changed. Unless that is much shorter than the document, the event would be
    # a replacement.
    in_objects = in_objects and len(after) > 2 * len(encode(write.update)) + _DIFFERENCE
    return StateAfter(RawBSONDocument(after, RAW_CODEC), in_objects)


def _by_name(item: tuple[str, Any]) -> list[str]:
    return item[0].split(".")


def _place(document: dict[str, Any], path: str) -> tuple[Any, Any, bool]:
    """Return the object or array that a path leads into, the name or index in it, and True for an index on the way."""
    *way, name = path.split(".")
    target: Any = document
    by_index = False
    for part in way:
        by_index = by_index or isinstance(target, list)
        target = target[int(part)] if isinstance(target, list) else target[part]
    if isinstance(target, list):
        return target, int(name), True
    return target, name, by_index


_DIFFERENCE: Final = 64
"""Bytes of MongoDB's record of a difference beside names and values, with a margin."""

_DUPLICATE: Final = 11000
_GIVEN_UP: Final = "the outcome is unknown, the write may have been made: MongoDB did not complete the command"
_UNKNOWN: Final = (
    "the outcome is unknown, the write may have been made: another writer has changed or deleted the document since"
)
