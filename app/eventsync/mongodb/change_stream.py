"""A change stream, batch by batch.

PyMongo's own `watch()` hides where a batch ends and how far an empty one has read, and waits equally long every time.
The sequencer needs all three (`app/eventsync/stores` reads the log by it too), so this drives `aggregate` and
`getMore` itself.
It never resumes by itself: it raises, and its owner, which knows how far it has *used* the stream, opens another.

A change that is over 16 MiB with its images comes in fragments where the server can split it (6.0.9, 7.0), and is
handed out whole; elsewhere it is `ChangeTooLarge`.

Source: https://github.com/mongodb/specifications/blob/master/source/change-streams/change-streams.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure, PyMongoError

from eventsync.concurrency.slices import SLICE
from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.errors import Unavailable
from eventsync.mongodb.errors import forget_connections, knows_no_sessions, short
from eventsync.mongodb.kill_cursors import free_cursor
from eventsync.mongodb.split_changes import FragmentMissing, Fragments

Token = str
"""A resume token's `_data`: hex digits."""

_HISTORY_LOST = frozenset({136, 260, 280, 286, 40646, 50795})
"""CappedPositionLost, InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost: no reading on from there.

The last two are a server's that is too old for the token: for a split change's, and for one of a later format.
"""

_TOO_LARGE = frozenset({10334, 7182500})
"""BSONObjectTooLarge, and its like from a server that splits: one fragment alone is over 16 MiB."""

_UNKNOWN_STAGE = 40324

_SPLIT: Mapping[str, Any] = {"$changeStreamSplitLargeEvent": {}}


class StreamInterrupted(Unavailable):
    """The cursor is gone (network, election, killed): open another from the last used token."""


class HistoryLost(Unavailable):
    """The token can't be resumed from, ever: the changes after it have to be found out by other means."""


class ChangeTooLarge(Unavailable):
    """The next change and its images don't fit into an answer. Without images it does."""


def token_time(token: Token) -> Timestamp:
    """The cluster time inside a resume token: one type byte, then seconds and increment, big-endian."""
    return Timestamp(int(token[2:10], 16), int(token[10:18], 16))


@dataclass(frozen=True, slots=True)
class Batch:
    """What one read returned. Everything up to `token` has been read; `time` is the token's cluster time.

    `token` never points into the middle of a change that came in fragments: it stays before it until it is whole.
    """

    changes: Sequence[RawBSONDocument]
    token: Token

    @property
    def time(self) -> Timestamp:
        """The cluster time up to which the stream has been read, if no event of `changes` bears it."""
        return token_time(self.token)


class ChangeStream:
    """An open change stream. Make one with `watch`."""

    def __init__(
        self,
        database: AsyncDatabase[Any],
        session: AsyncClientSession,
        codec: CodecOptions[Any],
        cursor: Mapping[str, Any],
    ) -> None:
        self._database = database
        self._session = session
        self._codec = codec
        self._fragments = Fragments()
        self._id: int = cursor["id"]
        self.token: Token = cursor["postBatchResumeToken"]["_data"]
        """How far the stream has been read."""

    async def read(self, *, wait: float, limit: int) -> Batch:
        """The next changes, at most `limit`; empty when none came within `wait` seconds, or none is whole yet.

        Raises `StreamInterrupted`, `HistoryLost` and `ChangeTooLarge`.

        Do not cancel from an anyio cancel scope (the cursor would leak).
        """
        if not self._id:
            raise StreamInterrupted("the server closed the change stream (its database was dropped or renamed)")
        command = {
            "getMore": self._id,
            "collection": "$cmd.aggregate",
            "batchSize": limit,
            "maxTimeMS": int(wait * 1000) or 1,
        }
        with interrupted():
            answer = await self._database.command(command, session=self._session, codec_options=self._codec)
        # Each step copies what it takes apart, of 16 MiB in some milliseconds.
        await _breathe(answer)
        cursor = answer["cursor"]
        await _breathe(cursor)
        # The batch that ends a stream says why: only the read after it fails.
        self._id = cursor["id"]
        changes = self._whole(cursor["nextBatch"])
        if not self._fragments.pending:
            self.token = cursor["postBatchResumeToken"]["_data"]
        elif changes:
            self.token = changes[-1]["_id"]["_data"]
        return Batch(changes, self.token)

    def _whole(self, changes: Sequence[RawBSONDocument]) -> Sequence[RawBSONDocument]:
        try:
            return self._fragments.joined(changes)
        except FragmentMissing as error:
            raise HistoryLost(f"the beginning of a change is missing: {error.message}") from error

    async def close(self) -> None:
        """Free the server's cursor, if it has one still."""
        await free_cursor(self._database, self._session, "$cmd.aggregate", self._id)


async def _breathe(answer: Any) -> None:
    """Let others run before a large answer is taken apart."""
    if isinstance(answer, RawBSONDocument) and len(answer.raw) > SLICE:
        await asyncio.sleep(0)


@contextmanager
def interrupted() -> Iterator[None]:
    """Tell the ways a stream can break apart."""
    try:
        yield
    except PyMongoError as error:
        code = error.code if isinstance(error, OperationFailure) else None
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
    """Open a change stream on `database`, from now or right after the token `after`.

    With `images`, updates carry the exact document before and after where the collection keeps them. (Never
    `updateLookup`: it returns whatever the document is by the time it is looked up.)

    Raises `StreamInterrupted` and `HistoryLost`, here or at the first read.
    """
    stage: dict[str, Any] = {"resumeAfter": {"_data": after}} if after is not None else {}
    if images:
        stage |= {"fullDocument": "whenAvailable", "fullDocumentBeforeChange": "whenAvailable"}
    try:
        async with database.client.start_session() as session:
            with interrupted():
                cursor = await _open(database, session, [{"$changeStream": stage}, *pipeline])
            stream = ChangeStream(database, session, codec, cursor)
            try:
                yield stream
            finally:
                await stream.close()
    except StreamInterrupted as error:
        if knows_no_sessions(error.__cause__):
            await forget_connections(database.client)
        raise


async def _open(
    database: AsyncDatabase[Any], session: AsyncClientSession, pipeline: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The cursor of a stream that splits what is too large, where the server can.

    Tried anew each time, never remembered: it is one round trip on an old server, and the next primary of a set that is
    being upgraded may be another version.
    """
    command: dict[str, Any] = {"aggregate": 1, "pipeline": [*pipeline, _SPLIT], "cursor": {"batchSize": 0}}
    try:
        answer = await database.command(command, session=session)
    except OperationFailure as error:
        if error.code != _UNKNOWN_STAGE:
            raise
        answer = await database.command(command | {"pipeline": [*pipeline]}, session=session)
    cursor: Mapping[str, Any] = answer["cursor"]
    return cursor
