"""Reading the hot tier: rows of `events`, none of which was removed before it could be read.

The archiver raises the log's floor before it removes a row. So: read some rows, then the floor; where it is not beyond
the position that they begin after, they are all that there were. Nothing is handed on before that is known.

A member that has just become primary answers majority reads for a moment from before what its predecessor has shown. So
the newest event that is asked for has to be seen first. All reads are of one causally consistent session: none of them
is answered from before another.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import ASCENDING
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.answer_size import AnswerSize
from eventsync.concurrency.prefetch import ahead
from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.events import Group, last_whole
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged, DamagedEvents
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import decode
from eventsync.errors import EventsyncError, Unavailable
from eventsync.mongodb.errors import translated
from eventsync.mongodb.raw_cursor import majority_after, raw_find
from eventsync.stores.log.event_batch import SENT, EventBatch, EventBatchBuilder
from eventsync.stores.log.event_parts import EventParts
from eventsync.stores.log.gap_check import GapCheck
from eventsync.stores.log.stored_event import UNREADABLE, body_of, body_size, group_of, unreadable
from eventsync.stores.log.tiers import Tiers, TierStore

Row = dict[str, Any]

_BATCH_BYTES = 4 * 1024 * 1024
"""A batch of rows is closed when their bodies have this many bytes; one event may exceed it."""

_ANSWERS = 4
_MIN_ANSWER = 500
"""Rows of a batch come in so many answers, but for small ones: MongoDB looks for some while others are taken apart."""

_REMOVED_AT_ONCE = 2000
_NAMED_AT_ONCE = 1000


class Moved(EventsyncError):
    """Rows that were asked for have left MongoDB: they are to be read from the cold tier."""

    code = "moved"


Whole = Callable[[Tiers, AsyncClientSession], Awaitable[bool]]
"""Whether rows that were just read can lack none, with the log's tiers as they are now."""


@dataclass(frozen=True, slots=True)
class Find:
    """A query of rows, its order, and its projection."""

    query: Mapping[str, Any]
    up_to: Seq
    """The newest event that the query is about. It is known to exist."""
    order: Sequence[tuple[str, int]]
    fields: Mapping[str, int]
    hint: str | None = None


class HotRows:
    """Reads rows in batches, and removes those that the archiver has sealed."""

    def __init__(self, database: AsyncDatabase[Any], tiers: TierStore) -> None:
        self._client = database.client
        self._events: AsyncCollection[Any] = database["events"]
        self._parts = EventParts(database)
        self._tiers = tiers
        self.gap_check = GapCheck(database, tiers)
        self._size = AnswerSize()
        self._seen: tuple[LogId, Seq, Timestamp] | None = None
        """The newest event that was seen last, and the time of the answer."""

    async def after(self, log: LogId, find: Find, position: Seq, *, batch: int) -> AsyncGenerator[list[Row]]:
        """Rows that come after `position`, in the order of their seqs, at most `batch` at a time, with their bodies.

        Raises `Moved` where some after the last one are no longer here, `Damaged` and `Unavailable`.
        """
        last = position

        async def whole(tiers: Tiers, _: AsyncClientSession) -> bool:
            return tiers.archived_up_to <= last

        async with aclosing(self.validated(log, find, whole, batch=batch)) as batches:
            async for rows in batches:
                await self._require(log, last, Seq(rows[-1]["_id"]["n"]), len(rows))
                yield rows
                last = Seq(rows[-1]["_id"]["n"])
        await self.gap_check.require(log, last, find.up_to)

    async def validated(self, log: LogId, find: Find, whole: Whole, *, batch: int) -> AsyncGenerator[list[Row]]:
        """Rows in batches that `whole` has found to lack none, in any order; an end without rows is judged too.

        Raises like `after`.
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
                        if isinstance(row.get("b"), dict | bytes) or isinstance(row.get("w"), dict):
                            row.update(await self._filled(row, log, whole, session))
                        rows.append(row)
                        size += body_size(row)
                        if len(rows) >= batch or size >= _BATCH_BYTES:
                            self._size.learn(map(body_size, rows))
                            await self._validate(log, whole, session)
                            yield rows
                            rows, size = [], 0
                    await self._validate(log, whole, session)
                    if rows:
                        yield rows

    async def event_batches(
        self, log: LogId, position: Seq, up_to: Seq, shape: Shape, *, batch: int
    ) -> AsyncGenerator[EventBatch]:
        """The rows of a shape with `position < seq <= up_to` as they are sent on, in order, at most `batch` at a time.

        Raises like `after`.
        """
        last, made = position, EventBatchBuilder(log)

        async def whole(tiers: Tiers, _: AsyncClientSession) -> bool:
            return tiers.archived_up_to <= last

        with translated("events can't be read"):
            async with self._client.start_session() as session:
                await self._see(log, up_to, session)
                found = batch
                # Each batch is a query of its own: a cursor that is left open would take a command more, to close it.
                while found == batch:
                    command, found = _command(in_order(log, last, up_to, shape, fields=SENT), session), 0
                    reading = raw_find(
                        self._events, command, session=session, batch=_answer(batch), size=self._size, most=batch
                    )
                    async with reading as cursor, ahead(cursor.next) as answers:
                        async for rows in answers:
                            found += len(rows)
                            for place, row in made.add(rows):
                                made.put(place, *_sent(await self._filled(decode(row), log, whole, session)))
                            if made.bytes >= _BATCH_BYTES:
                                await self._validate(log, whole, session)
                                event_batch = made.take()
                                await self._require(log, last, event_batch.last, len(event_batch.seqs))
                                yield event_batch
                                last = event_batch.last
                    await self._validate(log, whole, session)
                    if made.bytes:
                        event_batch = made.take()
                        await self._require(log, last, event_batch.last, len(event_batch.seqs))
                        yield event_batch
                        last = event_batch.last
                await self.gap_check.require(log, last, up_to)

    async def _require(self, log: LogId, after: Seq, up_to: Seq, count: int) -> None:
        """Raise `DamagedEvents` where one of `after < seq <= up_to` is missing, of which a reader has got `count`."""
        if count != up_to - after:
            await self.gap_check.require(log, after, up_to)

    async def _see(self, log: LogId, seq: Seq, session: AsyncClientSession) -> None:
        """Raises `Unavailable` where the event is not here yet. One that is no longer here is `whole`'s to judge."""
        if seq <= 0:
            return
        if self._seen is not None and log == self._seen[0] and seq <= self._seen[1]:
            session.advance_operation_time(self._seen[2])  # whoever reads behind that time sees it, too
            return
        if await self._events.find_one({"_id": event_key(log, seq)}, {"_id": 1}, session=session):
            if session.operation_time is not None:
                self._seen = log, seq, session.operation_time
            return
        if (await self._tiers.read(log, session)).archived_up_to >= seq:
            return
        if not await self.gap_check.exists(log, seq) and await self._first(log, after=seq) is not None:
            if (await self._tiers.read(log, session)).archived_up_to < seq:
                raise DamagedEvents(f"event {seq} is missing", seq)
            return
        raise Unavailable(f"event {log}:{seq} is not to be read yet: the primary has just changed")

    async def _filled(self, row: Row, log: LogId, whole: Whole, session: AsyncClientSession) -> Row:
        try:
            return await self._parts.filled(row)
        except Damaged:
            await self._validate(log, whole, session)  # its parts may just have been removed, after it was read
            raise

    async def _validate(self, log: LogId, whole: Whole, session: AsyncClientSession) -> None:
        if not await whole(await self._tiers.read(log, session), session):
            raise Moved(f"events of log {log} have left MongoDB")

    async def named(self, log: LogId, after: Seq, up_to: Seq) -> AsyncGenerator[list[tuple[str, IdText, Seq]]]:
        """Of which documents the events with `after < seq <= up_to` are, in batches: (collection, id, seq).

        Raises `Moved` where some are no longer here.
        """
        fields = {"c": 1, "i": 1}
        find = Find(in_order(log, after, up_to).query, up_to, [("_id", ASCENDING)], fields)
        async with aclosing(self.after(log, find, after, batch=_NAMED_AT_ONCE)) as batches:
            async for rows in batches:
                yield [(row["c"], IdText(row["i"]), Seq(row["_id"]["n"])) for row in rows]

    async def whole_before(self, log: LogId, seq: Seq) -> Seq:
        """`seq`, or the last event before it that does not lie inside a transaction."""
        with translated("events can't be read"):
            row = await self._events.find_one({"_id": event_key(log, seq)}, {"g": 1})
        return last_whole(seq, group_of(row) if row else None)

    async def remove(self, log: LogId, up_to: Seq) -> AsyncGenerator[int]:
        """Remove rows with `seq <= up_to` and their parts, a bounded number at a time; says how many each time.

        The floor was raised to `up_to` before.
        """
        with translated("sealed events can't be removed"):
            while (first := await self._first(log)) is not None and first <= up_to:
                last = Seq(min(first + _REMOVED_AT_ONCE - 1, up_to))
                yield (await self._events.delete_many({"_id": key_range(log, first - 1, last)})).deleted_count
        # After the rows that name them; also those of a writer that never came to its row.
        await self._parts.remove(log, up_to)

    async def first(self, log: LogId) -> Seq | None:
        """The number of the oldest row that is still here."""
        with translated("events can't be read"):
            return await self._first(log)

    async def _first(self, log: LogId, after: int = -1) -> Seq | None:
        row = await self._events.find_one({"_id": key_range(log, after)}, {"_id": 1}, sort=[("_id", ASCENDING)])
        return Seq(row["_id"]["n"]) if row else None


WHOLE: Final = {"t": 0}
"""All that outlives the row."""

PASSED_ON: Final = {"_id": 1, "c": 1, "i": 1, "b": 1, "g": 1}
"""What readers get."""


def in_order(
    log: LogId,
    after: Seq,
    up_to: Seq,
    shape: Shape | None = None,
    *,
    above: int = 0,
    fields: Mapping[str, int] = WHOLE,
) -> Find:
    """Rows with `after < seq <= up_to` in the order of their seqs, of everything or of one shape.

    With `above`, only those that left their document with a later version.
    """
    if shape is not None and shape.id is not None:
        within = {"$gt": Int64(after), "$lte": Int64(up_to)}
        query: Row = {"_id.l": log, "c": shape.collection, "i": shape.id, "_id.n": within}
        order = "_id.n"
    else:
        query = {"_id": key_range(log, after, up_to)}
        query |= {"c": shape.collection} if shape is not None else {}
        order = "_id"
    return Find(query | ({"v": {"$gt": above}} if above > 0 else {}), up_to, [(order, ASCENDING)], fields)


def _sent(row: Row) -> tuple[Seq, bytes, Group | None]:
    try:
        return Seq(row["_id"]["n"]), body_of(row), group_of(row)
    except UNREADABLE as error:
        raise unreadable(row, error) from error


def _answer(batch: int) -> int:
    return max(-(-batch // _ANSWERS), min(batch, _MIN_ANSWER))


def _command(find: Find, session: AsyncClientSession) -> Row:
    return {
        "filter": find.query,
        "projection": find.fields,
        "sort": dict(find.order),
        "readConcern": majority_after(session),
    }
