"""Judges a run in which the log was destroyed or turned back on purpose, so that a new one had to begin.

Then nobody knows the outcome of single writes: the events of the logs before are gone, and with a restored backup so
are acknowledged writes. What still holds: the log that is there in the end is dense and is the collections; no client
continues from one log into another without a reset; within a log no client passes over anything; all end with the
collections.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from support.chaos import groups, numbering
from support.chaos.evidence import Evidence
from support.chaos.history import Frame
from support.chaos.violation import Violation
from support.replay import apply_patch

Row = tuple[int, Mapping[str, Any]]


def check(evidence: Evidence) -> Iterator[Violation]:
    """Check the last log, and then each client that stayed until the end."""
    last = evidence.rows[-1].log if evidence.rows else ""
    rows = [row for row in evidence.rows if row.log == last]
    yield from numbering.check(rows)
    yield from groups.check(rows)
    for difference in evidence.unverified:
        yield Violation("state", f"the product's own comparison fails: {difference}")
    clients: dict[tuple[str, str], list[Frame]] = defaultdict(list)
    for frame in evidence.history.frames:
        clients[frame.client, frame.shape].append(frame)
    for (name, shape), frames in clients.items():
        held = _Held(name, shape)
        for frame in frames:
            yield from held.take(frame)
        if frames[-1].kind == "end":
            yield from held.end(evidence)


class _Held:
    """The state of a client that follows the protocol."""

    def __init__(self, name: str, shape: str) -> None:
        self._name = name
        self._shape = shape
        self._position: str | None = None
        self._rows: dict[str, Row] = {}
        self._parts: list[Frame] = []

    def take(self, frame: Frame) -> Iterator[Violation]:
        if frame.kind in {"connect", "reset"}:
            self._parts = []
        if frame.kind == "reset":
            self._position, self._rows = None, {}
        elif frame.kind in {"snapshot", "squashed"}:
            self._parts = [*(part for part in self._parts if part.kind == frame.kind), frame]
            if frame.last:
                yield from self._whole(frame)
        elif frame.kind == "events":
            yield from self._events(frame)
        elif frame.kind in {"live", "progress"} and frame.end and self._position:
            yield from self._follows(frame, frame.end)
            self._position = frame.end

    def _whole(self, frame: Frame) -> Iterator[Violation]:
        docs = [row for part in self._parts for row in part.docs]
        self._parts = []
        if frame.kind == "squashed":
            yield from self._follows(frame, frame.start, hole=True)
        if self._position is not None:
            yield from self._follows(frame, frame.end)
        if frame.kind == "snapshot":
            self._rows = {}
        for row in docs:
            if row.get("deleted"):
                self._rows.pop(row["id"], None)
            else:
                self._rows[row["id"]] = row["version"], row["doc"]
        self._position = frame.end

    def _events(self, frame: Frame) -> Iterator[Violation]:
        yield from self._follows(frame, frame.start, hole=True)
        yield from self._follows(frame, frame.end)
        own = _seq(self._position)
        for event in frame.events:
            if event["seq"] > own:
                yield from self._apply(frame, event)
        self._position = frame.end

    def _apply(self, frame: Frame, event: Mapping[str, Any]) -> Iterator[Violation]:
        key, was = event["id"], self._rows.get(event["id"])
        try:
            if event["op"] == "delete":
                del self._rows[key]
            elif event["op"] == "update":
                self._rows[key] = event["version"], apply_patch(event["patch"], dict(self._rows[key][1]))
            else:
                self._rows[key] = event["version"], event["doc"]
        except (AssertionError, KeyError, IndexError, TypeError, ValueError) as error:
            witness = (str(frame), f"held: {was}", f"event: {dict(event)}")
            yield Violation("client", f"{self._name} can't apply event {event['seq']}: {error!r}", witness)

    def _follows(self, frame: Frame, position: str | None, *, hole: bool = False) -> Iterator[Violation]:
        """Check that a position is of the own log, and not before the own one; a `hole`: not behind it."""
        if position is None or self._position is None or _log(position) != _log(self._position):
            yield Violation("client", f"{self._name} at {self._position} was taken to {position}", (str(frame),))
        elif not hole and _seq(position) < _seq(self._position):
            yield Violation("client", f"{self._name} went back from {self._position}", (str(frame),))
        elif hole and _seq(position) > _seq(self._position):
            yield Violation("client", f"a hole: {self._name} is at {self._position}", (str(frame),))

    def end(self, evidence: Evidence) -> Iterator[Violation]:
        """Compare what is held with the collections.

        What is sequenced after the client's end is not waited for: a write without an answer may still be made.
        """
        own = self._position or ""
        later = {row.key for row in evidence.rows if row.log == _log(own) and row.seq > _seq(own)}
        collection, _, document = self._shape.partition("/")
        source = {
            key[1]: row for key, row in evidence.source.items() if key[0] == collection and document in {"", key[1]}
        }
        known = sorted(key for key in source.keys() | self._rows.keys() if (collection, key) not in later)
        for key in (key for key in known if source.get(key) != self._rows.get(key)):
            witness = (f"held:   {self._rows.get(key)}", f"source: {source.get(key)}")
            yield Violation("state", f"{self._name} ends at {self._position} with another {key}", witness)


def _log(position: str) -> str:
    return position.partition(":")[0]


def _seq(position: str | None) -> int:
    return int(position.partition(":")[2]) if position else 0
