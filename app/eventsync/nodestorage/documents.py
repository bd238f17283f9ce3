"""Reading and writing single stored documents, so that no write is lost.

A write goes to the document that was read, or nowhere. Within a transaction MongoDB sees to that. Outside of one the
filter does: it compares the version, and, as writers who are not ours don't count versions, the whole document.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

from bson.errors import InvalidBSON
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.errors import OperationFailure

from eventsync.answer_size import AnswerSize
from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.slices import SLICE
from eventsync.domain.bson_scan.opaque import field_of, value_of, writable
from eventsync.domain.ids import IdText, format_id, pointer_of, query_of, same_id
from eventsync.domain.stamp import FIELD, version_in
from eventsync.domain.values.extended_json import CODEC, RAW_CODEC, decode
from eventsync.mongodb.errors import barred
from eventsync.nodestorage.intent import Insert, Modify, PlannedWrite, Remove
from eventsync.nodestorage.retry import Lost
from eventsync.nodestorage.transactions import Session, durable

GUARD_BYTES: Final = 256 * 1024
"""Up to this size a document is compared by the filter. Beyond, a transaction costs less than sending it back."""


_LARGE: Final = 1024 * 1024
_LARGE_AT_ONCE: Final = 4
"""Reads of pages, and of single documents of a collection that is known to have larger ones than `_LARGE`, that are
under way at a time. MongoDB answers with up to 16 MiB, and only what has come can be counted and refused.
"""

_FOUND: Final = {"_id": False, "found": {"$literal": True}}
"""The projection of a document that was written: nothing of its own, which the driver may not be able to decode."""


_DB_POINTER, _SYMBOL = 0x0C, 0x0E
_DECODED_AS_OTHERS: Final = frozenset({_DB_POINTER, _SYMBOL})
"""Deprecated types, which the driver reads as references and as text."""


class Found(NamedTuple):
    """A stored document, if there is one of that id.

    Else `twin` may be the id of one that MongoDB takes for the same, so that no document of the wanted id can be made:
    a number of another type, or text that a collation takes for the same.
    """

    document: RawBSONDocument | None
    twin: IdText | None = None


class Documents:
    """One collection's documents."""

    def __init__(self, collection: Any, offload: Offload, large: asyncio.Semaphore) -> None:
        """`large` is held by reads of much."""
        self._offload = offload
        self._collection = durable(collection, RAW_CODEC)
        self._large = large
        self._has_large = False
        self._size = AnswerSize()
        # Not raw: PyMongo adds labels to a write concern error in place, which a raw document does not allow.
        self._written = durable(collection, CODEC)
        self._collated: bool | None = None

    async def read(self, id: Any, session: Session | None = None) -> RawBSONDocument | None:
        """The stored document, or None."""
        return (await self.find(id, session)).document

    async def find(self, id: Any, session: Session | None = None) -> Found:
        """Return the stored document, or the one that stands in its place."""
        query = {"_id": query_of(id)}
        async with self._large if self._has_large else nullcontext():
            raw: RawBSONDocument | None = await self._collection.find_one(query, session=session)
        if raw is None:
            return Found(None)
        self._has_large = self._has_large or len(raw.raw) > _LARGE
        stored = field_of(raw.raw, "_id")
        return Found(raw) if same_id(stored, id) else Found(None, twin=format_id(stored))

    async def page(
        self, after: Any | None, limit: int, most_bytes: int, skip: int = 0
    ) -> tuple[list[RawBSONDocument], bool]:
        """Documents behind the id `after` and `skip` more, in id order across all types, and whether there may be more.

        At most `limit`, and none behind those that have `most_bytes`.
        """
        # `$gt` outside of `$expr` would only find ids of the same type.
        behind = {} if after is None else {"$expr": {"$gt": ["$_id", writable({"$literal": after})]}}
        found: list[RawBSONDocument] = []
        size = 0
        async with self._large:
            query = self._collection.find(behind, batch_size=self._size.documents(limit + 1))
            async for raw in query.sort("_id", ASCENDING).skip(skip).limit(limit):
                found.append(raw)
                size += len(raw.raw)
                self._has_large = self._has_large or len(raw.raw) > _LARGE
                need(DOCUMENT_WEIGHT * size)
                if len(found) == limit or size >= most_bytes:
                    break
        self._size.learn(len(raw.raw) for raw in found)
        return found, len(found) == limit or size >= most_bytes

    async def can_compare(self, raw: RawBSONDocument) -> bool:
        """Whether a filter can tell `raw` from every other state of the document, at a bearable price."""
        if self._collated is None:
            self._collated = await self._may_collate()
        return not self._collated and len(raw.raw) <= GUARD_BYTES

    async def _may_collate(self) -> bool:
        """Return whether the collection has a collation; so it may where the user must not look."""
        try:
            return "collation" in await self._collection.options()
        except OperationFailure as error:
            if barred(error) is None:
                raise
            return True

    async def write(self, change: PlannedWrite, raw: RawBSONDocument | None, session: Session | None = None) -> None:
        """Make the change that was decided on the stored document `raw`. Raises `Lost` where it is another now."""
        self._has_large = self._has_large or change.size > _LARGE
        if isinstance(change.write, Insert):
            await self._collection.insert_one(change.write.document, session=session)
        elif raw is not None and isinstance(change.write, Modify):
            await self._modify(change.write.update, raw, session)
        elif raw is not None and isinstance(change.write, Remove):
            await self._modify({"$set": {FIELD: change.write.stamp.stored()}}, raw, session)
            await self._collection.delete_one({"_id": writable({"$eq": _exact_id(raw)})}, session=session)

    async def _modify(self, update: Any, raw: RawBSONDocument, session: Session | None) -> None:
        # A large document may have a million fields before its stamp.
        stamp = await self._offload.call(len(raw.raw), field_of, bytes(raw.raw), FIELD)
        unchanged = _unchanged(raw, stamp, compare=session is None)
        modified = await self._written.find_one_and_update(
            unchanged, _sent(update, raw), projection=_FOUND, session=session
        )
        if modified is None:
            raise Lost


class Collections:
    """The collections of a database, each made once: what is learnt about one is kept."""

    def __init__(self, database: Any, offload: Offload | None = None) -> None:
        """`offload` looks through large documents; without it, that is done at once."""
        self._database = database
        self._offload = offload or inline()
        self._known: dict[str, Documents] = {}
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    def of(self, name: str) -> Documents:
        """The documents of the collection `name`."""
        if name not in self._known:
            self._known[name] = Documents(self._database[name], self._offload, self._large)
        return self._known[name]


def _field(raw: RawBSONDocument, name: str) -> Any:
    """Return a field of a stored document, or None. An object stays raw where all fields can be decoded."""
    if len(raw.raw) > SLICE:
        return field_of(raw.raw, name)
    try:
        return raw.get(name)
    except InvalidBSON:
        return decode(raw.raw).get(name)


def _exact_id(raw: RawBSONDocument) -> Any:
    """Return the id such that a filter finds just this document."""
    value = field_of(raw.raw, "_id")
    # One that can't be decoded is itself already.
    return (pointer_of(value) or value) if _id_type(raw) == _DB_POINTER else value


def _id_type(raw: RawBSONDocument) -> int | None:
    """Return the BSON type of the `_id`, which MongoDB puts first."""
    return raw.raw[4] if bytes(raw.raw[5:9]) == b"_id\0" else None


def _decoded(value: Any) -> Any:
    return value_of(0x03, bytes(value.raw)) if isinstance(value, RawBSONDocument) else value


def _sent(update: Any, raw: RawBSONDocument) -> Any:
    """Return an update of the stored document `raw` as the driver can send it."""
    if not isinstance(update, list):
        return writable(update)
    if _id_type(raw) in _DECODED_AS_OTHERS:
        # A replacement has the id as it is decoded; the stored one can't be changed.
        update = [{"$replaceWith": {"$mergeObjects": [stage["$replaceWith"], {"_id": "$_id"}]}} for stage in update]
    return [writable(stage) for stage in update]


def _unchanged(raw: RawBSONDocument, stamp: Any, *, compare: bool) -> dict[str, Any]:
    """The filter that finds the document only as it was read."""
    wanted: dict[str, Any] = {"_id": writable({"$eq": _exact_id(raw)})}
    if stamp is None:
        wanted[f"{FIELD}.v"] = {"$exists": False}
    elif isinstance(stamp, Mapping) and (version := version_in(stamp)) is not None:
        wanted[f"{FIELD}.v"] = {"$eq": Int64(version)}
    if compare:
        wanted["$expr"] = {"$eq": ["$$ROOT", {"$literal": raw}]}
    return wanted
