"""An event as readers get it, and the row of `events` that stores it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from eventsync.domain.events import TransactionPart, unfinished
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.keys import KEY_BYTES, NO_KEYS
from eventsync.domain.replay import DamagedEvents
from eventsync.domain.routes import Routes, split

UNREADABLE: Final = (LookupError, TypeError, ValueError, AttributeError, zlib.error)
"""The exceptions from decoding a damaged row."""

_PIECE: Final = 1024 * 1024


class StoredEvent(NamedTuple):
    """An event. `body` is its JSON, ready to send. `routes` is None without keys, and in batches of whole collections.

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


class UnpackedText(NamedTuple):
    """The uncompressed body or document of a row, in place of the compressed one."""

    text: bytes

    @classmethod
    def of(cls, packed: bytes) -> UnpackedText:
        """Decompress a text. For a thread: this takes 50 ms or more, and releases the interpreter lock."""
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
    return StoredEvent(row["_id"]["n"], row["c"], row["i"], body_of(row), transaction_part(row), routes_of(row))


def body_of(row: Mapping[str, Any]) -> bytes:
    """Return the body of a row of `events` that has it."""
    body = _text(row["b"])
    # A cheap check, because the body goes to clients as it is, in the middle of a message.
    if body[:1] != b"{" or body[-1:] != b"}":
        raise ValueError("its body is no JSON object")
    return body


def _text(stored: str | bytes | UnpackedText) -> bytes:
    if isinstance(stored, UnpackedText):
        return stored.text
    return stored.encode() if isinstance(stored, str) else zlib.decompress(stored)


ROUTES: Final = {"k": 1, "e": 1, "x": 1, "d": 1}
"""The projection for the routes of a row."""


def routes_of(row: Mapping[str, Any]) -> Routes | None:
    """Return the routes of a row of `events`; None if it has none, as all rows before there were declared shapes."""
    if (keys := row.get("k")) is None:
        return None
    if not all(type(key) is bytes and len(key) == KEY_BYTES for key in keys):
        raise ValueError("its keys are no such things")
    enters, leaves, document = row.get("e"), row.get("x"), row.get("d")
    return Routes(
        tuple(keys),
        NO_KEYS if enters is None else split(enters),
        NO_KEYS if leaves is None else split(leaves),
        None if document is None else _text(document),
    )


def body_member(event: StoredEvent, name: str) -> Any:
    """Return a member of an event's body. Raises `DamagedEvents` if the body is damaged."""
    try:
        return orjson.loads(event.body)[name]
    except UNREADABLE as error:
        raise DamagedEvents(f"event {event.seq} can't be read: {error!r}", event.seq) from error


def texts_size(row: Mapping[str, Any]) -> int:
    """Return the size of a row's body and document as they are held in memory, or 0 without them."""
    return _size(row.get("b")) + (_size(row["d"]) if "d" in row else 0)


def _size(stored: Any) -> int:
    if isinstance(stored, UnpackedText):
        return len(stored.text)
    return len(stored) if isinstance(stored, str | bytes) else 0


def transaction_part(row: Mapping[str, Any]) -> TransactionPart | None:
    """Return the transaction of a row of `events`, or None."""
    transaction = row.get("g")
    return TransactionPart(transaction["id"], transaction["n"], transaction["of"]) if transaction else None


def unreadable(row: Mapping[str, Any], error: Exception) -> DamagedEvents:
    """Return an error that names the event, to raise in place of `error`."""
    seq = row["_id"]["n"]
    return DamagedEvents(f"event {row['_id']['l']}:{seq} can't be read: {error!r}", Seq(int(seq)))
