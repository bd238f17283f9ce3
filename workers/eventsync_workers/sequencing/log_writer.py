"""Converts transactions to numbered events and appends them, and knows the log's newest checkpoint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.slices import Slices
from eventsync.domain.events import LARGE, TransactionPart, place, tracked_again, unfinished
from eventsync.domain.ids import format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.routes import NO_DEFINITIONS, Router
from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.errors import Unavailable
from eventsync.logging import Alarms
from eventsync.mongodb.change_stream import Batch, Token
from eventsync.mongodb.connections import PinnedConnection
from eventsync.stores.log.events import EventStore, LogHead, NewEvent, encoded_row
from eventsync.stores.log.stored_event import StoredEvent
from eventsync_workers.monitoring.figures import SequencingFigures
from eventsync_workers.sequencing.collapse import (
    ChangeAndRaw,
    NextChanges,
    collapse_transaction,
    lacks_images,
)
from eventsync_workers.sequencing.converter import (
    AFTER,
    BEFORE,
    IMAGES,
    DecodedChange,
    EncodedEvent,
    OddChange,
    Outline,
    StateMissing,
    convert,
    convert_raw,
    convert_reread,
    decode_change,
    encode_change,
    encode_event,
    keep_as_bytes,
    outline,
    outline_without_images,
)
from eventsync_workers.sequencing.event_spans import EventSpans
from eventsync_workers.sequencing.faults import timed
from eventsync_workers.sequencing.missing_images import ImageReader
from eventsync_workers.sequencing.transactions import Transaction, transaction_of

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

_FORGETTING = 0.9
"""Share of the time of a long insert that is left after each shorter one."""

_DECODED_AT_ONCE = 1024 * 1024
"""Bytes of a transaction's changes that are decoded before the first is converted."""

_ALONE = NextChanges(())


class NewCheckpoint(NamedTuple):
    """A checkpoint that is not recorded yet; see `eventsync.stores.log.logs.Checkpoint`."""

    seq: Seq
    token: Token
    time: Timestamp


@dataclass(frozen=True, slots=True)
class NumberedEvents:
    """Numbered events, and the checkpoint that holds as soon as they are appended."""

    events: Sequence[NewEvent]
    checkpoint: NewCheckpoint | None


class LogWriter:
    """Writes a log during one term: numbers events from its head on, and keeps track of how far the stream was used.

    `convert` may run ahead of `append`. All that it has numbered must then be appended in order, or the writer be given
    up. Each of the two is called by one task at a time.
    """

    def __init__(
        self,
        log: LogId,
        events: EventStore,
        images: ImageReader,
        head: LogHead | None,
        time: Timestamp,
        offload: Offload | None = None,
    ) -> None:
        """`offload` converts large changes; without it, all are converted in this process."""
        self._offload = offload or inline()
        self.figures = SequencingFigures()
        self._slices = Slices()
        self.log = log
        self.seq = head.seq if head else Seq(0)
        """The newest event that is appended."""
        self.checkpoint: NewCheckpoint | None = None
        """The newest one that is not recorded yet. All events before it are appended."""
        self.newest: NewEvent | None = None
        """The event that was appended last; None before the first one."""
        self.token = head.token if head else None
        """The token that is stored with it."""
        self.connection: PinnedConnection | None = None
        """The connection to append over, if one is held."""
        self.took = 0.0
        """Seconds that an insert takes, which waits for the journal: the longest of the last ones."""
        self.router = NO_DEFINITIONS
        """Computes the routes of events."""
        self._revision: int | None = None
        """The revision of the registry of declared shapes that the next event is to name."""
        self._activated: tuple[str, ...] = ()
        """The collections that the next event is to name."""
        self._numbered = self.seq
        self._events = events
        self._images = images
        self._spans = EventSpans.of(log)
        self._is_traced = self._spans is not None
        self._time = time
        self._token: Token | None = None
        self._unfinished = unfinished(head.transaction) if head else None

    def route_by(self, router: Router) -> None:
        """Give events their routes by `router` from now on. Everything that was converted must be appended.

        The next event names the router's revision, so that it confirms the activations up to it.
        """
        # Without a registry there is nothing to confirm.
        self.router, self._revision = router, router.revision or None

    def follow(self, activated: Iterable[str]) -> None:
        """Have the next event name collections, whose changes are converted from the one behind `seq` on.

        Everything that was converted must be appended, or given up.
        """
        self._activated = tuple(activated)

    async def convert(self, transactions: Iterable[Transaction], read: Batch | None = None) -> NumberedEvents:
        """Number the events of transactions. `read` is the batch that ends with them and leaves none open, if any.

        Raises `HistoryLost` and `Unavailable` for an image that can't be read. Then no change of `transactions` is
        numbered.
        """
        new: list[NewEvent] = []
        checkpoint: NewCheckpoint | None = None
        numbered, time, token = self._numbered, self._time, self._token
        for transaction in transactions:
            if self._spans is not None:
                self._spans.converting()
            changes = await self._decode(transaction)
            first, last = changes[0][0], changes[-1][0]
            if token is not None and _is_later(first["clusterTime"], time):
                # No other change can have the earlier time any more.
                checkpoint = NewCheckpoint(Seq(numbered + len(new)), token, time)
            new += await self._number(changes, Seq(numbered + len(new)))
            # The changes of a transaction share a cluster time, but only the last token resumes behind them all.
            time, token = first["clusterTime"], last["_id"]["_data"]
        # Only now, so that a failure above numbers nothing.
        self._numbered, self._time, self._token = Seq(numbered + len(new)), time, token
        if read is not None and self.settles(read):
            checkpoint = NewCheckpoint(self._numbered, read.token, read.time)
        return NumberedEvents(new, checkpoint)

    async def _decode(self, transaction: Transaction) -> list[ChangeAndRaw]:
        """Decode changes; of a large change, and of all changes of a large transaction, only the outline.

        A million values held at once keep the garbage collector busy for long.
        """
        changes: list[ChangeAndRaw] = []
        is_large = sum(len(change.raw) for change in transaction) > _DECODED_AT_ONCE
        for change in transaction:
            raw = change.raw
            is_outlined = is_large or len(raw) > self._offload.above
            changes.append((_outline(change) if is_outlined else decode_change(change), raw))
            await self._slices.did(len(raw))
        return changes

    async def append(self, numbered: Sequence[NumberedEvents]) -> None:
        """Append what was converted, by one insert.

        Raises `Fenced`, `TooLarge` and `Unavailable`: the term is over, and the next one reads the head.
        """
        # One insert for all of them: a command costs more than an event.
        if new := [event for one in numbered for event in one.events]:
            began = time.monotonic()
            with nullcontext() if self._spans is None else self._spans.appending(new[0].event.seq, new[-1].event.seq):
                await self._events.append(self.log, new, over=self.connection)
            self.took = max(time.monotonic() - began, _FORGETTING * self.took)
            self._appended(new[-1])
        # Not before the insert has ended: a checkpoint promises that its events are in the log.
        self.checkpoint = next((one.checkpoint for one in reversed(numbered) if one.checkpoint), self.checkpoint)

    async def append_repair(self, events: Sequence[EncodedEvent], token: Token, time: Timestamp) -> None:
        """Append events of no change, made by a comparison as of `token`. Raises like `append`.

        What was converted and not appended is given up.
        """
        seq = self.seq
        new = [
            await self._at(token, time, event, Seq(seq + index), None) for index, event in enumerate(events, start=1)
        ]
        await self._events.append(self.log, new)
        self._appended(new[-1])
        self.give_up()
        # Numbering begins again behind the repair: events that were numbered before it are never appended.
        self._numbered = self.seq
        self._time, self._token = time, token

    async def append_restarts(self, names: Sequence[str], token: Token, time: Timestamp) -> None:
        """Append an event for each collection that is tracked again after `token`, up to which all is appended.

        The event moves the head beyond all positions that clients have of the collection. Raises like `append`.
        """
        events = [encode_event(tracked_again(name, time.as_datetime())) for name in names]
        await self.append_repair(events, token, time)
        self.checkpoint = NewCheckpoint(self.seq, token, time)

    def give_up(self) -> None:
        """Note that what was converted and not appended never will be."""
        if self._spans is not None:
            self._spans.give_up()

    def _appended(self, newest: NewEvent) -> None:
        self.newest, self.seq, self.token = newest, newest.event.seq, newest.token

    def passed(self, token: Token, time: Timestamp) -> None:
        """Note a change without events. All changes before it are appended."""
        self._time, self._token = time, token

    def settles(self, batch: Batch) -> bool:
        """Return True if `batch`, which leaves no transaction open, goes beyond the time of the last change."""
        return batch.time > self._time

    async def _number(self, changes: Sequence[ChangeAndRaw], seq: Seq) -> list[NewEvent]:
        name = transaction_of(changes[0][0])
        if name is None:
            # By far the most common case: a change outside any transaction, which takes as little as possible.
            ((change, raw),) = changes
            event = await self._convert(change, raw)
            return [] if event is None else [await self._at(*_place(change), event, Seq(seq + 1), None)]
        events: list[tuple[DecodedChange, EncodedEvent]] = []
        changes = collapse_transaction(changes)
        following = NextChanges(changes)
        for index, (change, raw) in enumerate(changes):
            if (event := await self._convert(change, raw, following, index)) is not None:
                events.append((change, event))
            await self._slices.did(len(raw))
        parts = self._parts(name, len(events))
        return [
            await self._at(*_place(change), event, Seq(seq + index), transaction)
            for index, ((change, event), transaction) in enumerate(zip(events, parts, strict=True), start=1)
        ]

    def _parts(self, name: str, count: int) -> list[TransactionPart | None]:
        """Return each event's place in its transaction; None if the transaction has a single event."""
        begun, self._unfinished = self._unfinished, None
        if begun is not None and begun.id == name:
            # The rest of a transaction whose first events an earlier term appended before it died.
            return [TransactionPart(name, begun.n + index, begun.of) for index in range(1, count + 1)]
        return [TransactionPart(name, index, count) if count > 1 else None for index in range(1, count + 1)]

    async def _convert(
        self, change: DecodedChange, raw: bytes | memoryview, following: NextChanges = _ALONE, index: int = 0
    ) -> EncodedEvent | None:
        """Return the change's event. If it can't be converted, the event replaces the whole document.

        `index` is its place among the changes of its transaction, `following`.
        """
        complete = await self._images.complete(change)
        if isinstance(change, OddChange):
            self._alarm_odd(change)
        has_images = complete is change and isinstance(change["ns"], dict)
        try:
            if has_images and len(raw) > self._offload.above:
                return await self._convert_offloaded(change, raw)
            if not has_images:
                return await self._convert_reread(complete)
            if isinstance(change, Outline):
                change = decode_change(RawBSONDocument(bytes(raw), RAW_CODEC))
                if isinstance(change, OddChange):
                    self._alarm_odd(change)
            return encode_change(convert(change, raw), change, self.router, raw, traced=self._is_traced)
        except Unavailable:
            raise  # No helper process is available now, which is no fault of the change.
        except StateMissing as error:
            logger.warning("%s; it is read from the collection", error.diagnosis)
        except Exception:
            # One document must not stop the log. Replacing it as a whole is exact as well.
            logger.exception("ALARM: a change of %s can't be converted; its document is replaced", _named(change))
        if has_images:
            complete = await self._as_replacement(change, raw, following.after(index))
        return await self._replace(complete)

    async def _convert_offloaded(self, change: DecodedChange, raw: bytes | memoryview) -> EncodedEvent | None:
        with timed(change["ns"]["coll"]):
            event, is_odd = await self._offload.run(
                convert_raw, bytes(raw), self.router, self._is_traced, size=len(raw)
            )
        if is_odd:
            self._alarm_odd(change)
        return event

    async def _convert_reread(
        self, change: DecodedChange | None, function: Callable[..., EncodedEvent | None] = convert_reread
    ) -> EncodedEvent | None:
        """Convert a change by its raw images."""
        if change is None:
            return None
        images = {name: bytes(change[name].raw) for name in IMAGES if isinstance(change.get(name), RawBSONDocument)}
        size = sum(map(len, images.values()))
        rest = {name: value for name, value in change.items() if name not in {*images, "updateDescription"}}
        with timed(change["ns"]["coll"]):
            return await self._offload.call(size, function, rest, images, self.router, self._is_traced)

    @staticmethod
    def _alarm_odd(change: DecodedChange) -> None:
        logger.error("ALARM: %s has values that can't be decoded; they are kept as bytes", _named(change))

    async def _as_replacement(
        self, change: DecodedChange, raw: bytes | memoryview, following: ChangeAndRaw | None
    ) -> DecodedChange | None:
        """Return a change with raw images, as a replacement if it is an update; None if it has no effect.

        It leads to the state behind this change, not to that behind its transaction: the later changes of the document
        have events of their own, also those of a worker that converts nothing but the rest of the transaction.
        """
        images = _raw_images(raw)
        if change["operationType"] != "update":
            return change | images
        if following is None:
            after = await self._images.after(change)
        elif following[0]["operationType"] == "delete":
            return None  # No client sees the state in between. An API delete is counted by the deletion alone.
        else:
            # MongoDB keeps it as the document was. Only the image behind an update is computed, and may be wrong.
            after = _raw_images(following[1])[BEFORE]
        return change | images | {"operationType": "delete" if after is None else "replace", AFTER: after}

    async def _replace(self, change: DecodedChange | None) -> EncodedEvent | None:
        """Return an event that replaces the whole document by the change's raw image, as bytes if need be."""
        try:
            return await self._convert_reread(change)
        except Unavailable:
            raise
        except Exception:
            logger.exception("ALARM: %s can't be represented in JSON; it is kept as bytes", change and _named(change))
            return await self._convert_reread(change, keep_as_bytes)

    async def _at(
        self, token: Token, time: Timestamp, event: EncodedEvent, seq: Seq, transaction: TransactionPart | None
    ) -> NewEvent:
        collection, id_text, version, encoded, type_hints, routes, unrouted, trace = event
        if unrouted:
            _alarms.log(
                f"{collection}/{id_text} belongs to no shape of {', '.join(unrouted)}: "
                "it has too many keys, or can't be read"
            )
        if len(encoded) <= LARGE:
            body = place(encoded, seq, transaction)
        else:
            body = await asyncio.to_thread(place, encoded, seq, transaction)
        stored = StoredEvent(seq, collection, id_text, body, transaction, routes)
        # The numbers of its events are those of a worker that has read the registry, from this one on.
        revision, self._revision = self._revision, None
        activated, self._activated = self._activated, ()
        if trace is not None and self._spans is not None:
            trace = self._spans.converted(trace, collection, seq)
        fields = (stored, version, token, time, type_hints, revision, bool(unrouted), activated, trace)
        return NewEvent(*fields, encoded_row(self.log, NewEvent(*fields)))


def _outline(change: RawBSONDocument) -> DecodedChange:
    """Decode a large change without its large fields; keep its images if it has all that it needs."""
    try:
        parts = outline(change)
        return outline_without_images(change) if lacks_images(parts) else parts
    except Exception:  # noqa: BLE001 - `decode_change` never fails
        return decode_change(change)


def _raw_images(raw: bytes | memoryview) -> dict[str, RawBSONDocument | None]:
    change = RawBSONDocument(bytes(raw), RAW_CODEC)
    return {name: change.get(name) for name in IMAGES}


def _named(change: DecodedChange) -> str:
    return f"{change['ns']['coll']}/{format_id(change['documentKey']['_id'])}"


def _is_later(one: Timestamp, other: Timestamp) -> bool:
    """Return `one > other`, in half of the time; it is computed for each change."""
    return (one.time, one.inc) > (other.time, other.inc)


def _place(change: DecodedChange) -> tuple[Token, Timestamp]:
    """Return the token after a change, and its cluster time."""
    return change["_id"]["_data"], change["clusterTime"]
