"""State of one client, checked to come without a hole and without a repeat. Pure."""

from __future__ import annotations

from scripts.bench.crowd.history import History
from scripts.bench.crowd.messages import Message, WrongError


class Replica:
    """`seq` is the client's position, None while it has nothing whole. `events` were applied, each once.

    It outlives its connections. Raises `WrongError` at what is not exact.
    """

    __slots__ = ("_history", "_parts", "began", "events", "live", "seq", "ways")

    def __init__(self, history: History, seq: int | None) -> None:
        self.seq = seq
        self.began = seq
        self.live = False
        self.events = 0
        self.ways: set[str] = set()
        """Kinds of messages that moved it."""
        self._history = history
        self._parts: list[frozenset[int]] = []

    def take(self, message: Message) -> int:
        """Apply a message; return how many of its events were new."""
        kind = message.kind
        if kind == "events":
            return self._events(message)
        if kind in {"snapshot", "squashed"}:
            self._rows(message)
        elif kind == "live":
            self._is_at(message.end)
            self.live = True
        elif kind == "progress" and message.end >= 0:
            self._is_at(message.end)
        elif kind == "reset":
            self.ways.add(f"reset ({message.text})")
            self.seq, self.live, self._parts = None, False, []
        return 0

    def _events(self, message: Message) -> int:
        if self.seq is None or message.start > self.seq:
            raise WrongError(f"events from {message.start} came at {self.seq}")
        new = max(0, message.end - self.seq)
        self.seq += new
        self.events += new
        self.ways.add("events")
        return new

    def _is_at(self, seq: int) -> None:
        # All events are of the one shape: there is nothing between, so nobody moves on without an event.
        if seq != self.seq:
            raise WrongError(f"the server says {seq}, the client is at {self.seq}")

    def _rows(self, message: Message) -> None:
        self._parts = [] if message.part == 0 else self._parts
        if message.part != len(self._parts):
            raise WrongError(f"part {message.part} came after {len(self._parts)} parts")
        self._parts.append(message.documents)
        if not message.last:
            return
        found = frozenset[int]().union(*self._parts)
        if len(found) != sum(map(len, self._parts)):
            raise WrongError(f"a document comes twice in a {message.kind}")
        self._parts = []
        self._check(message, found)
        # The rows stand for the events before; those after it are counted from there.
        self.seq = self.began = message.end
        self.events = 0
        self.ways.add(message.kind)

    def _check(self, message: Message, found: frozenset[int]) -> None:
        if message.kind == "snapshot":
            if len(found) != self._history.count(message.end):
                raise WrongError(f"a snapshot at {message.end} has {len(found)} documents")
        elif message.start != self.seq or not found >= self._history.touched(message.start, message.end):
            raise WrongError(f"squashed from {message.start} to {message.end} came at {self.seq}, and lacks documents")

    @property
    def is_exact(self) -> bool:
        """True if the events counted are those between where it began and where it is."""
        return self.seq is not None and self.began is not None and self.seq - self.began == self.events
