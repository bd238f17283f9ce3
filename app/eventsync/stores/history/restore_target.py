"""The collection that a restore builds from a snapshot and events, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.command_cursor import AsyncCommandCursor
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.bson_scan.opaque import encode, writable
from eventsync.domain.ids import IdText, format_id, stored_id
from eventsync.domain.replay import Change, State, applied
from eventsync.domain.stamp import FIELD, unversioned
from eventsync.domain.values.extended_json import CODEC, RAW_CODEC, Document, decode
from eventsync.mongodb.errors import translated, translated_write
from eventsync.stores.snapshots.rows import Row

_BYTES = 4 * 1024 * 1024
"""Most bytes of documents that are loaded together. A single document may exceed it."""


class RestoreTarget:
    """The collection being built. `count` is the number of documents it should have, according to the writes."""

    def __init__(self, database: AsyncDatabase[Any], name: str) -> None:
        self._database = database
        self._name = name
        self._documents: AsyncCollection[Document] = database.get_collection(name, codec_options=CODEC)
        self._raw: AsyncCollection[Any] = database.get_collection(name, codec_options=RAW_CODEC)
        self.count = 0

    async def create(self) -> None:
        """Create the empty collection. Raises `Unavailable`."""
        with translated(f"{self._name} can't be made"):
            await self._database.create_collection(self._name)

    async def insert(self, rows: Sequence[Row]) -> None:
        """Insert documents of a snapshot. Raises `Unavailable` and `TooLarge`."""
        await self._insert([_stored(version, document) for _, version, document in rows])

    async def change(self, changes: Sequence[Change]) -> None:
        """Apply changes, which are by seq. Their values are consumed.

        Raises `Damaged` if a change does not fit the stored document, `Unavailable` and `TooLarge`.
        """
        sizes = await self._sizes({change.id for change in changes})
        for run in _runs(changes, sizes):
            keys = [stored_id(text) for text in {change.id for change in run}]
            states = await self._states(keys)
            for change in run:
                states[change.id] = applied(states.get(change.id), change)
            # Documents are deleted and inserted, because MongoDB accepts field names like `$a` only in inserts. Also,
            # MongoDB treats some ids as equal that are two here, int:5 and ejson:5.0; at most one of them exists.
            with translated(f"{self._name} can't be written"):
                self.count -= (await self._documents.delete_many(_any_of(keys))).deleted_count
            await self._insert([_stored(*state) for state in states.values() if state is not None])

    async def counted(self) -> int:
        """Count the stored documents."""
        with translated(f"{self._name} can't be counted"):
            return await self._documents.count_documents({})

    async def _insert(self, documents: list[Document]) -> None:
        if documents:
            with translated_write(f"{self._name} can't be written"):
                await self._raw.insert_many(map(_raw, documents), ordered=True)
            self.count += len(documents)

    async def _sizes(self, ids: set[IdText]) -> dict[IdText, int]:
        match = {"$match": _any_of([stored_id(text) for text in ids])}
        with translated(f"{self._name} can't be read"):
            cursor = await self._raw.aggregate([match, {"$project": {"n": {"$bsonSize": "$$ROOT"}}}])
            async with cursor:
                return {format_id(row["_id"]): int(row["n"]) async for row in _decoded(cursor)}

    async def _states(self, keys: list[Any]) -> dict[IdText, State]:
        states: dict[IdText, State] = {}
        with translated(f"{self._name} can't be read"):
            async with self._raw.find(_any_of(keys)) as cursor:
                async for stored in _decoded(cursor):
                    version, document = unversioned(stored)
                    states[format_id(document["_id"])] = (version, document)
        return states


def _any_of(keys: list[Any]) -> Mapping[str, Any]:
    return writable({"_id": {"$in": keys}})


async def _decoded(cursor: AsyncCursor[Any] | AsyncCommandCursor[Any]) -> AsyncIterator[Document]:
    async for raw in cursor:
        yield decode(raw.raw)


def _raw(document: Document) -> RawBSONDocument:
    return RawBSONDocument(encode(document), RAW_CODEC)


def _stored(version: int, document: Document) -> Document:
    """Add the version, so that versions continue. The author is unknown for some documents, so it is left out of
    all.
    """
    return document | {FIELD: {"v": Int64(version)}} if version else document


def _runs(changes: Sequence[Change], sizes: dict[IdText, int]) -> Iterator[list[Change]]:
    """Split the changes, in order, into runs whose documents have about `_BYTES` together."""
    run: list[Change] = []
    seen: set[IdText] = set()
    size = 0
    for change in changes:
        more = 0 if change.id in seen else sizes.get(change.id, 0)
        if run and size + more > _BYTES:
            yield run
            run, seen, size, more = [], set(), 0, sizes.get(change.id, 0)
        run.append(change)
        seen.add(change.id)
        size += more
    if run:
        yield run
