"""Which changes belong together: the ones of a MongoDB transaction share `lsid` and `txnNumber`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.values.extended_json import may_hold

_NUMBER = b"\x12txnNumber\0"
"""How the field begins in BSON."""

_OF_DOCUMENT = re.compile(
    rb"(?s).{4}\x03_id\0.{4}\x02_data\0.{4}[0-9A-F]*\0\0\x02operationType\0.{4}(?:insert|update|replace|delete)\0"
)
"""How a change of a document begins, as MongoDB writes it."""

_DOCUMENT_CHANGES = frozenset({"insert", "update", "replace", "delete"})


def is_of_document(change: RawBSONDocument) -> bool:
    """Whether it changes one document. All others change a collection or the stream itself."""
    return _OF_DOCUMENT.match(change.raw) is not None or change["operationType"] in _DOCUMENT_CHANGES


def transaction_of(change: Mapping[str, Any]) -> str | None:
    """The transaction that a change was committed by, `session:number`; None for a write of its own.

    (`clusterTime` does not tell: unrelated changes may share it.)
    """
    if isinstance(change, RawBSONDocument) and not may_hold(change, _NUMBER):
        return None  # by far the commonest, and a search in bytes is all that it costs
    if (number := change.get("txnNumber")) is None:
        return None
    session: UUID = change["lsid"]["id"]
    return f"{session.hex}:{number}"


class Grouper:
    """Cuts a stream of changes into whole groups.

    The stream does not say where a transaction ends. It has ended when a change with another key follows, or when the
    stream has been read past the transaction's cluster time.
    """

    def __init__(self) -> None:
        self._open: list[RawBSONDocument] = []
        self._key: str | None = None
        self.bytes = 0
        """How much BSON the open group holds."""

    @property
    def pending(self) -> bool:
        """Whether a transaction is open: what has come of it may not be all."""
        return bool(self._open)

    def feed(self, changes: Iterable[RawBSONDocument], read_up_to: Timestamp) -> list[Sequence[RawBSONDocument]]:
        """Take a batch that ends at cluster time `read_up_to`; return the groups that are whole now, in order."""
        whole: list[Sequence[RawBSONDocument]] = []
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
        if self._open and read_up_to > self._open[-1]["clusterTime"]:
            whole.append(self._close())
        return whole

    def _close(self) -> Sequence[RawBSONDocument]:
        group, self._open, self._key, self.bytes = self._open, [], None, 0
        return group
