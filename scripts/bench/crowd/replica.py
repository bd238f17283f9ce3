"""State of one client, checked to come without a hole and without a repeat. Pure."""

from __future__ import annotations

from scripts.bench.crowd.history import History
from scripts.bench.crowd.messages import Message, WrongError


class Replica:
    """`seq` is the client's position, None while it has nothing whole. `events` were applied, each once.

    It outlives its connections. A client that has a position may be moved by events alone, one that has none by a
    snapshot. Raises `WrongError` at what is not exact.
    """

    __slots__ = ("_began", "_documents", "_history", "_parts", "events", "live", "seq")

    def __init__(self, history: History, seq: int | None) -> None:
        self.seq = self._began = seq
        self.live = False
        self.events = 0
        self._history = history
        self._documents: set[int] = set()
        self._parts = 0

    def take(self, message: Message) -> int:
        """Apply a message; return how many of its events were new."""
        kind = message.kind
        if kind == "events":
            return self._events(message)
        if kind == "snapshot":
            self._rows(message)
        elif kind == "live" or (kind == "progress" and message.end >= 0):
            # All events are of the one shape, so nobody moves on without an event.
            if message.end != self.seq:
                raise WrongError(f"the server says {message.end}, the client is at {self.seq}")
            self.live = self.live or kind == "live"
        elif kind not in {"welcome", "progress"}:
            raise WrongError(f"{kind} ({message.text}) came at {self.seq}")
        return 0

    def _events(self, message: Message) -> int:
        if self.seq is None or message.start > self.seq:
            raise WrongError(f"events from {message.start} came at {self.seq}")
        new = max(0, message.end - self.seq)
        self.seq += new
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
            if len(self._documents) != self._history.count(message.end):
                raise WrongError(f"a snapshot at {message.end} has {len(self._documents)} documents")
            self._documents.clear()
            self.seq = self._began = message.end

    @property
    def is_exact(self) -> bool:
        """True if the events counted are those between where it began and where it is."""
        return self.seq is not None and self._began is not None and self.seq - self._began == self.events
