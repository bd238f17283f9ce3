"""An event as readers get it, and the row of `events` that stores it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from eventsync.domain.events import TransactionPart, unfinished
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.replay import DamagedEvents
from eventsync.domain.routes import Routes

UNREADABLE: Final = (LookupError, TypeError, ValueError, AttributeError, zlib.error)
"""The exceptions from decoding a damaged row."""

_PIECE: Final = 1024 * 1024


class StoredEvent(NamedTuple):
    """An event. `body` is its JSON, ready to send.

    (A named tuple, because a frozen dataclass takes four times as long to create, once for each event read.)
    """

    seq: Seq
    collection: str
    id: IdText
    body: bytes
    transaction: TransactionPart | None = None
    routes: Routes | None = None

    @property
    def closes(self) -> bool:
        """True if a reader may stop after it: it is outside any transaction, or the last event of one."""
        return unfinished(self.transaction) is None


class UnpackedBody(NamedTuple):
    """The uncompressed body of a row, in place of the compressed one."""

    body: bytes

    @classmethod
    def of(cls, packed: bytes) -> UnpackedBody:
        """Decompress a body. For a thread: this takes 50 ms or more, and releases the interpreter lock."""
        # In pieces, because zlib would join 58 MB under the lock, for 40 ms. `bytes.join` releases it.
        stream, rest = zlib.decompressobj(), packed
        pieces: list[bytes] = []
        while not stream.eof and (piece := stream.decompress(rest, _PIECE)):
            pieces.append(piece)
            rest = stream.unconsumed_tail
        if not stream.eof:
            raise zlib.error("the stream is incomplete")
        return cls(b"".join(pieces))


def stored_event(row: Mapping[str, Any]) -> StoredEvent:
    """Decode a row of `events` that has its body."""
    return StoredEvent(row["_id"]["n"], row["c"], row["i"], body_of(row), transaction_part(row))


def body_of(row: Mapping[str, Any]) -> bytes:
    """Return the body of a row of `events` that has it."""
    stored = row["b"]
    if isinstance(stored, UnpackedBody):
        body = stored.body
    else:
        body = stored.encode() if isinstance(stored, str) else zlib.decompress(stored)
    # A cheap check, because the body goes to clients as it is, in the middle of a message.
    if body[:1] != b"{" or body[-1:] != b"}":
        raise ValueError("its body is no JSON object")
    return body


def body_member(event: StoredEvent, name: str) -> Any:
    """Return a member of an event's body. Raises `DamagedEvents` if the body is damaged."""
    try:
        return orjson.loads(event.body)[name]
    except UNREADABLE as error:
        raise DamagedEvents(f"event {event.seq} can't be read: {error!r}", event.seq) from error


def body_size(row: Mapping[str, Any]) -> int:
    """Return the size of a row's body as it is held in memory, or 0 without one."""
    body = row.get("b")
    if isinstance(body, UnpackedBody):
        return len(body.body)
    return len(body) if isinstance(body, str | bytes) else 0


def transaction_part(row: Mapping[str, Any]) -> TransactionPart | None:
    """Return the transaction of a row of `events`, or None."""
    transaction = row.get("g")
    return TransactionPart(transaction["id"], transaction["n"], transaction["of"]) if transaction else None


def unreadable(row: Mapping[str, Any], error: Exception) -> DamagedEvents:
    """Return an error that names the event, to raise in place of `error`."""
    seq = row["_id"]["n"]
    return DamagedEvents(f"event {row['_id']['l']}:{seq} can't be read: {error!r}", Seq(int(seq)))
