"""Assembles transactions: the changes of a MongoDB transaction share `lsid` and `txnNumber`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.values.extended_json import may_hold
from eventsync.mongodb.change_stream import DOCUMENT_CHANGES

Transaction = Sequence[RawBSONDocument]
"""The changes of a MongoDB transaction, in order. A write outside any is a transaction of one change."""

_NUMBER = b"\x12txnNumber\0"
"""The field's first bytes in BSON."""

_OF_DOCUMENT = re.compile(
    rb"(?s).{4}\x03_id\0.{4}\x02_data\0.{4}[0-9A-F]*\0\0\x02operationType\0.{4}(?:insert|update|replace|delete)\0"
)
"""The first bytes of a change of a document, as MongoDB writes them."""


def is_document_change(change: RawBSONDocument) -> bool:
    """Return True if it changes one document. All others change a collection or the stream itself."""
    return _OF_DOCUMENT.match(change.raw) is not None or change["operationType"] in DOCUMENT_CHANGES


def transaction_of(change: Mapping[str, Any]) -> str | None:
    """Return the transaction that committed a change, as `session:number`; None for a write outside any.

    (`clusterTime` does not identify it: unrelated changes may share it.)
    """
    if isinstance(change, RawBSONDocument) and not may_hold(change, _NUMBER):
        return None  # By far the most common case, which costs no more than a search in bytes.
    if (number := change.get("txnNumber")) is None:
        return None
    session: UUID = change["lsid"]["id"]
    return f"{session.hex}:{number}"


class TransactionAssembler:
    """Cuts a stream of changes into whole transactions.

    The stream does not mark the end of a transaction. It has ended when a change of another one follows, or when the
    stream was read beyond the transaction's cluster time.
    """

    def __init__(self) -> None:
        self._open: list[RawBSONDocument] = []
        self._key: str | None = None
        self.bytes = 0
        """The size of the open transaction in BSON."""

    @property
    def is_open(self) -> bool:
        """True while a transaction is open: more of its changes may follow."""
        return bool(self._open)

    def feed(self, changes: Iterable[RawBSONDocument], up_to: Timestamp) -> list[Transaction]:
        """Take a batch that ends at cluster time `up_to`; return the transactions that are whole now, in order."""
        whole: list[Transaction] = []
        for change in changes:
            key = transaction_of(change)
            if self._open and key != self._key:
                whole.append(self._close())
            if key is None:
                whole.append([change])
            else:
                self._key = key
                self._open.append(change)
                self.bytes += len(change.raw)
        # All changes of a transaction have the cluster time of its commit. Past that time there are no more of them.
        if self._open and up_to > self._open[-1]["clusterTime"]:
            whole.append(self._close())
        return whole

    def _close(self) -> Transaction:
        transaction, self._open, self._key, self.bytes = self._open, [], None, 0
        return transaction
