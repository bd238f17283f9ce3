"""Reads and writes of single stored documents that lose no write.

A write succeeds only if the stored document is still the one that was read. In a transaction MongoDB ensures this.
Otherwise the filter does: it compares the version and, because other writers do not count versions, the whole document.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

from bson.errors import InvalidBSON
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DeleteOne, InsertOne, UpdateOne
from pymongo.errors import OperationFailure

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.slices import SLICE
from eventsync.domain.bson_scan.opaque import field_of, value_of, writable
from eventsync.domain.ids import PLAIN_IDS, IdText, format_id, pointer_of, query_of, same_id
from eventsync.domain.stamp import FIELD, Stamp, version_in
from eventsync.domain.values.extended_json import CODEC, RAW_CODEC, decode
from eventsync.errors import TooLarge
from eventsync.mongodb.answer_size import AnswerSize
from eventsync.mongodb.clocks import max_time_ms
from eventsync.mongodb.errors import barred
from eventsync.mongodb.query_plans import SIMPLE
from eventsync.nodestorage.intent import Insert, Modify, PlannedWrite, Remove
from eventsync.nodestorage.node import Node, node_of
from eventsync.nodestorage.retry import Lost
from eventsync.nodestorage.transactions import Session, durable

GUARD_BYTES: Final = 256 * 1024
"""The filter compares documents up to this size. For larger ones a transaction costs less than sending them back."""


_LARGE: Final = 1024 * 1024
_LARGE_AT_ONCE: Final = 4
"""Most concurrent reads of pages, and of documents of a collection that has some larger than `_LARGE`.

MongoDB answers with up to 16 MiB, and an answer can be counted and refused only after it has arrived.
"""

_WRITTEN: Final = {"_id": False, "written": {"$literal": True}}
"""The projection of a written document. It excludes all stored fields, because the driver may fail to decode them."""


_DB_POINTER, _SYMBOL = 0x0C, 0x0E
_DECODED_AS_OTHERS: Final = frozenset({_DB_POINTER, _SYMBOL})
"""Deprecated types. The driver reads them as references and as text."""


class FoundDocument(NamedTuple):
    """The stored document with an id, or None.

    `twin` is the id of another document that MongoDB treats as equal to the requested one, and that so prevents an
    insert: a number of another type, or text that is equal under the collation.
    """

    document: RawBSONDocument | None
    twin: IdText | None = None


class Documents:
    """One collection's documents."""

    def __init__(self, collection: Any, offload: Offload, large: asyncio.Semaphore) -> None:
        """`large` limits concurrent reads of large documents."""
        self._offload = offload
        self._collection = durable(collection, RAW_CODEC)
        self._large = large
        self._has_large = False
        self._size = AnswerSize()
        # For writes. Not raw: PyMongo adds labels to a write concern error in place, and a raw document is immutable.
        self.collection = durable(collection, CODEC)
        self._collated: bool | None = None

    async def read(self, id: Any, session: Session | None = None) -> RawBSONDocument | None:
        """Return the stored document, or None."""
        return (await self.find(id, session)).document

    async def find(self, id: Any, session: Session | None = None) -> FoundDocument:
        """Return the stored document with this id, or the one that takes its place."""
        query = {"_id": query_of(id)}
        async with self._large if self._has_large else nullcontext():
            raw: RawBSONDocument | None = await self._collection.find_one(query, session=session)
        if raw is None:
            return FoundDocument(None)
        self._has_large = self._has_large or len(raw.raw) > _LARGE
        stored = field_of(raw.raw, "_id")
        return FoundDocument(raw) if same_id(stored, id) else FoundDocument(None, twin=format_id(stored))

    async def find_small(
        self, wanted: Mapping[IdText, Any], each: int, session: Session | None = None
    ) -> dict[IdText, RawBSONDocument | None]:
        """Return the stored documents with these ids, or None where there is none, by the text of the id.

        Leaves out those of more than `each` bytes, and where there are many of these, also ids without a document.
        """
        ids = list(wanted.values())
        found = await self.find_within(ids, max(_LARGE, each * len(ids)), session)
        if found is None:
            # Not at once: MongoDB takes longer for it, and it can't tell which ids have no document.
            small = {"$expr": {"$lte": [{"$bsonSize": "$$ROOT"}, each]}}
            found = {} if len(ids) == 1 else await self.find_within(ids, each * len(ids), session, small) or {}
            wanted = {key: wanted[key] for key in found if key in wanted}
        return {key: raw for key in wanted if (raw := found.get(key)) is None or len(raw.raw) <= each}

    async def find_within(
        self, ids: Sequence[Any], max_bytes: int, session: Session | None = None, where: Mapping[str, Any] | None = None
    ) -> dict[IdText, RawBSONDocument] | None:
        """Return the stored documents with these ids, by the text of the id, and those that MongoDB takes for them.

        With `where`, only those that this filter finds. Return None if they have more than `max_bytes`.
        """
        found: dict[IdText, RawBSONDocument] = {}
        size = 0
        async with self._large if self._has_large else nullcontext():
            # Room for one more: a server keeps the cursor of a full batch open, which would cost another command.
            batch = self._size.documents(len(ids) + 1)
            cursor = self._collection.find({"_id": query_of(*ids), **(where or {})}, batch_size=batch, session=session)
            async for raw in cursor:
                found[format_id(field_of(raw.raw, "_id"))] = raw
                size += len(raw.raw)
                if size > max_bytes:
                    await cursor.close()
                    break
        sizes = [len(raw.raw) for raw in found.values()]
        self._size.learn(sizes)
        self._has_large = self._has_large or max(sizes, default=0) > _LARGE
        return found if size <= max_bytes else None

    async def stamps(self, ids: Sequence[Any]) -> dict[IdText, Stamp]:
        """Return the stamps of the stored documents with these ids, by the text of the id."""
        found = self._collection.find({"_id": query_of(*ids)}, {FIELD: True})
        return {format_id(field_of(raw.raw, "_id")): Stamp.of(decode(bytes(raw.raw))) async for raw in found}

    async def page(
        self,
        after: Any | None,
        limit: int,
        max_bytes: int,
        seconds: float,
        *,
        skip: int = 0,
        granted: Mapping[str, Any] | None = None,
    ) -> tuple[list[RawBSONDocument], bool]:
        """Return documents after the id `after`, in id order across all types, and whether there may be more.

        With `granted`, only those that this filter finds. Skips the first `skip` of them. Stops at `limit` documents,
        or once they have `max_bytes`. MongoDB gives up after `seconds`.
        """
        # Without `$expr`, `$gt` would only match ids of the same type.
        behind = {} if after is None else {"$expr": {"$gt": ["$_id", writable({"$literal": after})]}}
        options: dict[str, Any] = {"max_time_ms": max_time_ms(seconds)}
        query: dict[str, Any] = behind
        if granted is not None:
            query = {"$and": [granted, behind]}
            options["collation"] = SIMPLE
        raws: list[RawBSONDocument] = []
        size = 0
        async with self._large:
            found = self._collection.find(query, batch_size=self._size.documents(limit + 1), **options)
            async for raw in found.sort("_id", ASCENDING).skip(skip).limit(limit):
                raws.append(raw)
                size += len(raw.raw)
                self._has_large = self._has_large or len(raw.raw) > _LARGE
                need(DOCUMENT_WEIGHT * size)
                if len(raws) == limit or size >= max_bytes:
                    break
        self._size.learn(len(raw.raw) for raw in raws)
        return raws, len(raws) == limit or size >= max_bytes

    async def can_compare(self, raw: RawBSONDocument) -> bool:
        """Return True if a filter can distinguish `raw` from every other state of the document at an acceptable
        cost.
        """
        return len(raw.raw) <= GUARD_BYTES and not await self.is_collated()

    async def is_collated(self) -> bool:
        """Return True if the collection, which exists, has a collation."""
        if self._collated is None:
            self._collated = await self._may_collate()
        return self._collated

    async def _may_collate(self) -> bool:
        """Return True if the collection has a collation, or if the user may not read its options."""
        try:
            return "collation" in await self._collection.options()
        except OperationFailure as error:
            # Without the privilege to know it, the answer is the one that is exact in both cases.
            if barred(error) is None:
                raise
            return True

    async def write(self, change: PlannedWrite, raw: RawBSONDocument | None, session: Session | None = None) -> None:
        """Write `change`, which was decided on the stored document `raw`. Raises `Lost` if that has changed since."""
        self._has_large = self._has_large or change.size > _LARGE
        if isinstance(change.write, Insert):
            await self._collection.insert_one(change.write.document, session=session)
        elif raw is not None and isinstance(change.write, Modify):
            await self._modify(change.write.update, raw, session)
        elif raw is not None and isinstance(change.write, Remove):
            # A delete carries no fields. Its version and author are left in the document's last change, where the
            # worker finds them.
            await self._modify({"$set": {FIELD: change.write.stamp.stored(change.write.trace)}}, raw, session)
            await self._collection.delete_one({"_id": exact_id(raw)}, session=session)

    async def _modify(self, update: Any, raw: RawBSONDocument, session: Session | None) -> None:
        if session is None:
            # A large document may have a million fields before its stamp.
            stamp = await self._offload.call(len(raw.raw), field_of, bytes(raw.raw), FIELD)
            unchanged = _unchanged(raw, stamp)
        else:
            unchanged = {"_id": exact_id(raw)}
        modified = await self.collection.find_one_and_update(
            unchanged, sent_update(update, raw), projection=_WRITTEN, session=session
        )
        if modified is None:
            raise Lost

    async def write_all(self, changes: Sequence[tuple[PlannedWrite, RawBSONDocument | None]], session: Session) -> None:
        """Make several writes in a transaction as `write` does, in order. Either all of them are deletes, or none is.

        Those of one kind that follow each other are one command. Deletes stamp all documents first.
        """
        requests = [_request(change, raw) for change, raw in changes]
        updates = sum(isinstance(request, UpdateOne) for request in requests)
        removed = [raw for change, raw in changes if raw is not None and isinstance(change.write, Remove)]
        deletes = [DeleteOne({"_id": exact_id(raw)}) for raw in removed]
        # One bulk for both: deletes that follow their stamps cost one command more, not one for each document.
        done = await self.collection.bulk_write([*requests, *deletes], session=session)
        if done.matched_count != updates or done.deleted_count != len(deletes):
            raise Lost


class Collections:
    """The collections of a database. Each `Documents` is made once and keeps its knowledge of the collection."""

    def __init__(self, database: Any, offload: Offload | None = None) -> None:
        """`offload` scans large documents; without it, they are scanned on the event loop."""
        self._database = database
        self._offload = offload or inline()
        self._known: dict[str, Documents] = {}
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)

    def of(self, name: str) -> Documents:
        """Return the documents of the collection `name`."""
        if name not in self._known:
            self._known[name] = Documents(self._database[name], self._offload, self._large)
        return self._known[name]


async def stored_node(database: Any, collection: str, id: Any, max_bytes: int = sys.maxsize) -> Node | None:
    """Return the stored document with this id, as writes read it, or None. Raises `TooLarge`."""
    raw = await Collections(database).of(collection).read(id)
    if raw is not None and len(raw.raw) > max_bytes:
        raise TooLarge(f"{collection}/{format_id(id)} has {len(raw.raw)} bytes; up to {max_bytes} are explained")
    return None if raw is None else node_of(raw, tell=True)


def _field(raw: RawBSONDocument, name: str) -> Any:
    """Return a field of a stored document, or None. An object stays raw if all fields can be decoded."""
    if len(raw.raw) > SLICE:
        return field_of(raw.raw, name)
    try:
        return raw.get(name)
    except InvalidBSON:
        return decode(raw.raw).get(name)


def exact_id(raw: RawBSONDocument) -> Any:
    """Return the condition for an `_id` that matches this document only.

    For most ids it is the id: MongoDB finds a document by such a filter without a plan, which would take 50 µs.
    """
    value = field_of(raw.raw, "_id")
    if type(value) in PLAIN_IDS:
        return value
    # An id that cannot be decoded is in the right form already.
    return writable({"$eq": (pointer_of(value) or value) if _id_type(raw) == _DB_POINTER else value})


def _id_type(raw: RawBSONDocument) -> int | None:
    """Return the BSON type of the `_id`, which MongoDB puts first."""
    return raw.raw[4] if bytes(raw.raw[5:9]) == b"_id\0" else None


def _decoded(value: Any) -> Any:
    return value_of(0x03, bytes(value.raw)) if isinstance(value, RawBSONDocument) else value


def sent_update(update: Any, raw: RawBSONDocument) -> Any:
    """Return an update of the stored document `raw` in a form that the driver can send."""
    if not isinstance(update, list):
        return writable(update)
    if _id_type(raw) in _DECODED_AS_OTHERS:
        # A replacement contains the decoded id, but the stored id is immutable.
        update = [{"$replaceWith": {"$mergeObjects": [stage["$replaceWith"], {"_id": "$_id"}]}} for stage in update]
    return [writable(stage) for stage in update]


def _request(change: PlannedWrite, raw: RawBSONDocument | None) -> InsertOne[Any] | UpdateOne:
    """Return the request of a write in a transaction. That of a delete stamps the document."""
    if isinstance(change.write, Insert):
        return InsertOne(change.write.document)
    if raw is None or change.write is None:
        raise AssertionError("an update is decided on a document")
    if isinstance(change.write, Remove):
        update: Any = {"$set": {FIELD: change.write.stamp.stored(change.write.trace)}}
    else:
        update = sent_update(change.write.update, raw)
    return UpdateOne({"_id": exact_id(raw)}, update)


def _unchanged(raw: RawBSONDocument, stamp: Any) -> dict[str, Any]:
    """Return the filter that matches the document only in the state that was read.

    A transaction does without: it fails if the document has changed since it was read.
    """
    wanted: dict[str, Any] = {"_id": exact_id(raw)}
    if stamp is None:
        wanted[f"{FIELD}.v"] = {"$exists": False}
    elif isinstance(stamp, Mapping) and (version := version_in(stamp)) is not None:
        wanted[f"{FIELD}.v"] = {"$eq": Int64(version)}
    wanted["$expr"] = {"$eq": ["$$ROOT", {"$literal": raw}]}
    return wanted
