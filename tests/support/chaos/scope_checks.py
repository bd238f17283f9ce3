"""Checks of declared shapes: each client is sent the events of its part of a collection, and of nothing else.

A part is the documents that MongoDB itself finds by a filter. Each state of each document is that of the log, which
other checks compare with MongoDB's oplog; what the log says about routes is not read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from support.chaos.client_checks import MOVING, STATES, by_client, seq_in, take
from support.chaos.evidence import Evidence, LogRow, Part, Violation
from support.chaos.history import Frame
from support.chaos.log_checks import UNFIT, State, states_at, step
from support.replica import Replica, log_of

_CONTENT = ("doc", "patch")
Event = Mapping[str, Any]


def check_scopes(evidence: Evidence) -> Iterator[Violation]:
    """Check each client of a declared shape: what it is sent and holds after each frame, and what it ends with."""
    clients = [frames for frames in by_client(evidence) if "?" in frames[0].shape]
    seqs = {seq_in(frame.end) for frames in clients for frame in frames if frame.kind in STATES}
    states, due = states_at(evidence.rows, seqs), _Due(evidence)
    for frames in clients:
        yield from _Client(evidence, due, states, frames).check()


class _Due:
    """The events of each part, as its followers have to see them."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._found: dict[str, list[Event]] = {}

    def between(self, part: Part, after: int, up_to: int) -> list[Event]:
        """Return the events with `after` < seq ≤ `up_to`."""
        if part.scope not in self._found:
            self._found[part.scope] = list(_counted(_seen(part, self._evidence.rows)))
        events = self._found[part.scope]
        return events[_index(events, after) : _index(events, up_to)]

    def transaction_goes_on(self, part: Part, seq: int) -> bool:
        """Return True if the part's event up to `seq` and the next one are of one transaction."""
        around = self.between(part, 0, seq)[-1:], self.between(part, seq, 2**63)[:1]
        marks = [event["txn"]["id"] for events in around for event in events if "txn" in event]
        return len(marks) == 2 and marks[0] == marks[1]


def _index(events: Sequence[Event], seq: int) -> int:
    return bisect_right(events, seq, key=lambda event: int(event["seq"]))


def _seen(part: Part, rows: Sequence[LogRow]) -> Iterator[dict[str, Any]]:
    state: State = {}
    for row in rows:
        if row.key[0] != part.collection:
            continue
        before = state.get(row.key)
        with suppress(*UNFIT):
            step(state, row.key, row.body)
        after = state.get(row.key)
        had, has = part.has(row.key, before), part.has(row.key, after)
        bare = {name: value for name, value in row.body.items() if name not in _CONTENT}
        if had and not has and after is not None:
            yield bare | {"op": "delete", "leave": True}
        elif has and not had and before is not None and after is not None:
            yield bare | {"op": "create", "enter": True, "doc": after[1]}
        elif had or has:
            yield dict(row.body)


def _counted(events: Iterator[dict[str, Any]]) -> Iterator[Event]:
    """Number the events of each transaction among themselves; one that is alone is no transaction."""
    found = list(events)
    of = Counter(event["txn"]["id"] for event in found if "txn" in event)
    n: Counter[str] = Counter()
    for event in found:
        if "txn" in event:
            name = event["txn"]["id"]
            n[name] += 1
            event["txn"] = {"id": name, "n": n[name], "of": of[name]}
            if of[name] == 1:
                del event["txn"]
        yield event


class _Client:
    """One client of one shape."""

    def __init__(self, evidence: Evidence, due: _Due, states: Mapping[int, State], frames: list[Frame]) -> None:
        self._evidence = evidence
        self._due = due
        self._states = states
        self._frames = frames
        self._shape = frames[0].shape
        self._replica = Replica(self._shape)
        self._resets = 0

    def check(self) -> Iterator[Violation]:
        for frame in self._frames:
            own = self._replica.position
            self._resets += frame.kind == "reset"
            misfit = take(self._replica, frame)
            if frame.kind in MOVING and frame.last and frame.end is not None:
                # A state that could not be taken has no other fault than that; an event has its own.
                yield from () if misfit and frame.kind in STATES else self._moved(frame, frame.end, own)
            if misfit:
                yield misfit
        # Each change of the definition, and nothing else, makes a client begin again.
        if self._resets > (most := self._evidence.changed.get(self._shape.partition("?")[0], 0)):
            text = f"{self._frames[0].client} was reset {self._resets} times, its shape was changed {most} times"
            yield Violation("scope", text, tuple(str(frame) for frame in self._frames if frame.kind == "reset"))
        if self._frames[-1].kind == "end":
            yield from self._ended(self._frames[-1])

    def _part(self, position: str | None) -> Part | None:
        part = self._evidence.parts.get(log_of(position or "").partition(".")[2])
        return part if part is not None and part.shape == self._shape else None

    def _moved(self, frame: Frame, end: str, own: str | None) -> Iterator[Violation]:
        part = self._part(end)
        if part is None:
            yield Violation("scope", f"{end} has the scope of no definition of {self._shape}", (str(frame),))
            return
        if frame.kind in STATES:
            yield from self._state(part, frame, own)
        elif own is not None:
            yield from self._events(part, frame, own)
        if self._due.transaction_goes_on(part, seq_in(end)):
            yield Violation("groups", f"{frame.client} was stopped within a transaction", (str(frame),))

    def _state(self, part: Part, frame: Frame, own: str | None) -> Iterator[Violation]:
        state = self._states.get(seq_in(frame.end), {})
        right = {key[1]: row for key, row in state.items() if part.has(key, row)}
        yield from _differences(f"a {frame.kind} state at {frame.end}", part, self._replica, right, frame)
        if frame.kind == "squashed":
            told = {event["id"] for event in self._due.between(part, seq_in(own), seq_in(frame.end))}
            for row in frame.docs:
                if row["id"] not in told and part.judges(row["id"]):
                    yield Violation("scope", f"a squashed document is of others: {row['id']}", (str(frame), str(row)))

    def _events(self, part: Part, frame: Frame, own: str) -> Iterator[Violation]:
        due = {event["seq"]: event for event in self._due.between(part, seq_in(own), seq_in(frame.end))}
        got = {event["seq"]: event for event in frame.events if event["seq"] > seq_in(own) and part.judges(event["id"])}
        for seq in sorted(due.keys() | got.keys()):
            if fault := _fault(due.get(seq), got.get(seq)):
                witness = (f"sent: {got.get(seq)}", f"due:  {due.get(seq)}", str(frame))
                yield Violation("scope", f"{frame.client} got {fault}", witness)

    def _ended(self, final: Frame) -> Iterator[Violation]:
        """Check what it holds in the end against the collection itself, and the definition that was declared last."""
        own, part = self._replica.position, self._part(self._replica.position)
        if part is None or not part.last:
            yield Violation(
                "scope", f"{final.client} ends at {own}, which is not of the last definition", (str(final),)
            )
        elif due := self._due.between(part, seq_in(own), seq_in(final.end) if final.end else 2**63):
            yield Violation("scope", f"{final.client} ends at {own}, without event {due[0]['seq']}", (str(due[0]),))
        else:
            later = {row.key[1] for row in self._evidence.rows if row.seq > seq_in(own)}
            right = {key[1]: row for key, row in part.of(self._evidence.source).items() if key[1] not in later}
            rows = {key: row for key, row in self._replica.rows.items() if key not in later}
            replica = Replica(self._shape, rows=rows)
            yield from _differences(f"{final.client} ends with a state that", part, replica, right, final)


def _differences(
    what: str, part: Part, replica: Replica, right: Mapping[str, object], frame: Frame
) -> Iterator[Violation]:
    """Yield the first document in which a replica is not what MongoDB finds."""
    for key in sorted(replica.rows.keys() | right.keys()):
        if replica.rows.get(key) != right.get(key) and part.judges(key):
            witness = (f"held:  {replica.rows.get(key)}", f"right: {right.get(key)}", str(frame))
            yield Violation("scope", f"{what} differs from what MongoDB finds in {key}", witness)
            return


def _fault(due: Event | None, got: Event | None) -> str | None:
    """Return what is wrong with an event that was sent, or is missing; None if it is right."""
    if got is None or due is None:
        event = due or got or {}
        kind = "enter" if "enter" in event else "leave" if "leave" in event else event["op"]
        return f"no {kind} of {event['id']}" if got is None else f"an event of others: {kind} of {event['id']}"
    if due == got:
        return None
    if due.get("leave") and any(name in got for name in _CONTENT):
        return f"the content of {due['id']}, which leaves"
    if due.get("txn") != got.get("txn"):
        return f"event {due['seq']} as part {got.get('txn')} of a transaction"
    return f"event {due['seq']} otherwise than it is due"
