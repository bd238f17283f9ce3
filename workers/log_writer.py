"""Appends groups of changes to the log, and knows what the log's newest checkpoint is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from app.domain.event import Event, Group, place
from app.domain.marks import marks_of
from app.domain.position import LogId, Seq
from app.stores.changes import Batch, Token
from app.stores.events import EventStore, NewEvent, StoredEvent, Tail
from workers.converter import convert
from workers.groups import transaction_of
from workers.states import StateReader

log = logging.getLogger(__name__)


class LogWriter:
    """One term's hold on a log: its tail, from which it numbers on, and how far the stream has been used."""

    def __init__(self, log: LogId, events: EventStore, states: StateReader, tail: Tail | None, time: Timestamp) -> None:
        self.log = log
        self.seq = tail.seq if tail else Seq(0)
        self.checkpoint: tuple[Seq, Token, Timestamp] | None = None
        """The newest one that is not recorded yet."""
        self._events = events
        self._states = states
        self._time = time
        self._token: Token | None = None
        self._open = tail.group if tail and tail.group and tail.group.n < tail.group.of else None

    async def append(self, groups: Iterable[Sequence[RawBSONDocument]]) -> int:
        """Convert and append whole groups; returns the number of events.

        Raises `Fenced` and `Unavailable`: the term is over, and the next one reads the tail.
        """
        new: list[NewEvent] = []
        seq = self.seq
        for group in groups:
            time = group[0]["clusterTime"]
            if time > self._time and self._token is not None:
                # Nothing else can have happened at the earlier time any more.
                self.checkpoint = (seq, self._token, self._time)
            new.extend(await self._number(group, seq))
            seq = Seq(self.seq + len(new))
            self._time, self._token = time, group[-1]["_id"]["_data"]
        if new:
            await self._events.append(self.log, new)
        self.seq = seq
        return len(new)

    async def append_found(self, events: Sequence[Event], token: Token, time: Timestamp) -> None:
        """Append events that no change brought, but what was found when `token` had been read. Raises like `append`."""
        seq = self.seq
        new = [self._at(token, time, event, Seq(seq + index), None) for index, event in enumerate(events, start=1)]
        await self._events.append(self.log, new)
        self.seq = Seq(seq + len(new))
        self._time, self._token = time, token

    def settle(self, batch: Batch) -> bool:
        """After a batch without an open group: whether the stream was read past the last change, all of it used."""
        if batch.time <= self._time:
            return False
        self.checkpoint = (self.seq, batch.token, batch.time)
        return True

    async def _number(self, group: Sequence[RawBSONDocument], seq: Seq) -> list[NewEvent]:
        events = [(change, event) for change in group if (event := await self._convert(change)) is not None]
        marks = self._marks(group, len(events))
        return [
            self._new(change, event, Seq(seq + index), mark)
            for index, ((change, event), mark) in enumerate(zip(events, marks, strict=True), start=1)
        ]

    def _marks(self, group: Sequence[RawBSONDocument], count: int) -> list[Group | None]:
        """The transaction marks of a group's events; none where a transaction changed one document only."""
        name = transaction_of(group[0])
        if name is None:
            return [None] * count
        done, self._open = self._open, None
        if done is not None and done.id == name:
            # The rest of a transaction whose beginning an earlier term appended before it died.
            return [Group(name, done.n + index, done.of) for index in range(1, count + 1)]
        return [Group(name, index, count) if count > 1 else None for index in range(1, count + 1)]

    async def _convert(self, change: RawBSONDocument) -> Event | None:
        """The change's event. One that can't be made must not stop the stream: the whole document is told anew."""
        complete = await self._states.completed(change)
        try:
            return convert(complete)
        except Exception:
            log.exception("ALARM: a change of %s can't be converted; its document is reset", change["ns"]["coll"])
            return convert(await self._states.outcome(change))

    def _new(self, change: RawBSONDocument, event: Event, seq: Seq, mark: Group | None) -> NewEvent:
        return self._at(change["_id"]["_data"], change["clusterTime"], event, seq, mark)

    @staticmethod
    def _at(token: Token, time: Timestamp, event: Event, seq: Seq, mark: Group | None) -> NewEvent:
        stored = StoredEvent(seq, event.collection, event.id, place(event.encode(), seq, mark), mark)
        exact = marks_of(event.document if event.document is not None else event.patch or [])
        return NewEvent(stored, event.version, token, time, exact)
