"""Frames against the log: contiguous, never backwards, whole groups, and at the end the source."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from support.chaos.evidence import Evidence, LogRow
from support.chaos.groups import torn
from support.chaos.history import Frame, Key
from support.chaos.replaying import State, states_at
from support.chaos.violation import Violation

_STATES = frozenset({"snapshot", "squashed"})


def check(evidence: Evidence) -> Iterator[Violation]:
    """Each client's frames, one client after the other."""
    followed: dict[tuple[str, str], list[Frame]] = defaultdict(list)
    for frame in evidence.history.frames:
        followed[frame.client, frame.shape].append(frame)
    snapshots = {_seq(frame.end) for frame in evidence.history.frames if frame.kind in _STATES}
    log = _Log(evidence, states_at(evidence.rows, snapshots))
    for frames in followed.values():
        yield from _Client(log, frames).check()


class _Log:
    """The log as clients should see it."""

    def __init__(self, evidence: Evidence, states: Mapping[int, State]) -> None:
        self.rows = evidence.rows
        self.states = states
        self.ids = {row.log for row in evidence.rows}


class _Client:
    """One client's view of one shape. Its state is not applied, but compared event by event: the log is replayed."""

    def __init__(self, log: _Log, frames: list[Frame]) -> None:
        self._log = log
        self._frames = frames
        self._position: str | None = None
        self._parts: list[Frame] = []
        shape = frames[0].shape
        self._rows = [row for row in log.rows if _belongs(row.key, shape)]
        self._seqs = [row.seq for row in self._rows]
        self._torn = torn(self._rows)

    def check(self) -> Iterator[Violation]:
        for frame in self._frames:
            take = getattr(self, f"_{frame.kind}", None)
            if take is not None:
                yield from take(frame)
        first, final = self._frames[0], self._frames[-1]
        # What is sequenced after it was to end (something expires) is not waited for.
        ends = bisect_right(self._seqs, _seq(final.end)) if final.end else len(self._seqs)
        last = self._seqs[ends - 1] if ends else 0
        if final.kind == "end" and (self._position is None or _seq(self._position) < last):
            message = f"{first.client} ended at {self._position}, its shape's last event is {last}"
            yield Violation("client", message, (str(self._frames[-2]),))

    def _connect(self, _frame: Frame) -> Iterator[Violation]:
        self._parts = []
        yield from ()

    def _reset(self, frame: Frame) -> Iterator[Violation]:
        yield Violation("client", f"{frame.client} was reset at {self._position}: its log id must not change")
        self._position, self._parts = None, []

    def _snapshot(self, frame: Frame) -> Iterator[Violation]:
        self._parts = [*(part for part in self._parts if part.kind == "snapshot"), frame]
        if not frame.last:
            return
        docs = [row for part in self._parts for row in part.docs]
        self._parts = []
        seq = _seq(frame.end)
        yield from self._forward(frame)
        state = {key: row for key, row in self._log.states.get(seq, {}).items() if _belongs(key, frame.shape)}
        collection = frame.shape.partition("/")[0]
        given = {(collection, row["id"]): (row["version"], row["doc"]) for row in docs}
        if len(given) < len(docs):
            yield Violation("client", f"a snapshot at {frame.end} has a document twice", (str(frame),))
        for key in sorted(key for key in given.keys() | state.keys() if given.get(key) != state.get(key)):
            witness = (f"snapshot: {given.get(key)}", f"log:      {state.get(key)}")
            yield Violation("state", f"a snapshot at {frame.end} differs from the log in {'/'.join(key)}", witness)
            return

    def _squashed(self, frame: Frame) -> Iterator[Violation]:
        """Each document that was touched in between, as it is at the end; others do no harm if they are right."""
        self._parts = [*(part for part in self._parts if part.kind == "squashed"), frame]
        if not frame.last:
            return
        given = {row["id"]: row for part in self._parts for row in part.docs}
        self._parts = []
        own, end = _seq(self._position), _seq(frame.end)
        if self._position is None or _seq(frame.start) > own:
            yield Violation("client", f"a hole: {frame.client} is at {self._position}", (str(frame),))
        collection, state = frame.shape.partition("/")[0], self._log.states.get(end, {})
        for text in {row.key[1] for row in self._between(own, end)} | given.keys():
            row = given.get(text)
            told = None if row is None or row.get("deleted") else (row["version"], row["doc"])
            if row is None or told != state.get((collection, text)):
                witness = (f"squashed: {row}", f"log:      {state.get((collection, text))}")
                yield Violation("state", f"squashed to {frame.end}, {collection}/{text} is not as in the log", witness)
                return
        yield from self._forward(frame)

    def _events(self, frame: Frame) -> Iterator[Violation]:
        if self._position is None:
            yield Violation("client", "events came before a snapshot", (str(frame),))
            return
        own, end = _seq(self._position), _seq(frame.end)
        if _seq(frame.start) > own:
            yield Violation("client", f"a hole: {frame.client} is at {own}", (str(frame),))
        if any(a["seq"] >= b["seq"] for a, b in pairwise(frame.events)):
            yield Violation("client", "the events of a frame are not in order", (str(frame),))
        new = [event for event in frame.events if event["seq"] > own]
        yield from self._compare(frame, new, self._between(own, end))
        yield from self._forward(frame)

    def _compare(self, frame: Frame, new: list[dict[str, Any]], rows: list[LogRow]) -> Iterator[Violation]:
        got, due = [event["seq"] for event in new], [row.seq for row in rows]
        if got != due:
            message = f"{frame.client} at {self._position} got {got}; the log has {due} up to {frame.end}"
            yield Violation("client", message, (str(frame),))
            return
        for event, row in zip(new, rows, strict=True):
            if event != row.body:
                witness = (f"sent: {event}", f"log:  {dict(row.body)}")
                yield Violation("client", f"event {row.seq} was sent otherwise than it is stored", witness)

    def _live(self, frame: Frame) -> Iterator[Violation]:
        yield from self._unseen(frame)
        yield from self._forward(frame)

    _progress = _live

    def _unseen(self, frame: Frame) -> Iterator[Violation]:
        """A position without events says that there were none."""
        if frame.end is None or self._position is None:
            return
        if passed := self._between(_seq(self._position), _seq(frame.end)):
            message = f"{frame.client} at {self._position} was sent {frame.end} past events that it has not got"
            yield Violation("client", message, (str(frame), str(passed[0])))

    def _between(self, after: int, up_to: int) -> list[LogRow]:
        """The shape's events with `after < seq <= up_to`."""
        return self._rows[bisect_right(self._seqs, after) : bisect_right(self._seqs, up_to)]

    def _stopped_before(self, seq: int) -> LogRow | None:
        """Return the next event of a transaction that a stop at `seq` would cut; None if it cuts none."""
        index = bisect_right(self._seqs, seq)
        return self._torn.get(self._seqs[index - 1]) if index else None

    def _forward(self, frame: Frame) -> Iterator[Violation]:
        """Take the frame's end as the own position."""
        if frame.end is None:
            return
        if frame.end.partition(":")[0] not in self._log.ids and _seq(frame.end) > 0:
            yield Violation("client", f"{frame.end} is of no known log", (str(frame),))
        if self._position is not None and _seq(frame.end) < _seq(self._position):
            yield Violation("client", f"{frame.client} went back from {self._position}", (str(frame),))
        if row := self._stopped_before(_seq(frame.end)):
            yield Violation("groups", f"{frame.client} was stopped within a transaction", (str(frame), str(row)))
        if self._position is not None or frame.kind == "snapshot":
            self._position = frame.end


def _belongs(key: Key, shape: str) -> bool:
    collection, _, document = shape.partition("/")
    return key[0] == collection and document in {"", key[1]}


def _seq(position: str | None) -> int:
    return int(position.partition(":")[2]) if position else 0
