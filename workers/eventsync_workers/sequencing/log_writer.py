"""Turns groups of changes into numbered events and appends them, and knows what the log's newest checkpoint is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.slices import Slices
from eventsync.domain.events import Event, Group, place, unfinished
from eventsync.domain.ids import format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.errors import Unavailable
from eventsync.mongodb.change_stream import Batch, Token
from eventsync.stores.log.events import EventStore, LogHead, NewEvent
from eventsync.stores.log.stored_event import StoredEvent
from eventsync_workers.sequencing.collapse import Changed, lacks_images, told_once
from eventsync_workers.sequencing.converter import (
    IMAGES,
    Decoded,
    EncodedEvent,
    OddChange,
    Outline,
    convert,
    decoded,
    outline,
    outline_to_read,
    told,
    told_aside,
    told_outcome_aside,
    unreadable,
)
from eventsync_workers.sequencing.missing_images import StateReader
from eventsync_workers.sequencing.transactions import transaction_of

logger = logging.getLogger(__name__)

Checkpoint = tuple[Seq, Token, Timestamp]

_DECODED_AT_ONCE = 1024 * 1024
"""Bytes of a transaction's changes that are decoded before the first is converted."""


@dataclass(frozen=True, slots=True)
class NumberedEvents:
    """Numbered events, and the checkpoint that holds as soon as they are appended."""

    events: Sequence[NewEvent]
    checkpoint: Checkpoint | None


class LogWriter:
    """One term's hold on a log: its tail, from which it numbers on, and how far the stream has been used.

    `convert` may run ahead of `append`; what it has numbered must then be appended, all of it and in order, or the
    writer be given up. Each of the two is called by one task at a time.
    """

    def __init__(
        self,
        log: LogId,
        events: EventStore,
        states: StateReader,
        tail: LogHead | None,
        time: Timestamp,
        offload: Offload | None = None,
    ) -> None:
        """`offload` converts large changes; without it, all are converted at once."""
        self._offload = offload or inline()
        self._slices = Slices()
        self.log = log
        self.seq = tail.seq if tail else Seq(0)
        """The newest event that is appended."""
        self.checkpoint: Checkpoint | None = None
        """The newest one that is not recorded yet. All before it is appended."""
        self.newest: NewEvent | None = None
        """The event that was appended last; None before the first one."""
        self.token = tail.token if tail else None
        """The token that is stored with it."""
        self._numbered = self.seq
        self._events = events
        self._states = states
        self._time = time
        self._token: Token | None = None
        self._open = unfinished(tail.group) if tail else None

    async def convert(self, groups: Iterable[Sequence[RawBSONDocument]], read: Batch | None = None) -> NumberedEvents:
        """Number the events of whole groups. `read` is the batch that ends with them and leaves no group open, if any.

        Raises `HistoryLost` and `Unavailable` for a state that can't be read. Then nothing of `groups` has a number.
        """
        new: list[NewEvent] = []
        checkpoint: Checkpoint | None = None
        numbered, time, token = self._numbered, self._time, self._token
        for group in groups:
            changes = await self._decoded(group)
            first, last = changes[0][0], changes[-1][0]
            if token is not None and _later(first["clusterTime"], time):
                # Nothing else can have happened at the earlier time any more.
                checkpoint = (Seq(numbered + len(new)), token, time)
            new += await self._number(changes, Seq(numbered + len(new)))
            time, token = first["clusterTime"], last["_id"]["_data"]
        self._numbered, self._time, self._token = Seq(numbered + len(new)), time, token
        if read is not None and self.settles(read):
            checkpoint = (self._numbered, read.token, read.time)
        return NumberedEvents(new, checkpoint)

    async def _decoded(self, group: Sequence[RawBSONDocument]) -> list[Changed]:
        """Decode the changes of a group; of a large one, or in a large group, only what tells where it belongs.

        A million values that are held at once take the garbage collector long.
        """
        changes: list[Changed] = []
        is_large = sum(len(change.raw) for change in group) > _DECODED_AT_ONCE
        for change in group:
            raw = change.raw
            is_outlined = is_large or len(raw) > self._offload.above
            changes.append((_outlined(change) if is_outlined else decoded(change), raw))
            await self._slices.did(len(raw))
        return changes

    async def append(self, portions: Sequence[NumberedEvents]) -> None:
        """Append what was converted, by one insert.

        Raises `Fenced`, `TooLarge` and `Unavailable`: the term is over, and the next one reads the tail.
        """
        if new := [event for portion in portions for event in portion.events]:
            await self._events.append(self.log, new)
            self._appended(new[-1])
        self.checkpoint = next((one.checkpoint for one in reversed(portions) if one.checkpoint), self.checkpoint)

    async def append_found(self, events: Sequence[EncodedEvent], token: Token, time: Timestamp) -> None:
        """Append events that no change brought, but what was found when `token` had been read. Raises like `append`.

        What was converted and not appended is given up.
        """
        seq = self.seq
        new = [self._at(token, time, event, Seq(seq + index), None) for index, event in enumerate(events, start=1)]
        await self._events.append(self.log, new)
        self._appended(new[-1])
        self._numbered = self.seq
        self._time, self._token = time, token

    def _appended(self, newest: NewEvent) -> None:
        self.newest, self.seq, self.token = newest, newest.event.seq, newest.token

    def settles(self, batch: Batch) -> bool:
        """Whether the stream was read past the last change by this batch, which has left no group open."""
        return batch.time > self._time

    async def _number(self, group: Sequence[tuple[Decoded, Any]], seq: Seq) -> list[NewEvent]:
        name = transaction_of(group[0][0])
        if name is None:
            # By far the commonest, and always alone: told with nothing around it.
            ((alone, raw),) = group
            found = await self._convert(alone, raw)
            return [] if found is None else [self._at(*_place(alone), found, Seq(seq + 1), None)]
        all_told: list[tuple[Decoded, EncodedEvent | None]] = []
        for change, raw in told_once(group):
            all_told.append((change, await self._convert(change, raw)))
            await self._slices.did(len(raw))
        events = [(change, event) for change, event in all_told if event is not None]
        marks = self._marks(name, len(events))
        return [
            self._at(*_place(change), event, Seq(seq + index), mark)
            for index, ((change, event), mark) in enumerate(zip(events, marks, strict=True), start=1)
        ]

    def _marks(self, name: str, count: int) -> list[Group | None]:
        """The marks of a transaction's events; none where it changed one document only."""
        done, self._open = self._open, None
        if done is not None and done.id == name:
            # The rest of a transaction whose beginning an earlier term appended before it died.
            return [Group(name, done.n + index, done.of) for index in range(1, count + 1)]
        return [Group(name, index, count) if count > 1 else None for index in range(1, count + 1)]

    async def _convert(self, change: Decoded, raw: bytes | memoryview) -> EncodedEvent | None:
        """Return the change's event. Where none can be made, the stream goes on: the event holds the whole document."""
        complete = await self._states.completed(change)
        if isinstance(change, OddChange):
            self._alarm_odd(change)
        try:
            whole = complete is change and isinstance(change["ns"], dict)
            if whole and len(raw) > self._offload.above:
                return await self._convert_aside(change, raw)
            if not whole:
                return await self._convert_outcome(complete)
            if isinstance(change, Outline):
                change = decoded(RawBSONDocument(bytes(raw), RAW_CODEC))
                if isinstance(change, OddChange):
                    self._alarm_odd(change)
            event = convert(change, raw)
            return None if event is None else told(event)
        except Unavailable:
            raise  # there is no helper just now: that says nothing about the change
        except Exception:
            logger.exception("ALARM: a change of %s can't be converted; its document is reset", _named(change))
            return await self._reset(change)

    async def _convert_aside(self, change: Decoded, raw: bytes | memoryview) -> EncodedEvent | None:
        found, is_odd = await self._offload.run(told_aside, bytes(raw), size=len(raw))
        if is_odd:
            self._alarm_odd(change)
        return found

    async def _convert_outcome(self, outcome: Decoded | None) -> EncodedEvent | None:
        """Convert a change whose images were read from the collection, where they were not in the change."""
        if outcome is None:
            return None
        images = {name: outcome[name] for name in IMAGES if isinstance(outcome.get(name), RawBSONDocument)}
        size = sum(len(image.raw) for image in images.values())
        if size <= self._offload.above:
            event = _converted(outcome)
            return None if event is None else told(event)
        rest = {name: value for name, value in outcome.items() if name not in {*images, "updateDescription"}}
        raw = {name: bytes(image.raw) for name, image in images.items()}
        return await self._offload.run(told_outcome_aside, rest, raw, size=size)

    @staticmethod
    def _alarm_odd(change: Decoded) -> None:
        logger.error("ALARM: %s has values that can't be decoded; they are kept as bytes", _named(change))

    async def _reset(self, change: Decoded) -> EncodedEvent | None:
        outcome = await self._states.outcome(change)
        try:
            event = _converted(outcome)
            return None if event is None else told(event)
        except Exception:
            logger.exception("ALARM: %s can't be told as it is; it is kept as bytes", _named(change))
            return None if outcome is None else told(unreadable(outcome))

    @staticmethod
    def _at(token: Token, time: Timestamp, event: EncodedEvent, seq: Seq, mark: Group | None) -> NewEvent:
        collection, id_text, version, encoded, marks = event
        stored = StoredEvent(seq, collection, id_text, place(encoded, seq, mark), mark)
        return NewEvent(stored, version, token, time, marks)


def _outlined(change: RawBSONDocument) -> Decoded:
    """Return a large change without what is large in it; its images where it lacks none."""
    try:
        parts = outline(change)
        return outline_to_read(change) if lacks_images(parts) else parts
    except Exception:  # noqa: BLE001 - `decoded` never fails
        return decoded(change)


def _named(change: Decoded) -> str:
    return f"{change['ns']['coll']}/{format_id(change['documentKey']['_id'])}"


def _later(one: Timestamp, other: Timestamp) -> bool:
    """What `>` says, which is asked of each change, and takes twice as long."""
    return (one.time, one.inc) > (other.time, other.inc)


def _place(change: Decoded) -> tuple[Token, Timestamp]:
    """Where the stream goes on after a change, and when it was."""
    return change["_id"]["_data"], change["clusterTime"]


def _converted(change: Decoded | None) -> Event | None:
    return convert(decoded(change)) if change is not None else None
