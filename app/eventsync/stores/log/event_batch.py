"""Events for forwarding: columns instead of one object per event.

A client that catches up gets joined bodies, which take only the number of each event and, for a few, its transaction.
Nearly all rows have one form, which is recognized in their bytes. This takes 0.4 µs a row; decoding a row into an event
takes 1.9 µs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import bson

from eventsync.domain.event_key import event_key
from eventsync.domain.events import TransactionPart
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.block import Block

SENT: Final = {"_id": 1, "b": 1, "g": 1}
"""The fields of a row of `events` that a batch needs."""

_BODY: Final = b"\x02b\x00"
_BEGIN, _END = ord("{"), ord("}")


@dataclass(frozen=True, slots=True)
class EventBatch:
    """One or more events in order: their numbers, their bodies in JSON, and their transactions by index."""

    seqs: Sequence[Seq]
    bodies: Sequence[bytes]
    transactions: Mapping[int, TransactionPart]

    @property
    def last(self) -> Seq:
        """The number of the last event."""
        return self.seqs[-1]


def batch_of_block(block: Block, numbers: Sequence[int]) -> EventBatch:
    """Return the events of a block at the given indexes."""
    transactions = (
        {place: block.transactions[n] for place, n in enumerate(numbers) if n in block.transactions}
        if block.transactions
        else {}
    )
    return EventBatch([block.seq(n) for n in numbers], [block.body(n) for n in numbers], transactions)


class EventBatchBuilder:
    """Builds batches from the rows of one log, most of which are exactly `{_id, b: string}`.

    Source: https://bsonspec.org/spec.html
    """

    def __init__(self, log: LogId) -> None:
        # The bytes of a row between its size and its number are the same in all rows of a log.
        self._head = bson.encode({"_id": event_key(log, 0)})[4:-10]
        self._row = struct.Struct(f"<i{len(self._head)}sqx{len(_BODY)}si")
        self._begin()

    def _begin(self) -> None:
        self._seqs: list[Seq] = []
        self._bodies: list[bytes] = []
        self._transactions: dict[int, TransactionPart] = {}
        self.bytes = 0
        """The size of the rows that were added."""

    def add(self, rows: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Add rows in BSON. Return rows of another form with their indexes; `put` must fill each index later."""
        others: list[tuple[int, bytes]] = []
        seqs, bodies, start, head, read = self._seqs, self._bodies, self._row.size, self._head, self._row.unpack_from
        for row in rows:
            if len(row) > start:
                size, named, seq, kind, length = read(row)
                # The body is the rest of the row except two NULs, its own and the row's. It is a JSON object.
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
            # A place is kept for it: events stay in order, whenever it is decoded.
            others.append((len(seqs), row))
            seqs.append(Seq(0))
            bodies.append(b"")
        self.bytes += sum(map(len, rows))
        return others

    def put(self, place: int, seq: Seq, body: bytes, transaction: TransactionPart | None) -> None:
        """Fill the index of a row that `add` returned."""
        self._seqs[place], self._bodies[place] = seq, body
        self.bytes += len(body)
        if transaction is not None:
            self._transactions[place] = transaction

    def take(self) -> EventBatch:
        """Return the events that were added since the last call."""
        made = EventBatch(self._seqs, self._bodies, self._transactions)
        self._begin()
        return made
