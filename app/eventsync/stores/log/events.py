"""The event log: `events`, one MongoDB document an event, `_id: {l: log id, n: seq}`.

The log is its own checkpoint. Only the sequencer appends, by ordered inserts: whoever is killed whenever, what is
there is a clean prefix, and its newest event says (by its resume token) where to read on. Two sequencers can't both
insert the same number: the later one gets a duplicate key. What is too large for the event's own document is in
`event_parts`, written before it.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure

from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.events import Group
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.domain.values.type_hints import packed
from eventsync.errors import EventsyncError
from eventsync.mongodb.change_stream import Token
from eventsync.mongodb.errors import refusal, translated
from eventsync.stores.archive.tiered_log import TieredEvents
from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.event_parts import EventParts
from eventsync.stores.log.stored_event import UNREADABLE, StoredEvent, group_of, stored_event, unreadable

_DUPLICATE_KEY = 11000

_PACKED_ABOVE = 4 * 1024 * 1024
"""Bodies with more bytes are stored compressed (zlib)."""

_INSERTED_AT_ONCE = 8 * 1024 * 1024
"""Bytes of bodies in one insert, which the driver encodes without a pause; one event may exceed it."""

_APART_ABOVE = {"b": 8 * 1024 * 1024, "w": 2 * 1024 * 1024}
"""Of a body, and of marks, with more bytes as they are stored, the row only names the parts. The row then fits into
MongoDB's 16 MiB, and so does the change that brings it to the servers' feeds.
"""


_COMPARED = 1024 * 1024
"""A body with more bytes is not compared with what is stored: the row's other fields have to do."""


class Fenced(EventsyncError):
    """Somebody else appended first. Read the log's tail again before anything else."""

    code = "fenced"


class NewEvent(NamedTuple):
    """An event to append, and the change it was made from. `marks` are those of its document or patch."""

    event: StoredEvent
    version: int
    token: Token
    time: Timestamp
    marks: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LogHead:
    """The newest event of a log, and where the stream goes on after it."""

    seq: Seq
    token: Token
    time: Timestamp
    group: Group | None


class EventStore:
    """Appends to and reads from the event log."""

    def __init__(self, database: AsyncDatabase[Any], tiered: TieredEvents) -> None:
        self._events: AsyncCollection[Any] = database["events"]
        self._parts = EventParts(database)
        self._tiered = tiered

    async def ensure_indexes(self) -> None:
        """By document: its history and the document shapes."""
        keys = [("_id.l", ASCENDING), ("c", ASCENDING), ("i", ASCENDING), ("_id.n", ASCENDING)]
        with translated("the event log's indexes can't be made"):
            await self._events.create_indexes([IndexModel(keys, name="by_document")])

    async def append(self, log: LogId, events: Sequence[NewEvent]) -> None:
        """Append events, which are numbered on from the tail. Durable (majority, journal) when it returns.

        Raises `Fenced` where a number is taken, `TooLarge` for a document id of several MiB, and `Unavailable`.
        Then any prefix of `events` may be in the log.
        """
        runs: list[list[dict[str, Any]]] = [[]]
        size = 0
        for new in events:
            # In a thread where it is packed: that takes 100 ms and more, and the interpreter's lock is free meanwhile.
            is_packed = len(new.event.body) > _PACKED_ABOVE
            row = await asyncio.to_thread(_row, log, new) if is_packed else _row(log, new)
            await self._set_apart(row)
            size += len(body) if isinstance(body := row["b"], str | bytes) else 0
            if size > _INSERTED_AT_ONCE and runs[-1]:
                runs.append([])
                size = 0
            runs[-1].append(row)
        with translated("events can't be appended"):
            try:
                for rows in runs:
                    await self._events.insert_many(rows, ordered=True)
            except BulkWriteError as error:
                codes = {item["code"] for item in error.details.get("writeErrors", ())}
                if _DUPLICATE_KEY in codes:
                    raise Fenced(f"event {log}:{events[0].event.seq} or a later one was appended by another") from error
                raise
            except (OperationFailure, DocumentTooLarge) as error:
                if refused := refusal(f"log {log} can't hold an event", error):
                    raise refused from error
                raise

    async def _set_apart(self, row: dict[str, Any]) -> None:
        """Store what is too large for the row itself, before the row."""
        for field, max_size in _APART_ABOVE.items():
            value = row.get(field)
            if isinstance(value, bytes) and len(value) > max_size:
                row[field] = await self._parts.write(row["_id"]["l"], row["_id"]["n"], value)

    async def sweep(self, log: LogId) -> int:
        """Remove parts of events that were never appended; returns how many. Safe beside any number of writers."""
        return await self._parts.sweep(log)

    async def tail(self, log: LogId, session: AsyncClientSession | None = None) -> LogHead | None:
        """The newest event, or None in an empty log. No older than what was read in `session` before.

        Raises `DamagedEvents` where it does not say where the stream goes on.
        """
        row = await self._newest(log, {"b": 0, "w": 0}, session)
        if row is None:
            return None
        try:
            token, time = row["t"], row["s"]
            if not isinstance(token, str) or not isinstance(time, Timestamp):
                raise TypeError("its token or its time is no such thing")
            return LogHead(Seq(row["_id"]["n"]), token, time, group_of(row))
        except UNREADABLE as error:
            raise unreadable(row, error) from error

    async def head(self, log: LogId, session: AsyncClientSession | None = None) -> Seq:
        """The newest event's number, whatever else it says; 0 in an empty log. `session` as for `tail`."""
        row = await self._newest(log, {"_id": 1}, session)
        return Seq(row["_id"]["n"]) if row else Seq(0)

    async def _newest(
        self, log: LogId, fields: dict[str, int], session: AsyncClientSession | None
    ) -> dict[str, Any] | None:
        query = {"_id": key_range(log)}
        with translated("the log's tail can't be read"):
            return await self._events.find_one(query, fields, sort=[("_id", DESCENDING)], session=session)

    async def token(self, log: LogId, seq: Seq) -> Any:
        """The token that is stored with an event; None where there is no such event in MongoDB."""
        with translated("an event can't be read"):
            row = await self._events.find_one({"_id": event_key(log, seq)}, {"t": 1})
        return row.get("t", "") if row else None

    async def time(self, log: LogId, seq: Seq) -> Timestamp | None:
        """The cluster time of an event; None where there is no such event in MongoDB."""
        with translated("an event can't be read"):
            row = await self._events.find_one({"_id": event_key(log, seq)}, {"s": 1})
        return row.get("s") if row else None

    async def holds(self, log: LogId, new: NewEvent) -> bool:
        """Tell whether the number of an appended event still has that event, or none."""
        expected = _row(log, new)
        with translated("an event can't be read"):
            row = await self._events.find_one({"_id": expected["_id"]}, {"w": 0, "g": 0})
        if row is None:
            return True
        compared = ["t", "s", "c", "i", "v"] + (["b"] if len(new.event.body) <= _COMPARED else [])
        return all(row.get(name) == expected[name] for name in compared)

    async def reaches(self, log: LogId, seq: Seq) -> bool:
        """Tell whether the log has come as far as this event, which still is hot if it exists at all. Linearizable."""
        return await self._tiered.gap_check.exists(log, seq)

    async def read(
        self, log: LogId, after: Seq, up_to: Seq | None = None, *, shape: Shape | None = None, batch: int = 1000
    ) -> AsyncGenerator[StoredEvent]:
        """Events with `after < seq <= up_to` in order, of everything or of one shape; never holds more than `batch`.

        `up_to` is an event that is known to exist; without it, all that there are.

        Wherever they are: none is passed over, also while they are moved. Raises `BehindHorizon` where they are not
        kept any more, `Damaged` where what should be there is not, and `Unavailable`.
        """
        if up_to is None:
            up_to = max(after, await self.head(log))
        async with aclosing(self._tiered.passed_on(log, after, up_to, shape, batch=batch)) as batches:
            async for events in batches:
                for event in events:
                    yield event

    def event_batches(
        self, log: LogId, after: Seq, up_to: Seq, *, shape: Shape, batch: int = 1000
    ) -> AsyncGenerator[EventBatch]:
        """The same of one shape, to be sent: as many at a time as come together, at most `batch` from MongoDB."""
        return self._tiered.event_batches(log, after, up_to, shape, batch=batch)

    async def of_document(
        self,
        log: LogId,
        shape: Shape,
        *,
        after_version: int,
        after: Seq,
        up_to: Seq,
        limit: int,
        max_bytes: int = sys.maxsize,
    ) -> list[StoredEvent]:
        """One document's events with `after < seq <= up_to` and a version above `after_version`, in order.

        At most `limit`, and none behind those whose bodies have `max_bytes`. Versions alone can't page: a change from
        elsewhere keeps the version, and a document that is made again begins anew. Raises like `read`.
        """
        found: list[StoredEvent] = []
        size = 0
        batches = self._tiered.passed_on(log, after, up_to, shape, above=after_version, batch=limit)
        async with aclosing(batches):
            async for events in batches:
                for event in events:
                    found.append(event)
                    size += len(event.body)
                    if len(found) == limit or size >= max_bytes:
                        return found
        return found

    async def whole(self, row: dict[str, Any]) -> StoredEvent:
        """An `events` document read back, wherever its body is. Raises `DamagedEvents` and `Unavailable`."""
        filled = await self._parts.filled(row)
        try:
            return stored_event(filled)
        except UNREADABLE as error:
            raise unreadable(row, error) from error


def _row(log: LogId, new: NewEvent) -> dict[str, Any]:
    event = new.event
    row = {
        "_id": event_key(log, event.seq),
        "t": new.token,
        "s": new.time,
        "c": event.collection,
        "i": event.id,
        "v": Int64(new.version),
        # As JSON a document may be much larger than the 16 MiB that it may have as BSON, and that its event may have.
        "b": event.body.decode() if len(event.body) <= _PACKED_ABOVE else zlib.compress(event.body, 1),
    }
    if new.marks:
        row["w"] = packed(new.marks)
    if event.group is not None:
        row["g"] = {"id": event.group.id, "n": event.group.n, "of": event.group.of}
    return row
