"""A cursor that returns documents as BSON bytes, batch by batch.

PyMongo's cursors, even the raw ones, create an object for each document, which takes 1.2 of the 1.5 µs of reading an
event of 500 bytes. This cursor sends `find` and `getMore` itself and slices the replies. It neither retries nor
resumes, and raises the driver's errors.

Source: https://github.com/mongodb/specifications/blob/master/source/find_getmore_killcursors_commands.md
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.mongodb.answer_size import AnswerSize
from eventsync.mongodb.kill_cursors import free_cursor

_INT32: Final = struct.Struct("<i")
_ARRAY, _ID = b"\x04", b"\x12id\x00"


class RawCursor:
    """An open cursor. Create one with `raw_find`."""

    def __init__(
        self,
        database: AsyncDatabase[Any],
        session: AsyncClientSession,
        command: dict[str, Any],
        batch: int,
        size: AnswerSize,
    ) -> None:
        self._database = database
        self._session = session
        self._command: dict[str, Any] | None = command
        self._collection: str = command["find"]
        self._batch = batch
        self._size = size
        self._id = 0

    async def next(self) -> list[bytes]:
        """Return the next documents in BSON; an empty list at the end. Raises `PyMongoError`."""
        while self._command is not None:
            answer = await self._database.command(self._command, session=self._session, codec_options=RAW_CODEC)
            documents, self._id = _cut_up(answer["cursor"])
            # Before the next batch is asked for: documents of 15 MiB are to come one by one from the second answer on.
            self._size.learn(map(len, documents))
            batch = self._size.documents(self._batch)
            following = {"getMore": self._id, "collection": self._collection, "batchSize": batch}
            self._command = following if self._id else None
            if documents:
                return documents
        return []

    async def close(self) -> None:
        """Free the server's cursor, if it is still open."""
        await free_cursor(self._database, self._session, self._collection, self._id)


@asynccontextmanager
async def raw_find(
    collection: AsyncCollection[Any],
    command: Mapping[str, Any],
    *,
    session: AsyncClientSession,
    batch: int,
    size: AnswerSize,
    limit: int = 0,
) -> AsyncIterator[RawCursor]:
    """Open a cursor for a `find` command, given without its collection name. Each reply has at most `batch` documents.

    `size` estimates document sizes from earlier replies, so that large documents come a few at a time. `limit` bounds
    the number of documents; 0 means no limit. The read concern is the one in `command`.
    """
    first = size.documents(batch)
    # After the last of `limit` documents, a server closes the cursor only if the batch had room for one more.
    bounds = {"limit": limit, "batchSize": first if first < limit else limit + 1} if limit else {"batchSize": first}
    cursor = RawCursor(collection.database, session, {"find": collection.name, **command, **bounds}, batch, size)
    try:
        yield cursor
    finally:
        await cursor.close()


def majority_after(session: AsyncClientSession) -> dict[str, Any]:
    """Return a read concern that includes everything read in this session before."""
    concern: dict[str, Any] = {"level": "majority"}
    return concern if session.operation_time is None else concern | {"afterClusterTime": session.operation_time}


def _cut_up(cursor: RawBSONDocument) -> tuple[list[bytes], int]:
    """Return the documents and the id of a reply's `cursor`, sliced from its bytes."""
    raw = bytes(cursor.raw)
    # Servers send the batch first and then the id. The order is not specified, so there is a fallback.
    start = raw.index(b"\0", 5) + 1
    if raw[4:5] == _ARRAY and raw[5 : start - 1] in (b"firstBatch", b"nextBatch"):
        end = start + _INT32.unpack_from(raw, start)[0]
        if raw.startswith(_ID, end):
            return _documents(raw, start, end), int.from_bytes(raw[end + 4 : end + 12], "little", signed=True)
    batch = cursor["firstBatch"] if "firstBatch" in cursor else cursor["nextBatch"]
    return [bytes(document.raw) for document in batch], int(cursor["id"])


def _documents(raw: bytes, start: int, end: int) -> list[bytes]:
    """Slice an array of documents. Each element is a type byte, its index in decimal digits, a NUL and the document."""
    documents: list[bytes] = []
    size_at = _INT32.unpack_from
    at, number, digits, more = start + 4, 0, 1, 10
    while at < end - 1:
        if number == more:
            digits, more = digits + 1, more * 10
        at += digits + 2
        (size,) = size_at(raw, at)
        documents.append(raw[at : at + size])
        at += size
        number += 1
    return documents
