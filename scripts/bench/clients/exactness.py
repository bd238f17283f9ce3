"""Check of the messages that a benchmark's clients receive against the log that it produces. Pure.

Nothing is remembered of the log: each event, and the collection at each position, is computed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from eventsync.domain.predicates.definitions import define

SHAPE: Final = "docs"
BY_ID: Final = define("by_id", SHAPE, {"_id": "$id"}, {"id": ["int"]})  # each route has one document

SIZE: Final = 300
"""Bytes of a document."""

_KEPT_BYTES: Final = 64 * 1024 * 1024
WELCOME: Final = b'{"type":"welcome"'
"""Beginning of a message that no other client gets."""


class WrongError(Exception):
    """A client has not got what it should have."""


def document(number: int, at: float, size: int = SIZE, *, n: int | None = None) -> dict[str, Any]:
    """Return a document of about `size` bytes that is meant to be made at a time, by the monotonic clock."""
    return {"_id": number, "n": number if n is None else n, "at": at, "text": "x" * max(0, size - 60)}


@dataclass(frozen=True, slots=True)
class History:
    """The log's events, all of one collection: event `seq` sets the field `n` of one document to `seq`.

    `documents` of them, with the ids 0, 1, 2 … and `n` 0, take turns. With 0 documents event `seq` creates document
    `seq`. `overtaking`: the same events in whatever order; each number comes once.
    """

    documents: int
    overtaking: bool = False
    _numbers: dict[int, int] = field(default_factory=dict)
    _seqs: dict[int, int] = field(default_factory=dict)

    def is_event(self, seq: int, number: int, document: int) -> bool:
        """Return True if event `seq` may set `n` of this document to this number. It is the same for all clients."""
        is_number = number == seq
        if self.overtaking:
            is_number = self._numbers.setdefault(seq, number) == number and self._seqs.setdefault(number, seq) == seq
        return is_number and document == self.document(number)

    def document(self, seq: int) -> int:
        """Return the id of the document that event `seq` is about."""
        return (seq - 1) % self.documents if self.documents else seq

    def seqs(self, start: int, end: int, document: int | None) -> range:
        """Return the events with `start < seq <= end`: all, or those of one document of several."""
        if document is None:
            return range(start + 1, end + 1)
        return range(start + 1 + (document - start) % self.documents, end + 1, self.documents)

    def value(self, document: int, seq: int) -> int:
        """Return `n` of a document at position `seq`."""
        return max(0, seq - (seq - 1 - document) % self.documents) if self.documents else document


@dataclass(frozen=True, slots=True)
class Message:
    """`start` and `end` are the span that it covers, in seqs; where there is no span both are the position, or -1.

    `at` is when its events were written, in seconds of the monotonic clock; `documents` are the ids of its rows, or of
    its events.
    """

    kind: str
    start: int = -1
    end: int = -1
    at: tuple[float, ...] = ()
    documents: frozenset[int] = frozenset()
    part: int = 0
    last: bool = True
    retry_after: float | None = None
    text: str = ""


class Reader:
    """Reads messages about the collection or one document of it, each once for all clients.

    Raises `WrongError` at the first event or row that should be another.
    """

    def __init__(self, history: History, *, owned: bool = False) -> None:
        """With `owned`, each client may see one document of the collection that it follows."""
        self.history, self.owned = history, owned
        self._read: OrderedDict[bytes, Message] = OrderedDict()
        self._bytes = 0

    def read(self, data: bytes) -> Message:
        """Return a message as it came."""
        if data.startswith(WELCOME):
            return Message("welcome")
        if (found := self._read.get(data)) is not None:
            return found
        message = self._read[data] = self._parsed(orjson.loads(data))
        self._bytes += len(data)
        while self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._read.popitem(last=False)[0])
        return message

    def _parsed(self, raw: dict[str, Any]) -> Message:
        kind = raw["type"]
        if kind == "events":
            return self._events(raw)
        if kind == "snapshot":
            end = _seq(raw["position"])
            return Message(kind, end, end, (), self._documents(raw["docs"], end), raw["part"], raw["last"])
        if kind in {"live", "progress"}:
            position = raw["position"] if kind == "live" else next(iter(raw["vector"].values()), None)
            seq = _seq(position) if position else -1
            return Message(kind, seq, seq)
        text = str(raw.get("code") or raw.get("reason") or "")
        return Message(kind, retry_after=raw.get("retry_after"), text=text)

    def _events(self, raw: dict[str, Any]) -> Message:
        start, end, times = _seq(raw["from"]), _seq(raw["to"]), []
        for event in raw["events"]:
            fields = event.get("doc") or {change["path"][1:]: change["value"] for change in event["patch"]}
            if not self.history.is_event(event["seq"], fields["n"], _number(event)):
                raise WrongError(f"event {event['seq']} is {fields.get('n')} of {event['id']}")
            times.append(fields["at"])
        seqs, found = [event["seq"] for event in raw["events"]], frozenset(map(_number, raw["events"]))
        document = next(iter(found)) if self.owned and len(found) == 1 else _document(raw["shape"])
        expected = list(self.history.seqs(start, end, document))
        # The span of a frame may begin before the rules, from when on the log has the events of an owner.
        if seqs != (expected[-len(seqs) :] if self.owned else expected):
            raise WrongError(f"a frame from {start} to {end} has {seqs[:1]} to {seqs[-1:]}, {len(seqs)} events")
        return Message("events", start, end, tuple(times), found)

    def _documents(self, rows: list[dict[str, Any]], seq: int) -> frozenset[int]:
        found = {_number(row): row["doc"]["n"] for row in rows}
        if len(found) != len(rows):
            raise WrongError(f"a document comes twice at {seq}")
        for number, value in found.items():
            if value != self.history.value(number, seq):
                raise WrongError(f"document {number} at {seq} has n = {value}")
        return frozenset(found)


def _seq(position: str) -> int:
    return int(position.rpartition(":")[2])


def _document(shape: str) -> int | None:
    """Return the document that a shape is about, declared or not; None for the collection."""
    return None if shape == SHAPE else int(shape.rpartition(":")[2])


def _number(row: dict[str, Any]) -> int:
    return int(row["id"].removeprefix("int:"))


class Replica:
    """State of one client. `seq` is its position, None while it has nothing whole; `events` were applied, each once.

    `document`: the only one that it follows. It outlives its connections. A client that has a position may be moved by
    events alone, one that has none by a snapshot. Raises `WrongError` at a hole and at what is not exact.
    """

    __slots__ = ("_began", "_document", "_documents", "_history", "_parts", "events", "live", "seq")

    def __init__(self, history: History, seq: int | None, document: int | None = None) -> None:
        self.seq = self._began = seq
        self.live = False
        self.events = self._parts = 0
        self._history = history
        self._document = document
        self._documents: set[int] = set()

    def take(self, message: Message) -> int:
        """Apply a message; return how many of its events were new."""
        kind = message.kind
        if kind == "events":
            return self._events(message)
        if kind == "snapshot":
            self._rows(message)
        elif kind == "live" or (kind == "progress" and message.end >= 0):
            # Nobody moves past an event of the shape without it.
            if self.seq is None or message.end < self.seq or not self.has_all(message.end):
                raise WrongError(f"the server says {message.end}, the client is at {self.seq}")
            self.seq = message.end
            self.live = self.live or kind == "live"
        elif kind not in {"welcome", "progress"}:
            raise WrongError(f"{kind} ({message.text}) came at {self.seq}")
        return 0

    def _events(self, message: Message) -> int:
        if self.seq is None or message.start > self.seq:
            raise WrongError(f"events from {message.start} came at {self.seq}")
        if self._document is not None and message.documents - {self._document}:
            raise WrongError(f"events of {sorted(message.documents)} came to one of {self._document}")
        new = len(self._history.seqs(self.seq, message.end, self._document))
        if new > len(message.at):
            raise WrongError(f"{len(message.at)} events came for {new} from {self.seq} to {message.end}")
        self.seq = max(self.seq, message.end)
        self.events += new
        return new

    def _rows(self, message: Message) -> None:
        if self.seq is not None or message.part not in {0, self._parts}:
            raise WrongError(f"part {message.part} of a snapshot came after {self._parts} parts at {self.seq}")
        self._documents = set() if message.part == 0 else self._documents
        if self._documents & message.documents:
            raise WrongError(f"a document comes twice in a snapshot at {message.end}")
        self._documents |= message.documents
        self._parts = message.part + 1
        if message.last:
            expected = self._history.documents or message.end
            if len(self._documents) != (expected if self._document is None else 1):
                raise WrongError(f"a snapshot at {message.end} has {len(self._documents)} documents")
            self._documents.clear()
            self.seq = self._began = message.end

    def has_all(self, seq: int) -> bool:
        """Return True if there is no event of the shape between where it is and `seq`."""
        return self.seq is not None and not self._history.seqs(self.seq, seq, self._document)

    @property
    def is_exact(self) -> bool:
        """True if the events counted are those between where it began and where it is."""
        if self.seq is None or self._began is None:
            return False
        return len(self._history.seqs(self._began, self.seq, self._document)) == self.events
