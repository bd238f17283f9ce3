"""Reads of the hot tier: rows of `events`, with proof that none was removed before it was read.

The archiver raises `archived_up_to` before it removes a row. So a reader reads some rows and then `archived_up_to`. If
that is not beyond the position before the rows, no row is missing. A reader yields rows only after this check.

A new primary may for a moment answer majority reads with a state older than its predecessor has returned. So a reader
first looks for the newest requested event. All reads use one causally consistent session, so no read returns an older
state than the one before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import ASCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.concurrency.prefetch import ahead
from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.events import TransactionPart, last_whole
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged, DamagedEvents
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import decode
from eventsync.errors import EventsyncError, Unavailable
from eventsync.mongodb.answer_size import AnswerSize
from eventsync.mongodb.errors import translated
from eventsync.mongodb.raw_cursor import majority_after, raw_find
from eventsync.stores.log.event_batch import SENT, EventBatch, EventBatchBuilder
from eventsync.stores.log.event_parts import EventParts, is_whole
from eventsync.stores.log.gap_check import GapCheck
from eventsync.stores.log.stored_event import ROUTES, UNREADABLE, body_of, texts_size, transaction_part, unreadable
from eventsync.stores.log.tiers import Tiers, TierStore

Row = dict[str, Any]

_BATCH_BYTES = 4 * 1024 * 1024
"""Most bytes of bodies in a batch. A single event may exceed it."""

_ANSWERS = 4
_MIN_ANSWER = 500
"""MongoDB sends a large batch in this many answers, so that it reads some rows while others are decoded."""

_REMOVED_AT_ONCE = 2000
_NAMED_AT_ONCE = 1000


class Moved(EventsyncError):
    """Requested rows have left MongoDB. Read them from the cold tier."""

    code = "moved"


IsComplete = Callable[[Tiers, AsyncClientSession], Awaitable[bool]]
"""Returns True if the rows that were just read are complete, given the log's tiers after that read."""


@dataclass(frozen=True, slots=True)
class RowQuery:
    """A query of rows, its order, and its projection."""

    query: Mapping[str, Any]
    up_to: Seq
    """The newest event in the range of the query. It exists."""
    order: Sequence[tuple[str, int]]
    fields: Mapping[str, int]
    hint: str | None = None


class RowBatch(NamedTuple):
    """One or more rows by seq, with their bodies."""

    rows: list[Row]

    @property
    def last(self) -> Seq:
        """The number of the last event."""
        return Seq(self.rows[-1]["_id"]["n"])


class HotRows:
    """Reads rows in batches, and removes rows that are archived."""

    def __init__(self, database: AsyncDatabase[Any], tiers: TierStore) -> None:
        self._client = database.client
        self._events: AsyncCollection[Any] = database["events"]
        self._parts = EventParts(database)
        self._tiers = tiers
        self.gap_check = GapCheck(database, tiers)
        self._size = AnswerSize()
        self._seen: tuple[LogId, Seq, Timestamp] | None = None
        """The newest event that a read has found, and the time of that answer."""

    async def after(self, log: LogId, find: RowQuery, position: Seq, *, batch: int) -> AsyncGenerator[RowBatch]:
        """Yield the rows after `position` by seq, at most `batch` at a time, with their bodies.

        Raises `Moved` if rows after the last one have left MongoDB, `Damaged` and `Unavailable`.
        """
        last = checked = position

        async def is_complete(tiers: Tiers, _: AsyncClientSession) -> bool:
            return tiers.archived_up_to <= last

        async with aclosing(self.validated(log, find, is_complete, batch=batch)) as batches:
            async for rows in batches:
                row_batch = RowBatch(rows)
                # Before the batch is passed on: a client that has its events would never get one from a gap before
                # them. Rows may also be missing behind the last one that was found; one check does for both.
                if len(rows) < batch and sum(map(texts_size, rows)) < _BATCH_BYTES:
                    await self._require(log, last, find.up_to, len(rows))
                    checked = find.up_to
                else:
                    await self._require(log, last, row_batch.last, len(rows))
                    checked = row_batch.last
                yield row_batch
                last = row_batch.last
        await self.gap_check.require(log, checked, find.up_to)

    async def validated(
        self, log: LogId, find: RowQuery, is_complete: IsComplete, *, batch: int
    ) -> AsyncGenerator[list[Row]]:
        """Yield rows in any order, in batches that `is_complete` accepts. It also checks the end of the result.

        Raises as `after`.
        """
        with translated("events can't be read"):
            async with self._client.start_session() as session:
                await self._see(log, find.up_to, session)
                cursor = self._events.find(
                    find.query,
                    find.fields,
                    sort=list(find.order),
                    hint=find.hint,
                    batch_size=self._size.documents(batch),
                    session=session,
                )
                async with cursor:
                    rows: list[Row] = []
                    size = 0
                    async for row in cursor:
                        if not is_whole(row):
                            row.update(await self._filled(row, log, is_complete, session))
                        rows.append(row)
                        size += texts_size(row)
                        if len(rows) >= batch or size >= _BATCH_BYTES:
                            self._size.learn(map(texts_size, rows))
                            # After the rows were read, and before anybody gets them.
                            await self._validate(log, is_complete, session)
                            yield rows
                            rows, size = [], 0
                    await self._validate(log, is_complete, session)
                    if rows:
                        yield rows

    async def event_batches(
        self, log: LogId, position: Seq, up_to: Seq, shape: Shape, *, batch: int
    ) -> AsyncGenerator[EventBatch]:
        """Yield the events of a shape with `position < seq <= up_to` for forwarding, at most `batch` at a time.

        Raises as `after`.
        """
        last, made = position, EventBatchBuilder(log)

        async def is_complete(tiers: Tiers, _: AsyncClientSession) -> bool:
            return tiers.archived_up_to <= last

        with translated("events can't be read"):
            async with self._client.start_session() as session:
                await self._see(log, up_to, session)
                count = batch
                # Each batch is a separate query, because an open cursor would need another command to close it.
                while count == batch:
                    command, count = _command(in_order(log, last, up_to, shape, fields=SENT), session), 0
                    reading = raw_find(
                        self._events, command, session=session, batch=_answer(batch), size=self._size, limit=batch
                    )
                    async with reading as cursor, ahead(cursor.next) as answers:
                        async for rows in answers:
                            count += len(rows)
                            for place, row in made.add(rows):
                                made.put(place, *_sent(await self._filled(decode(row), log, is_complete, session)))
                            if made.bytes >= _BATCH_BYTES:
                                await self._validate(log, is_complete, session)
                                event_batch = await self._take(log, last, made)
                                yield event_batch
                                last = event_batch.last
                    await self._validate(log, is_complete, session)
                    if made.bytes:
                        event_batch = await self._take(log, last, made)
                        yield event_batch
                        last = event_batch.last
                await self.gap_check.require(log, last, up_to)

    async def _take(self, log: LogId, after: Seq, made: EventBatchBuilder) -> EventBatch:
        """Return the events that were read after `after`. Raises `DamagedEvents` if one is missing between them."""
        event_batch = made.take()
        await self._require(log, after, event_batch.last, len(event_batch.seqs))
        return event_batch

    async def _require(self, log: LogId, after: Seq, up_to: Seq, count: int) -> None:
        """Raise `DamagedEvents` if a row with `after < seq <= up_to` is missing. The reader has got `count` of them."""
        if count != up_to - after:
            await self.gap_check.require(log, after, up_to)

    async def _see(self, log: LogId, seq: Seq, session: AsyncClientSession) -> None:
        """Raise `Unavailable` if this member does not have the event yet. `is_complete` handles events that have
        left.
        """
        if seq <= 0:
            return
        if self._seen is not None and log == self._seen[0] and seq <= self._seen[1]:
            session.advance_operation_time(self._seen[2])  # reads after that time include the event
            return
        if await self._events.find_one({"_id": event_key(log, seq)}, {"_id": 1}, session=session):
            if session.operation_time is not None:
                self._seen = log, seq, session.operation_time
            return
        # The event is not here. It has moved to the archive, or is lost, or this member does not have it yet.
        if (await self._tiers.read(log, session)).archived_up_to >= seq:
            return
        if not await self.gap_check.exists(log, seq) and await self._first(log, after=seq) is not None:
            if (await self._tiers.read(log, session)).archived_up_to < seq:
                raise DamagedEvents(f"event {seq} is missing", seq)
            return
        raise Unavailable(f"event {log}:{seq} is not to be read yet: the primary has just changed")

    async def _filled(self, row: Row, log: LogId, is_complete: IsComplete, session: AsyncClientSession) -> Row:
        try:
            return await self._parts.filled(row)
        except Damaged:
            await self._validate(log, is_complete, session)  # its parts may have been removed after the row was read
            raise

    async def _validate(self, log: LogId, is_complete: IsComplete, session: AsyncClientSession) -> None:
        if not await is_complete(await self._tiers.read(log, session), session):
            raise Moved(f"events of log {log} have left MongoDB")

    async def named(self, log: LogId, after: Seq, up_to: Seq) -> AsyncGenerator[list[tuple[str, IdText, Seq]]]:
        """Yield the documents of the events with `after < seq <= up_to`, in batches of (collection, id, seq).

        Raises `Moved` if some of the events have left MongoDB.
        """
        fields = {"c": 1, "i": 1}
        find = RowQuery(in_order(log, after, up_to).query, up_to, [("_id", ASCENDING)], fields)
        async with aclosing(self.after(log, find, after, batch=_NAMED_AT_ONCE)) as batches:
            async for row_batch in batches:
                yield [(row["c"], IdText(row["i"]), Seq(row["_id"]["n"])) for row in row_batch.rows]

    async def whole_before(self, log: LogId, seq: Seq) -> Seq:
        """Return `seq`, or the last event before it that does not lie inside a transaction."""
        with translated("events can't be read"):
            row = await self._events.find_one({"_id": event_key(log, seq)}, {"g": 1})
        return last_whole(seq, transaction_part(row) if row else None)

    async def remove(self, log: LogId, up_to: Seq) -> AsyncGenerator[int]:
        """Remove rows with `seq <= up_to` and their parts, in bounded steps. Yields the number removed in each step.

        `archived_up_to` was raised to `up_to` before.
        """
        with translated("sealed events can't be removed"):
            # By ranges of the key: a single command for a million rows would run into the driver's timeout.
            while (first := await self._first(log)) is not None and first <= up_to:
                last = Seq(min(first + _REMOVED_AT_ONCE - 1, up_to))
                yield (await self._events.delete_many({"_id": key_range(log, first - 1, last)})).deleted_count
        # After the rows that refer to them. This also removes parts of a writer that never wrote its row.
        await self._parts.remove(log, up_to)

    async def first(self, log: LogId) -> Seq | None:
        """Return the number of the oldest row in MongoDB, or None."""
        with translated("events can't be read"):
            return await self._first(log)

    async def _first(self, log: LogId, after: int = -1) -> Seq | None:
        row = await self._events.find_one({"_id": key_range(log, after)}, {"_id": 1}, sort=[("_id", ASCENDING)])
        return Seq(row["_id"]["n"]) if row else None


BY_ROUTE: Final = "by_route"
"""The index by log, key and seq."""

TRACE: Final = "p"
"""The field of a row with the context of its trace. Only the feed of a server that traces reads it."""

WHOLE: Final = {"t": 0, TRACE: 0}
"""The projection of a row for the archive and for replays."""

FOR_CLIENTS: Final = {"_id": 1, "c": 1, "i": 1, "b": 1, "g": 1} | ROUTES
"""The projection of a row for clients."""


def in_order(
    log: LogId,
    after: Seq,
    up_to: Seq,
    shape: Shape | None = None,
    *,
    above: int = 0,
    fields: Mapping[str, int] = WHOLE,
) -> RowQuery:
    """Return the query for rows with `after < seq <= up_to` by seq, of all shapes or of one, which is bound.

    With `above`, it finds only events that left their document at a version greater than that.
    """
    hint = None
    within = {"$gt": Int64(after), "$lte": Int64(up_to)}
    if shape is not None and (keys := shape.keys) is not None:
        # The index also has the keys of other shapes, so nothing but the events with one of these keys is looked at.
        query: Row = {"_id.l": log, "k": {"$in": sorted(keys)}, "_id.n": within}
        order, hint = "_id.n", BY_ROUTE
    elif shape is not None and shape.id is not None:
        query = {"_id.l": log, "c": shape.collection, "i": shape.id, "_id.n": within}
        order = "_id.n"
    else:
        query = {"_id": key_range(log, after, up_to)}
        query |= {"c": shape.collection} if shape is not None else {}
        order = "_id"
    return RowQuery(query | ({"v": {"$gt": above}} if above > 0 else {}), up_to, [(order, ASCENDING)], fields, hint)


def _sent(row: Row) -> tuple[Seq, bytes, TransactionPart | None]:
    try:
        return Seq(row["_id"]["n"]), body_of(row), transaction_part(row)
    except UNREADABLE as error:
        raise unreadable(row, error) from error


def _answer(batch: int) -> int:
    return max(-(-batch // _ANSWERS), min(batch, _MIN_ANSWER))


def _command(find: RowQuery, session: AsyncClientSession) -> Row:
    return {
        "filter": find.query,
        "projection": find.fields,
        "sort": dict(find.order),
        "readConcern": majority_after(session),
    } | ({"hint": find.hint} if find.hint else {})
