"""Checks of the frames that clients received: against the log, and where a new log had to begin."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from support.chaos.evidence import Evidence, LogRow, Violation
from support.chaos.history import Frame, Key
from support.chaos.log_checks import UNFIT, State, check_numbers, check_transactions, states_at, torn
from support.replica import Replica, log_of

STATES = frozenset({"snapshot", "squashed"})
MOVING = STATES | {"events", "live", "progress"}
"""Frames with a position that the client then has."""


def check_clients(evidence: Evidence) -> Iterator[Violation]:
    """Check each client's frames: contiguous, never backwards, whole transactions, and the source in the end."""
    states = states_at(evidence.rows, {seq_in(frame.end) for frame in evidence.history.frames if frame.kind in STATES})
    for frames in by_client(evidence):
        if "?" not in frames[0].shape:  # a declared shape is for `check_scopes`
            yield from _Client(evidence.rows, states, frames).check()


def check_renewed(evidence: Evidence) -> Iterator[Violation]:
    """Check a run in which the log was destroyed or turned back on purpose: the last log, and each client.

    The fate of single writes can't be checked: the events of earlier logs are gone, and with a restored backup so are
    acknowledged writes. These promises hold still: the last log is dense and equals the collections; a client changes
    logs only by a reset; within a log it misses nothing; and it ends with the collections.
    """
    last = evidence.rows[-1].log if evidence.rows else ""
    rows = [row for row in evidence.rows if row.log == last]
    yield from check_numbers(rows)
    yield from check_transactions(rows)
    for difference in evidence.unverified:
        yield Violation("state", f"the product's own comparison fails: {difference}")
    for frames in by_client(evidence):
        replica = Replica(frames[0].shape)
        misfits = filter(None, (take(replica, frame) for frame in frames))
        yield from misfits
        if frames[-1].kind == "end":
            yield from _final_state(frames[0].client, replica, evidence)


def by_client(evidence: Evidence) -> list[list[Frame]]:
    found: dict[tuple[str, str], list[Frame]] = defaultdict(list)
    for frame in evidence.history.frames:
        found[frame.client, frame.shape].append(frame)
    return list(found.values())


def take(replica: Replica, frame: Frame) -> Violation | None:
    """Have a replica take a frame; return a violation where that breaks the protocol."""
    try:
        if frame.kind == "connect":
            replica.disconnected()
        elif frame.kind != "end":
            replica.take(frame.message)
    except UNFIT as error:
        message = f"{frame.client} at {replica.position} can't take a frame: {error!r}"
        return Violation("client", message, (str(frame),))
    return None


def _final_state(client: str, replica: Replica, evidence: Evidence) -> Iterator[Violation]:
    """Compare what a client holds with the collections, except what was sequenced after its end."""
    own = replica.position or ""
    log, _, scope = log_of(own).partition(".")
    later = {row.key[1] for row in evidence.rows if row.log == log and row.seq > seq_in(own)}
    part = evidence.parts.get(scope)
    source = evidence.source if part is None else part.of(evidence.source)
    for key, row in _differences(replica, source):
        if key not in later:
            witness = (f"held:   {replica.rows.get(key)}", f"source: {row}")
            yield Violation("state", f"{client} ends at {replica.position} with another {key}", witness)


def _differences(replica: Replica, state: State | Mapping[Key, object]) -> Iterator[tuple[str, object]]:
    """Yield the id of each document that a replica holds in another state, and the right state."""
    right = {key[1]: row for key, row in state.items() if _belongs(key, replica.shape)}
    for key in sorted(replica.rows.keys() | right.keys()):
        if replica.rows.get(key) != right.get(key):
            yield key, right.get(key)


class _Client:
    """One client of one shape, compared with the log: its state where it gets states, else event by event."""

    def __init__(self, rows: Sequence[LogRow], states: Mapping[int, State], frames: list[Frame]) -> None:
        self._replica = Replica(frames[0].shape)
        self._frames = frames
        self._states = states
        self._logs = {row.log for row in rows}
        self._rows = [row for row in rows if _belongs(row.key, frames[0].shape)]
        self._seqs = [row.seq for row in self._rows]
        self._torn = torn(self._rows)

    def check(self) -> Iterator[Violation]:
        for frame in self._frames:
            own = self._replica.position
            if frame.kind == "reset":
                yield Violation("client", f"{frame.client} was reset at {own}: its log id must not change")
            if misfit := take(self._replica, frame):
                yield misfit
            elif frame.kind in MOVING and frame.last and frame.end is not None:
                yield from self._position(frame, frame.end)
                yield from self._state(frame) if frame.kind in STATES else self._events(frame, own)
        final = self._frames[-1]
        # What is sequenced after it was to end (something expires) is not waited for.
        ends = bisect_right(self._seqs, seq_in(final.end)) if final.end else len(self._seqs)
        last = self._seqs[ends - 1] if ends else 0
        if final.kind == "end" and (self._replica.position is None or seq_in(self._replica.position) < last):
            message = f"{final.client} ended at {self._replica.position}, its shape's last event is {last}"
            yield Violation("client", message, (str(self._frames[-2]),))

    def _position(self, frame: Frame, end: str) -> Iterator[Violation]:
        """A position is of the log, and within no transaction."""
        if log_of(end) not in self._logs and seq_in(end) > 0:
            yield Violation("client", f"{end} is of no known log", (str(frame),))
        index = bisect_right(self._seqs, seq_in(end))
        if index and (row := self._torn.get(self._seqs[index - 1])):
            yield Violation("groups", f"{frame.client} was stopped within a transaction", (str(frame), str(row)))

    def _state(self, frame: Frame) -> Iterator[Violation]:
        for key, row in _differences(self._replica, self._states.get(seq_in(frame.end), {})):
            witness = (f"held: {self._replica.rows.get(key)}", f"log:  {row}")
            yield Violation("state", f"a {frame.kind} state at {frame.end} differs from the log in {key}", witness)
            return

    def _events(self, frame: Frame, own: str | None) -> Iterator[Violation]:
        """Yield a violation where the new events are not the log's up to the frame's end: none with a bare position."""
        if own is None:
            return
        new = [event for event in frame.events if event["seq"] > seq_in(own)]
        rows = self._rows[bisect_right(self._seqs, seq_in(own)) : bisect_right(self._seqs, seq_in(frame.end))]
        got, due = [event["seq"] for event in new], [row.seq for row in rows]
        if got != due:
            message = f"{frame.client} at {own} got {got} by {frame.kind}; the log has {due} up to {frame.end}"
            yield Violation("client", message, (str(frame), *map(str, rows[:1])))
            return
        for event, row in zip(new, rows, strict=True):
            if event != row.body:
                witness = (f"sent: {event}", f"log:  {dict(row.body)}")
                yield Violation("client", f"event {row.seq} was sent otherwise than it is stored", witness)


def _belongs(key: Key, shape: str) -> bool:
    if "?" in shape:  # the state is that of its part alone
        return True
    collection, _, document = shape.partition("/")
    return key[0] == collection and document in {"", key[1]}


def seq_in(position: str | None) -> int:
    return int(position.partition(":")[2]) if position else 0
