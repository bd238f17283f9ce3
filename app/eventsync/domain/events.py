"""An event: one committed change of one document, and its encoded body.

The sequencer encodes the body once; all later readers forward the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import orjson

from eventsync.domain.ids import IdText, format_id
from eventsync.domain.patches.diff import Operation
from eventsync.domain.positions import Seq
from eventsync.domain.values.extended_json import Document, is_misread, to_json, utc_text

Op = Literal["create", "update", "replace", "delete"]


@dataclass(frozen=True, slots=True)
class TransactionPart:
    """The MongoDB transaction that an event belongs to: event `n` of `of`, counted from 1."""

    id: str
    n: int
    of: int


def unfinished(transaction: TransactionPart | None) -> TransactionPart | None:
    """Return `transaction` if further events of its transaction must follow, else None."""
    return transaction if transaction is not None and transaction.n < transaction.of else None


def last_whole(seq: Seq, transaction: TransactionPart | None) -> Seq:
    """Return `seq`, an event of `transaction`, or the last event before the transaction that it leaves unfinished."""
    part = unfinished(transaction)
    return seq if part is None else Seq(seq - part.n)


class Event(NamedTuple):
    """One document change, without its place in the log.

    (Creating a frozen dataclass with so many fields takes five times as long, and the sequencer creates one a change.)

    `create` and `replace` carry `document` (with `_id`, without `_sync`), `update` carries `patch`, `delete` neither.
    Datetimes are in UTC, with or without `tzinfo`.
    `op_id` and `by` are None for a change that did not come through the API (`external`).
    """

    collection: str
    id: IdText
    op: Op
    base: int
    version: int
    at: datetime
    document: Document | None = None
    patch: list[Operation] | None = None
    op_id: str | None = None
    by: str | None = None
    plain: bool = False
    """True if `document` is known to be plain (`domain.bson_scan.plain`): it needs no type hints and encodes faster."""
    patch_json: bytes | None = None
    """The encoded `patch`, if it is known already."""

    @property
    def external(self) -> bool:
        """True if the change was not made through the API."""
        return self.op_id is None

    def encode(self) -> bytes:
        """Encode the part of the body between `seq` and `txn`, which does not depend on the place in the log."""
        fields: dict[str, Any] = {
            "collection": self.collection,
            "id": self.id,
            "op": self.op,
            "base": self.base,
            "version": self.version,
        }
        if self.document is not None:
            fields["doc"] = self.document
        if self.patch is not None:
            fields["patch"] = orjson.Fragment(encode_patch(self.patch) if self.patch_json is None else self.patch_json)
        fields["at"] = timestamp(self.at)
        if self.external:
            fields["external"] = True
        else:
            fields |= {"op_id": self.op_id, "by": self.by}
        # Without its braces: `place` puts the seq before it and the transaction behind it.
        return to_json(fields, plain=self.plain or self.document is None)[1:-1]


NO_COLLECTION: Final = "system.eventsync"
"""The collection of events that are no change of a document. MongoDB reserves such names, so no shape has it."""


def tracked_again(name: str, at: datetime) -> Event:
    """Return the event that separates two times at which a collection is tracked. No client gets it."""
    return Event(NO_COLLECTION, format_id(name), "replace", 0, 0, at, {"_id": name})


def encode_patch(patch: list[Operation]) -> bytes:
    """Encode a patch. Only its values are tested for what orjson would misread: the rest is text."""
    return to_json(patch, plain=not any(is_misread(operation.get("value")) for operation in patch))


LARGE: Final = 1024 * 1024
"""Bytes of a body above which `place` releases the interpreter's lock: call it in a thread. 90 MiB take 50 ms."""


def place(encoded: bytes, seq: Seq, transaction: TransactionPart | None) -> bytes:
    """Complete the body of an encoded event with its place in the log."""
    txn = _txn(transaction)
    if len(encoded) <= LARGE:
        return b'{"seq":%d,%b%b}' % (seq, encoded, txn)
    return b"".join((b'{"seq":%d,' % seq, encoded, txn, b"}"))


def recounted(body: bytes, was: TransactionPart, now: TransactionPart | None) -> bytes:
    """Return the body of an event with another place in its transaction, which `place` has put at its end."""
    end = _txn(was) + b"}"
    if not body.endswith(end):
        raise ValueError("the body does not end with its transaction")
    return b"".join((memoryview(body)[: -len(end)], _txn(now), b"}"))


def _txn(transaction: TransactionPart | None) -> bytes:
    if transaction is None:
        return b""
    return b',"txn":' + to_json({"id": transaction.id, "n": transaction.n, "of": transaction.of})


def timestamp(at: datetime) -> str:
    """Format a time as the protocol's `at`: RFC 3339 in UTC with milliseconds."""
    return utc_text(at, "milliseconds")
