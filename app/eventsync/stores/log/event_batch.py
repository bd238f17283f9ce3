"""Events that are only passed on: in columns, without an object for each.

What a reader that is behind is sent are bodies, joined. Of an event that takes no other than its number and, of a few,
its transaction. Nearly all rows are of one form, and are told from their bytes: 0.4 µs a row, where decoding it and
making an event of it took 1.9.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import bson

from eventsync.domain.event_key import event_key
from eventsync.domain.events import Group
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.block import Block

SENT: Final = {"_id": 1, "b": 1, "g": 1}
"""The fields of a row of `events` that a passage is made of."""

_BODY: Final = b"\x02b\x00"
_BEGIN, _END = ord("{"), ord("}")


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in order, some at least: their numbers, their bodies in JSON, and by place which are of a transaction."""

    seqs: Sequence[Seq]
    bodies: Sequence[bytes]
    groups: Mapping[int, Group]

    @property
    def last(self) -> Seq:
        """The last event's number."""
        return self.seqs[-1]


def batch_of_block(block: Block, numbers: Sequence[int]) -> EventBatch:
    """Some of a block's events."""
    groups = {place: block.groups[n] for place, n in enumerate(numbers) if n in block.groups} if block.groups else {}
    return EventBatch([block.seq(n) for n in numbers], [block.body(n) for n in numbers], groups)


class EventBatchBuilder:
    """Makes passages of the rows of one log, most of which are `{_id, b: string}` and nothing else.

    Source: https://bsonspec.org/spec.html
    """

    def __init__(self, log: LogId) -> None:
        # A row up to where its number is: the same bytes in all of this log, but for the row's size before it.
        self._head = bson.encode({"_id": event_key(log, 0)})[4:-10]
        self._row = struct.Struct(f"<i{len(self._head)}sqx{len(_BODY)}si")
        self._begin()

    def _begin(self) -> None:
        self._seqs: list[Seq] = []
        self._bodies: list[bytes] = []
        self._groups: dict[int, Group] = {}
        self.bytes = 0
        """Of the rows that were added."""

    def add(self, rows: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Add rows in BSON. Those of another form are given back, each with its place: it is to be `put` there."""
        others: list[tuple[int, bytes]] = []
        seqs, bodies, start, head, read = self._seqs, self._bodies, self._row.size, self._head, self._row.unpack_from
        for row in rows:
            if len(row) > start:
                size, named, seq, kind, length = read(row)
                # The body is the rest of the row, but for two NULs: its own, and the row's. It is an object in JSON.
                if (
                    named == head
                    and kind == _BODY
                    and size == len(row) == start + length + 1
                    and row[start] == _BEGIN
                    and row[-3] == _END
                ):
                    seqs.append(seq)
                    bodies.append(row[start:-2])
                    continue
            others.append((len(seqs), row))
            seqs.append(Seq(0))
            bodies.append(b"")
        self.bytes += sum(map(len, rows))
        return others

    def put(self, place: int, seq: Seq, body: bytes, group: Group | None) -> None:
        """What such a row says."""
        self._seqs[place], self._bodies[place] = seq, body
        self.bytes += len(body)
        if group is not None:
            self._groups[place] = group

    def take(self) -> EventBatch:
        """What was added since the last one."""
        made = EventBatch(self._seqs, self._bodies, self._groups)
        self._begin()
        return made
