"""The event log: `events`, one MongoDB document an event, `_id: {l: log id, n: seq}`.

The log is its own checkpoint. Only the sequencer appends, by ordered inserts. So after a crash at any moment the log is
a clean prefix, and the resume token of its newest event says where to read on. Two sequencers cannot insert the same
number: the later one gets a duplicate key error. Values too large for the event's own document are in `event_parts`,
written before it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import bson
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, DocumentTooLarge, NetworkTimeout, OperationFailure

from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.events import TransactionPart
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.routes import Routes, joined
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import CODEC
from eventsync.domain.values.type_hints import pack_type_hints
from eventsync.mongodb.change_stream import Token
from eventsync.mongodb.connections import PinnedConnection, pinned
from eventsync.mongodb.errors import refusal, translated
from eventsync.stores.archive.tiered_log import TieredEvents
from eventsync.stores.log.event_batch import EventBatch
from eventsync.stores.log.event_parts import EventParts
from eventsync.stores.log.hot_tier import BY_ROUTE, TRACE
from eventsync.stores.log.logs import Fenced
from eventsync.stores.log.stored_event import (
    ROUTES,
    UNREADABLE,
    StoredEvent,
    stored_event,
    texts_size,
    transaction_part,
    unreadable,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

_DUPLICATE_KEY = 11000

_PACKED_ABOVE = 4 * 1024 * 1024
"""Bodies with more bytes are stored compressed (zlib)."""

_INSERTED_AT_ONCE = 8 * 1024 * 1024
"""Most bytes of bodies in one insert, which the driver encodes without yielding. A single event may exceed it."""

_ENCODED_UP_TO = 1024 * 1024
"""Bytes of an event whose row is encoded ahead. A larger one may have values that go to `event_parts`."""

_DURABLE: Final = {"w": "majority", "j": True}

_DOCUMENT_PACKED_ABOVE = 1024 * 1024
"""Documents beside a body with more bytes are stored compressed."""

_APART_ABOVE = {"b": 8 * 1024 * 1024, "w": 2 * 1024 * 1024, "d": 2 * 1024 * 1024}
"""Larger bodies, type hints and documents, as stored, go to `event_parts`. So the row fits into MongoDB's 16 MiB, as
does the change event that carries it to the servers' feeds.
"""

_BODY_BESIDE_KEYS = 2 * 1024 * 1024
_MANY_KEYS = 20_000
"""Beside more keys, which take up to 6 MB, bodies of more bytes are compressed, and go there if they stay so large."""


_KEY_SIZE = 40
"""Bytes of a key in a row, about, with those of `e` and `x`."""

_COMPARED = 1024 * 1024
"""Larger bodies are not compared with the stored one; the other fields of the row suffice."""


class NewEvent(NamedTuple):
    """An event to append, and the change that it was made from. `type_hints` are the type hints of its document or
    patch.
    """

    event: StoredEvent
    version: int
    token: Token
    time: Timestamp
    type_hints: Sequence[str] = ()
    revision: int | None = None
    """The revision of the registry of declared shapes, in the first event after the sequencer has read it."""
    is_unrouted: bool = False
    """The document afterwards is in no route of some definition: it has too many keys, or can't be read."""
    activated: Sequence[str] = ()
    """The collections that became active right before this event."""
    trace: str | None = None
    """The `traceparent` of the span under which it was sequenced, for the servers; None if it is not traced."""
    row: bytes | None = None
    """Its row in BSON, if that was encoded ahead (`encoded_row`)."""


@dataclass(frozen=True, slots=True)
class LogHead:
    """The newest event of a log, and the place in the change stream after it."""

    seq: Seq
    token: Token
    time: Timestamp
    transaction: TransactionPart | None


class EventStore:
    """Appends to and reads from the event log."""

    def __init__(self, database: AsyncDatabase[Any], tiered: TieredEvents) -> None:
        self._events: AsyncCollection[Any] = database["events"]
        self._parts = EventParts(database)
        self._tiered = tiered

    async def ensure_indexes(self) -> None:
        """Create the index by document, which serves histories and document shapes, and the one by route."""
        document = [("_id.l", ASCENDING), ("c", ASCENDING), ("i", ASCENDING), ("_id.n", ASCENDING)]
        route = [("_id.l", ASCENDING), ("k", ASCENDING), ("_id.n", ASCENDING)]
        # Partial: an event without keys costs nothing.
        has_keys = {"k": {"$exists": True}}
        indexes = [
            IndexModel(document, name="by_document"),
            IndexModel(route, name=BY_ROUTE, partialFilterExpression=has_keys),
        ]
        with translated("the event log's indexes can't be made"):
            try:
                await self._events.create_indexes(indexes)
            except NetworkTimeout:
                # MongoDB continues without this connection. A new request would only wait for the same build.
                listed = {index["name"] async for index in await self._events.list_indexes()}
                if not {index.document["name"] for index in indexes} <= listed:
                    raise
                logger.warning(
                    "MongoDB builds an index of the event log, which takes longer than mongodb_timeout; events are "
                    "appended meanwhile, and histories and declared shapes may have to wait for it"
                )

    async def append(self, log: LogId, events: Sequence[NewEvent], *, over: PinnedConnection | None = None) -> None:
        """Append events numbered from the head on. They are durable (majority, journal) when this returns.

        With `over`, rows that were encoded ahead are sent over that connection, which takes a third of the CPU.

        Raises `Fenced` if a number is taken, `TooLarge` for a document id of several MiB, and `Unavailable`. After an
        error, any prefix of `events` may be in the log.
        """
        encoded = [new.row for new in events if new.row is not None] if over is not None else []
        rows = [] if len(encoded) == len(events) else await self._rows(log, events)
        with translated("events can't be appended"):
            try:
                # Ordered: after a failure the log has no event behind one that is missing.
                if over is not None and not rows:
                    for some in _cut(encoded, len):
                        await self._insert(some, over)
                for some_rows in _cut(rows, texts_size):
                    await self._events.insert_many(some_rows, ordered=True)
            except BulkWriteError as error:
                codes = {item["code"] for item in error.details.get("writeErrors", ())}
                # This is how a worker learns of a rival, whatever leases and clocks say.
                if _DUPLICATE_KEY in codes:
                    raise Fenced(f"event {log}:{events[0].event.seq} or a later one was appended by another") from error
                raise
            except (OperationFailure, DocumentTooLarge) as error:
                if refused := refusal(f"log {log} can't hold an event", error):
                    raise refused from error
                raise

    async def _rows(self, log: LogId, events: Iterable[NewEvent]) -> list[dict[str, Any]]:
        """Return the rows of events, whose large values are stored by then."""
        rows: list[dict[str, Any]] = []
        for new in events:
            # Large bodies are compressed in a thread: that takes 100 ms or more and releases the GIL.
            row = await asyncio.to_thread(_row, log, new) if _has_large(new.event) else _row(log, new)
            await self._set_apart(row)
            rows.append(row)
        return rows

    def connection(self) -> AbstractAsyncContextManager[PinnedConnection]:
        """Hold a connection to append over. Raises `Unavailable`."""
        return pinned(self._events.database.client, translated("events can't be appended"))

    async def _insert(self, rows: Sequence[bytes], over: PinnedConnection) -> None:
        """Insert as `insert_many` does, but without a retry."""
        # Without the driver's numbers of retryable writes, a repeat would take its own rows for those of a rival.
        command = {"insert": self._events.name, "ordered": True, "writeConcern": _DURABLE}
        answer = await over.command(self._events.database.name, command, documents=rows)
        failed, unconfirmed = answer.get("writeErrors", []), answer.get("writeConcernError")
        if failed or unconfirmed:
            raise BulkWriteError({"writeErrors": failed, "writeConcernErrors": [unconfirmed] if unconfirmed else []})

    async def _set_apart(self, row: dict[str, Any]) -> None:
        """Store the values that are too large for the row, before the row itself."""
        has_many_keys = len(row.get("k", ())) > _MANY_KEYS
        for field, max_size in (_APART_ABOVE | {"b": _BODY_BESIDE_KEYS} if has_many_keys else _APART_ABOVE).items():
            value = row.get(field)
            if isinstance(value, bytes) and len(value) > max_size:
                row[field] = await self._parts.write(row["_id"]["l"], row["_id"]["n"], value)

    async def sweep(self, log: LogId) -> int:
        """Remove parts of events that were never appended. Return how many. Safe beside any number of writers."""
        return await self._parts.sweep(log)

    async def tail(self, log: LogId, session: AsyncClientSession | None = None) -> LogHead | None:
        """Return the newest event, or None for an empty log. It is no older than earlier reads in `session`.

        Raises `DamagedEvents` if the event has no valid resume token or cluster time.
        """
        row = await self._newest(log, {"b": 0, "w": 0} | dict.fromkeys(ROUTES, 0), session)
        if row is None:
            return None
        try:
            token, time = row["t"], row["s"]
            if not isinstance(token, str) or not isinstance(time, Timestamp):
                raise TypeError("its token or its time is no such thing")
            return LogHead(Seq(row["_id"]["n"]), token, time, transaction_part(row))
        except UNREADABLE as error:
            raise unreadable(row, error) from error

    async def head(self, log: LogId, session: AsyncClientSession | None = None) -> Seq:
        """Return the number of the newest event, even if it is damaged otherwise; 0 for an empty log."""
        row = await self._newest(log, {"_id": 1}, session)
        return Seq(row["_id"]["n"]) if row else Seq(0)

    async def _newest(
        self, log: LogId, fields: dict[str, int], session: AsyncClientSession | None
    ) -> dict[str, Any] | None:
        query = {"_id": key_range(log)}
        with translated("the log's tail can't be read"):
            return await self._events.find_one(query, fields, sort=[("_id", DESCENDING)], session=session)

    async def known_revision(self, log: LogId, seq: Seq) -> float:
        """Return the revision of the registry of declared shapes that the writer of an event knew.

        0 if the event names none, or is missing. Infinity for an archived event: a void activation is replaced at the
        start of the next term, long before the event behind it is archived.
        """
        with translated("an event can't be read"):
            row = await self._events.find_one({"_id": event_key(log, seq)}, {"r": 1})
        if row is None and await self._tiered.is_archived(log, seq):
            return math.inf  # Read after the row: the archiver raises `archived_up_to` before it removes one.
        revision = row.get("r") if row else None
        return revision if isinstance(revision, int) else 0

    async def activated(self, log: LogId, seqs: Iterable[Seq]) -> dict[Seq, frozenset[str]]:
        """Return the names of the collections that became active right before each of these events.

        Those that MongoDB does not have any more are left out.
        """
        keys = [event_key(log, seq) for seq in seqs]
        found: dict[Seq, frozenset[str]] = {}
        with translated("events can't be read"):
            async for row in self._events.find({"_id": {"$in": keys}}, {"a": 1}):
                names = row.get("a")
                found[Seq(row["_id"]["n"])] = frozenset(names) if isinstance(names, list) else frozenset()
        return found

    async def token(self, log: LogId, seq: Seq) -> Any:
        """Return the resume token stored with an event, or None if MongoDB has no such event."""
        with translated("an event can't be read"):
            row = await self._events.find_one({"_id": event_key(log, seq)}, {"t": 1})
        return row.get("t", "") if row else None

    async def time(self, log: LogId, seq: Seq) -> Timestamp | None:
        """Return the cluster time of an event, or None if MongoDB has no such event."""
        with translated("an event can't be read"):
            row = await self._events.find_one({"_id": event_key(log, seq)}, {"s": 1})
        return row.get("s") if row else None

    async def holds(self, log: LogId, new: NewEvent) -> bool:
        """Return True if the number of an appended event still has that event, or has none."""
        expected = _named(log, new)
        if len(new.event.body) <= _COMPARED:
            expected["b"] = _packed(new.event.body, _PACKED_ABOVE)
        with translated("an event can't be read"):
            row = await self._events.find_one({"_id": expected["_id"]}, dict.fromkeys(expected, 1))
        return row is None or all(row.get(name) == expected[name] for name in expected if name != "_id")

    async def reaches(self, log: LogId, seq: Seq) -> bool:
        """Return True if this event exists. It must still be in MongoDB if so. Linearizable."""
        return await self._tiered.gap_check.exists(log, seq)

    async def read(
        self, log: LogId, after: Seq, up_to: Seq | None = None, *, shape: Shape | None = None, batch: int = 1000
    ) -> AsyncGenerator[StoredEvent]:
        """Yield events with `after < seq <= up_to` in order, of all shapes or of one. Holds at most `batch` of them.

        Each event of a collection with declared shapes has its routes. A declared shape must be bound.

        `up_to` must exist; without it, all events are read. Both tiers are read, and no event is skipped while the
        archiver moves events. Raises `BehindHorizon` for events that are no longer kept, `Damaged` for missing ones,
        and `Unavailable`.
        """
        if up_to is None:
            up_to = max(after, await self.head(log))
        async with aclosing(self._tiered.for_clients(log, after, up_to, shape, batch=batch)) as batches:
            async for events in batches:
                for event in events:
                    yield event

    def event_batches(
        self, log: LogId, after: Seq, up_to: Seq, *, shape: Shape, batch: int = 1000
    ) -> AsyncGenerator[EventBatch]:
        """Yield the events of one shape in batches for forwarding, at most `batch` at a time. Raises as `read`."""
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
        """Return one document's events with `after < seq <= up_to` and a version above `after_version`, in order.

        Stops at `limit` events, or once their bodies have `max_bytes`. Versions alone cannot page: an outside change
        keeps the version, and a recreated document starts again at version 1. Raises as `read`.
        """
        document_events: list[StoredEvent] = []
        size = 0
        batches = self._tiered.for_clients(log, after, up_to, shape, above=after_version, batch=limit)
        async with aclosing(batches):
            async for events in batches:
                for event in events:
                    document_events.append(event)
                    size += len(event.body)
                    if len(document_events) == limit or size >= max_bytes:
                        return document_events
        return document_events

    async def whole(self, row: dict[str, Any]) -> StoredEvent:
        """Decode a row of `events`, also one whose body is in parts. Raises `DamagedEvents` and `Unavailable`."""
        filled = await self._parts.filled(row)
        try:
            return stored_event(filled)
        except UNREADABLE as error:
            raise unreadable(row, error) from error


def _cut(rows: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield the rows of each insert, at least one."""
    run: list[T] = []
    size = 0
    for row in rows:
        added = size_of(row)
        if run and size + added > _INSERTED_AT_ONCE:
            yield run
            run, size = [], 0
        run.append(row)
        size += added
    if run:
        yield run


def _named(log: LogId, new: NewEvent) -> dict[str, Any]:
    """Return the small fields of a row, which tell which event it is."""
    event = new.event
    # One letter each, since every row has them. ARCHITECTURE.md lists them.
    return {
        "_id": event_key(log, event.seq),
        "t": new.token,
        "s": new.time,
        "c": event.collection,
        "i": event.id,
        "v": Int64(new.version),
    }


def _packed(text: bytes, above: int) -> str | bytes:
    # A document may be much larger as JSON than the 16 MiB of BSON that bound it and the row of its event.
    return text.decode() if len(text) <= above else zlib.compress(text, 1)


def _row(log: LogId, new: NewEvent) -> dict[str, Any]:
    event = new.event
    row = _named(log, new)
    row["b"] = _packed(event.body, _packed_above(event.routes))
    if new.type_hints:
        row["w"] = pack_type_hints(new.type_hints)
    if event.transaction is not None:
        row["g"] = {"id": event.transaction.id, "n": event.transaction.n, "of": event.transaction.of}
    if event.routes is not None:
        _add_routes(row, event.routes)
    if new.revision is not None:
        row["r"] = Int64(new.revision)
    if new.is_unrouted:
        row["u"] = True
    if new.activated:
        row["a"] = list(new.activated)
    if new.trace is not None:
        row[TRACE] = new.trace
    return row


def encoded_row(log: LogId, new: NewEvent) -> bytes | None:
    """Return the row of an event in BSON, or None for a large one, which is made when it is appended.

    It is encoded while an insert of earlier events is in flight, which would otherwise wait for it.
    """
    event = new.event
    size = len(event.body) + len(event.id) + sum(map(len, new.type_hints)) + _routes_size(event.routes)
    return bson.encode(_row(log, new), codec_options=CODEC) if size <= _ENCODED_UP_TO else None


def _packed_above(routes: Routes | None) -> int:
    return _PACKED_ABOVE if routes is None or len(routes.keys) <= _MANY_KEYS else _BODY_BESIDE_KEYS


def _has_large(event: StoredEvent) -> bool:
    """Return True if a part of an event's row is to be compressed."""
    document = b"" if event.routes is None else event.routes.document or b""
    return len(event.body) > _packed_above(event.routes) or len(document) > _DOCUMENT_PACKED_ABOVE


def _add_routes(row: dict[str, Any], routes: Routes) -> None:
    row["k"] = list(routes.keys)
    # The keys of a `create` all enter, and those of a `delete` all leave. Only other events need the lists.
    if routes.enters:
        row["e"] = joined(routes.enters)
    if routes.leaves:
        row["x"] = joined(routes.leaves)
    if routes.document is not None:
        row["d"] = _packed(routes.document, _DOCUMENT_PACKED_ABOVE)


def _routes_size(routes: Routes | None) -> int:
    """Return about how many bytes the routes of an event take in its row."""
    return 0 if routes is None else len(routes.document or b"") + _KEY_SIZE * len(routes.keys)
