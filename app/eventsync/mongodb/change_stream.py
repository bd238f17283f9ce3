"""A change stream, batch by batch.

PyMongo's own `watch()` hides the ends of batches and the resume token of an empty batch, and its wait time is fixed.
The sequencer needs all three, so this module sends `aggregate` and `getMore` itself.
It never resumes by itself: it raises, and its owner, which knows how far it has *used* the stream, opens a new one.

A change over 16 MiB with its images arrives in fragments if the server can split it (6.0.9, 7.0), and is returned
complete. Other servers cause `ChangeTooLarge`.

Source: https://github.com/mongodb/specifications/blob/master/source/change-streams/change-streams.md
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure, PyMongoError

from eventsync.concurrency.slices import SLICE
from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.errors import Unavailable
from eventsync.mongodb.clocks import max_time_ms
from eventsync.mongodb.connections import PinnedConnection, pinned
from eventsync.mongodb.errors import short
from eventsync.mongodb.kill_cursors import free_cursor
from eventsync.mongodb.split_changes import FragmentMissing, Fragments

Token = str
"""A resume token's `_data`: hex digits."""

DOCUMENT_CHANGES: Final = ("insert", "update", "replace", "delete")
"""The types of operation that change one document."""

_HISTORY_LOST = frozenset({136, 260, 280, 286, 40646, 50795})
"""CappedPositionLost, InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost: the token can't be resumed.

The last two codes come from a server that is too old for the token of a split change or of a later format.
"""

_TOO_LARGE = frozenset({10334, 7182500})
"""BSONObjectTooLarge, and its equivalent from a server that splits: a single fragment is over 16 MiB."""

_UNKNOWN_STAGE = 40324

_CHECK_INTERVAL = 1.0
"""Seconds between two checks that the stream's member is still primary."""

_SPLIT: Mapping[str, Any] = {"$changeStreamSplitLargeEvent": {}}


class StreamInterrupted(Unavailable):
    """The cursor is gone (network, election, killed). Open a new one from the last used token."""


class HistoryLost(Unavailable):
    """The token can never be resumed. The changes after it must be found by other means."""

    code = "history"


class ChangeTooLarge(Unavailable):
    """The next change does not fit into a reply with its images. Without images it does."""


def token_time(token: Token) -> Timestamp:
    """Return the cluster time inside a resume token: one type byte, then seconds and increment, big-endian."""
    return Timestamp(int(token[2:10], 16), int(token[10:18], 16))


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of one read. Everything up to `token` has been read; `time` is the token's cluster time.

    `token` never points into a change that arrives in fragments: it stays before the change until that is complete.
    """

    changes: Sequence[RawBSONDocument]
    token: Token

    @property
    def time(self) -> Timestamp:
        """The cluster time up to which the stream has been read."""
        return token_time(self.token)


class ChangeStream:
    """An open change stream. Make one with `watch`."""

    def __init__(
        self,
        connection: PinnedConnection,
        database: AsyncDatabase[Any],
        session: AsyncClientSession,
        codec: CodecOptions[Any],
        cursor: Mapping[str, Any],
    ) -> None:
        self._connection = connection
        self._database = database
        self._session = session
        self._codec = codec
        self._checked = time.monotonic()
        self._max_wait = connection.timeout / 2
        self._fragments = Fragments()
        self._id: int = cursor["id"]
        self.token: Token = cursor["postBatchResumeToken"]["_data"]
        """The resume token of the last read."""

    async def read(self, *, wait: float, limit: int) -> Batch:
        """Return the next changes, at most `limit`; none if no complete change arrived within `wait` seconds, or within
        half of the connection's timeout.

        Raises `StreamInterrupted`, `HistoryLost` and `ChangeTooLarge`.

        Do not cancel from an anyio cancel scope (the cursor would leak).
        """
        if not self._id:
            raise StreamInterrupted("the server closed the change stream (its database was dropped or renamed)")
        self._check_member()
        command = {
            "getMore": self._id,
            "collection": "$cmd.aggregate",
            "batchSize": limit,
            # The answer to an idle read must not be overdue.
            "maxTimeMS": max_time_ms(min(wait, self._max_wait)),
            # The session of the `aggregate`: MongoDB refuses a cursor of another session.
            "lsid": self._session.session_id,
        }
        with interrupted():
            answer = await self._connection.command(self._database.name, command, self._codec)
        # Each access copies a part of the reply, which takes milliseconds for 16 MiB.
        await _breathe(answer)
        cursor = answer["cursor"]
        await _breathe(cursor)
        # The last batch of a stream contains the reason of its end, so only the next read fails.
        self._id = cursor["id"]
        changes = self._whole(cursor["nextBatch"])
        # A token between two fragments could not be resumed.
        if not self._fragments.pending:
            self.token = cursor["postBatchResumeToken"]["_data"]
        elif changes:
            self.token = changes[-1]["_id"]["_data"]
        return Batch(changes, self.token)

    def _check_member(self) -> None:
        """Raise `StreamInterrupted` if the member is no longer primary: one that is cut off sees no more changes."""
        if time.monotonic() > self._checked + _CHECK_INTERVAL:
            self._checked = time.monotonic()
            if not self._connection.is_to_primary:
                raise StreamInterrupted("the change stream's member is no longer primary")

    def _whole(self, changes: Sequence[RawBSONDocument]) -> Sequence[RawBSONDocument]:
        try:
            return self._fragments.joined(changes)
        except FragmentMissing as error:
            raise HistoryLost(f"the beginning of a change is missing: {error.message}") from error

    async def close(self) -> None:
        """Free the server's cursor, if it is still open."""
        await free_cursor(self._database, self._session, "$cmd.aggregate", self._id)


async def _breathe(answer: Any) -> None:
    """Yield to other tasks before a large reply is parsed."""
    if isinstance(answer, RawBSONDocument) and len(answer.raw) > SLICE:
        await asyncio.sleep(0)


@contextmanager
def interrupted() -> Iterator[None]:
    """Translate the driver's errors into the ways in which a stream can break."""
    try:
        yield
    except PyMongoError as error:
        code = error.code if isinstance(error, OperationFailure) else None
        # By code, because labels are unreliable: an open stream gets 136 without any.
        if code in _HISTORY_LOST:
            raise HistoryLost(f"change stream history is lost ({code})").because(short(error)) from error
        if code in _TOO_LARGE:
            raise ChangeTooLarge("a change with its images is too large").because(short(error)) from error
        raise StreamInterrupted("the change stream broke").because(short(error)) from error


@asynccontextmanager
async def watch(
    database: AsyncDatabase[Any],
    pipeline: Sequence[Mapping[str, Any]],
    *,
    after: Token | None = None,
    images: bool = False,
    codec: CodecOptions[Any] = RAW_CODEC,
) -> AsyncIterator[ChangeStream]:
    """Open a change stream on `database`, from now on or after the token `after`.

    With `images`, updates carry the exact document before and after, if the collection keeps images. `updateLookup` is
    not used, because it returns the document at the time of the look-up.

    Raises `StreamInterrupted` and `HistoryLost`, here or at the first read.
    """
    stage: dict[str, Any] = {"resumeAfter": {"_data": after}} if after is not None else {}
    if images:
        stage |= {"fullDocument": "whenAvailable", "fullDocumentBeforeChange": "whenAvailable"}
    async with database.client.start_session() as session, pinned(database.client, interrupted()) as connection:
        with interrupted():
            cursor = await _open(connection, database.name, session, [{"$changeStream": stage}, *pipeline])
        stream = ChangeStream(connection, database, session, codec, cursor)
        try:
            yield stream
        finally:
            await stream.close()


async def _open(
    connection: PinnedConnection,
    database: str,
    session: AsyncClientSession,
    pipeline: Sequence[Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Open a cursor that splits large changes, if the server can.

    The server's ability is not cached: a failed attempt costs one round trip, and the next primary may have another
    version during an upgrade.
    """
    # MongoDB demands that the splitting stage is the last. With an empty first batch the stream opens at once, and all
    # changes come through `read`.
    command: dict[str, Any] = {
        "aggregate": 1,
        "pipeline": [*pipeline, _SPLIT],
        "cursor": {"batchSize": 0},
        "lsid": session.session_id,
    }
    try:
        answer = await connection.command(database, command)
    except OperationFailure as error:
        if error.code != _UNKNOWN_STAGE:
            raise
        answer = await connection.command(database, command | {"pipeline": [*pipeline]})
    cursor: Mapping[str, Any] = answer["cursor"]
    return cursor
