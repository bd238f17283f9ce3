"""Consistency checks between the events of a log, one event at a time. Pure.

`SequenceCheck` takes all events in the order of their seqs, `VersionChainCheck` those of one collection or of some of
its documents. Each returns a sentence that describes the fault, or None.
"""

from __future__ import annotations

from typing import NamedTuple

from eventsync.domain.events import TransactionPart, unfinished
from eventsync.domain.ids import IdText
from eventsync.domain.positions import START, Seq
from eventsync.domain.replay import Change


class SequenceCheck:
    """Checks that seqs are dense from 1 on, and that the events of a transaction are adjacent and counted 1 … of."""

    def __init__(self, after: Seq = START) -> None:
        """Start after `after`, the log's horizon."""
        self.seq = after
        self._open: TransactionPart | None = None

    def take(self, seq: Seq, transaction: TransactionPart | None) -> str | None:
        """Check the next event."""
        wrong = self._wrong(seq, transaction)
        self.seq = seq
        self._open = unfinished(transaction)
        return wrong

    def _wrong(self, seq: Seq, transaction: TransactionPart | None) -> str | None:
        if seq != self.seq + 1:
            missing = f"event {self.seq + 1} is" if seq == self.seq + 2 else f"events {self.seq + 1} to {seq - 1} are"
            return f"{missing} missing"
        was = self._open
        if was is not None and transaction != TransactionPart(was.id, was.n + 1, was.of):
            return f"event {seq} is not {was.n + 1} of {was.of} of the transaction that event {seq - 1} is a part of"
        if was is None and transaction is not None and transaction.n != 1:
            count = f"{transaction.n} of {transaction.of}"
            return f"event {seq} is {count} of a transaction, and event {seq - 1} is no part of it"
        return None

    def end(self, head: Seq, *, settled: bool) -> str | None:
        """Check the end of the log, where `head` is the newest seq. With `settled`, no transaction may be
        incomplete.
        """
        if self.seq != head:
            return f"events {self.seq + 1} to {head} are missing"
        if settled and self._open is not None:
            return f"the transaction of event {self.seq} ends after {self._open.n} of {self._open.of} events"
        return None


class _Link(NamedTuple):
    """The state of a document after an event."""

    seq: Seq
    version: int
    exists: bool


class VersionChainCheck:
    """Checks that `base` of each event is the version before it, and that only existing documents change.

    A document may be older than the log, so its first event may have any base unless it is a `create`.
    """

    def __init__(self) -> None:
        self._last: dict[IdText, _Link] = {}

    def take(self, change: Change) -> str | None:
        """Check the next event of the collection."""
        last = self._last.get(change.id)
        exists = last is not None and last.exists
        self._last[change.id] = _Link(change.seq, change.version, change.op != "delete")
        where = f"event {change.seq} ({change.op} of {change.collection}/{change.id})"
        if change.op == "create":
            if exists:
                return f"{where}: the document exists since event {last.seq if last else 0}"
            return None if change.base == 0 else f"{where}: its base is {change.base}"
        if last is None:
            return None
        if not exists:
            return f"{where}: the document was deleted by event {last.seq}"
        if change.base != last.version:
            return f"{where}: its base is {change.base}, but event {last.seq} left version {last.version}"
        return None
