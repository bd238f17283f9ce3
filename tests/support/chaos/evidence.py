"""Evidence after a run: the log's rows, the commits of MongoDB's oplog, and the collections themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from bson.timestamp import Timestamp

from eventsync.domain.events import NO_COLLECTION, TransactionPart
from support.chaos.history import History, Key

Kind = Literal["create", "change", "delete"]


@dataclass(frozen=True, slots=True)
class LogRow:
    """One event as it is stored. `body` is its JSON, read; `token` and `time` are those of the change it came from."""

    log: str
    seq: int
    key: Key
    token: str
    time: Timestamp
    body: Mapping[str, Any]
    group: TransactionPart | None = None
    found: bool = False
    """It came from no change, but was found by a comparison: its token is a high-water mark of the stream."""

    @property
    def kind(self) -> Kind:
        op = self.body["op"]
        return op if op in {"create", "delete"} else "change"

    @property
    def mark(self) -> str | None:
        """The value that this event gives the field `mark`; None where it gives none."""
        found: str | None = self.body.get("doc", {}).get("mark")
        for operation in self.body.get("patch", ()):
            if operation["path"] == "/mark":
                found = operation.get("value")
        return found

    @property
    def identity(self) -> str | None:
        """The name of its effect, as `history.identity` gives it; None for a delete by the driver."""
        if self.body["op"] == "delete":
            operation = self.body.get("op_id")
            return None if operation is None else f"{operation} deletes {'/'.join(self.key)}"
        return self.mark or f"an unmarked change of {'/'.join(self.key)}"

    def __str__(self) -> str:
        body = {name: self.body.get(name) for name in ("op", "base", "version", "op_id", "txn") if name in self.body}
        return f"event {self.log}:{self.seq} {'/'.join(self.key)} mark={self.mark} time={_time(self.time)} {body}"


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed change of one document. `transaction` names what it was committed with, if anything.

    `whole`: its whole collection was dropped or renamed. Such commits of one time have no order among themselves.
    """

    time: Timestamp
    key: Key
    kind: Kind
    mark: str | None
    transaction: str | None = None
    whole: bool = False

    def __str__(self) -> str:
        return f"commit at {_time(self.time)}: {self.kind} {'/'.join(self.key)} mark={self.mark}"


Source = Mapping[Key, tuple[int, Mapping[str, Any]]]
"""The collections at the end: document → (version, JSON form without `_sync`)."""


UNDECIDED = ("bulk", "odd")
"""A document that the product may not be able to read: it then belongs to no part, whatever MongoDB finds."""


@dataclass(frozen=True, slots=True)
class Part:
    """A declared shape by one definition. `documents`: the JSON of each state that MongoDB finds by the filter.

    `scope` names it in positions. `last`: this definition was declared last.
    """

    shape: str
    collection: str
    scope: str
    documents: frozenset[bytes]
    last: bool = True

    def has(self, key: Key, state: tuple[int, Mapping[str, Any]] | None) -> bool:
        """Return True if a document in this state (None: there is none) belongs to it."""
        if state is None or key[0] != self.collection or not self.judges(key[1]):
            return False
        return orjson.dumps(state[1]) in self.documents

    def judges(self, document: str) -> bool:
        """Return True unless this document may be in it or not."""
        return (self.collection, document) != UNDECIDED

    def of(self, source: Source) -> Source:
        """Return what belongs to it."""
        return {key: state for key, state in source.items() if self.has(key, state)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the checker judges by. `rows` come log after log, each in the order of seq.

    `commits` is None where the oplog does not reach back to the beginning. `repairs` is how often a worker has recorded
    that it repairs the log. `sometimes`: the collections that were tracked at some times only, with the number of times
    that this was asked for. `unverified` is what the product's own comparison of log and collections has found.
    `parts`: by scope; `changed`: how often the definition of each declared shape was. `archived`: so many of the rows
    are of the archive.
    """

    history: History
    rows: tuple[LogRow, ...]
    source: Source
    commits: tuple[Commit, ...] | None = None
    repairs: int = 0
    sometimes: Mapping[str, int] = field(default_factory=dict)
    unverified: tuple[str, ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    archived: int = 0

    @property
    def changes(self) -> tuple[LogRow, ...]:
        """The rows of documents' changes."""
        return tuple(row for row in self.rows if row.key[0] != NO_COLLECTION)


def _time(time: Timestamp) -> str:
    return f"{time.time}.{time.inc}"


Promise = Literal[
    "density",  # the seqs of the one log are 1, 2, 3 …
    "survival",  # an acknowledged write is in the log
    "bijection",  # one event a change, and no event without a change
    "order",  # events stand in the order of their commits
    "chain",  # an event's base is the version before it
    "state",  # snapshot + events = source
    "groups",  # a transaction's events stand together, all of them, in one frame
    "client",  # what a client is sent is contiguous, never goes back, and ends at the source
    "scope",  # a client of a declared shape is sent and holds its part of a collection, and nothing else
    "answers",  # the API says what happened, never 500
    "leak",  # a principal is sent nothing that it may not see
    "silence",  # nothing is sent by a credential that has ended
    "permission",  # no write is done that the rules do not allow
    "obedience",  # every server obeys other rules, and revocations, within a moment
    "allowed",  # what the rules allow is not refused, and arrives
    "progress",  # when the faults are over, everything arrives
]

_LINES = 10
_LINE = 600
"""Maximum of a witness that is printed. The evidence file has all of it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """`witness`: the writes, commits, events or frames, as text, that contradict each other."""

    promise: Promise
    message: str
    witness: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [line if len(line) <= _LINE else f"{line[:_LINE]} …" for line in self.witness[:_LINES]]
        more = [f"… and {len(self.witness) - _LINES} more"] if len(self.witness) > _LINES else []
        return "\n    ".join([f"{self.promise}: {self.message}", *lines, *more])
