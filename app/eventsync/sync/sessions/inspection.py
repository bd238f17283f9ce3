"""Inspection of one session: what passes between it and its client, and why, in bounded memory.

An inspection is the observer of its session. What it notes has no content of documents: kinds, shapes, positions,
numbers and sizes, and the names of the fields that redaction has removed. These are found when somebody reads the
notes, and not while events are delivered.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from eventsync.concurrency.slices import Slices
from eventsync.concurrency.token_bucket import TokenBucket
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.access.removals import removed_fields
from eventsync.domain.plan import Answer, CostComparison
from eventsync.domain.positions import Position
from eventsync.domain.protocol import Request, Subscribe, Unsubscribe
from eventsync.domain.shapes import Shape
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.live.followed import entered_document
from eventsync.sync.live.window import Window
from eventsync.sync.sessions.session import Session
from eventsync.sync.sessions.subscription import Extent, OutboundMessage, PlanDecision

NOTES: Final = 300
"""Notes that are kept, the newest ones."""

RATE: Final = 50.0
"""Notes a second. What comes faster is counted and left out."""

MAX_SHAPES: Final = 20
"""Most shapes that an inspection describes."""

_BURST: Final = 2.0
_LONGEST: Final = 256
"""Characters of a shape's text that are shown."""

_SEARCHED_EVENTS: Final = 50
"""Events of one message in which removed fields are looked for."""

_SEARCHED_BYTES: Final = 64 * 1024
"""Size of a body up to which removed fields are looked for."""

_PASSED_WORK: Final = 64
"""Cost of passing an event on the way from the head of the window to those of a message, in bytes of work."""

_NAMES: Final = 20
"""Most removed fields that a note names."""


@dataclass(slots=True)
class Note:
    """One message or request, or a plan. `extent` is dropped once the removed fields are known."""

    n: int
    fields: dict[str, Any]
    extent: Extent | None = None


@dataclass(slots=True)
class LeftOut:
    """Counts of the messages that were too many to be noted since the inspection began."""

    messages: int = 0
    events: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Inspection:
    """The notes about one session. It begins with the session as it is: with the newest plan of each shape."""

    session: Session
    window: Window
    has_ended: bool = False
    began: float = field(default_factory=time.time)
    left_out: LeftOut = field(default_factory=LeftOut)
    _notes: deque[Note] = field(default_factory=lambda: deque(maxlen=NOTES))
    _count: int = 0
    _bucket: TokenBucket = field(default_factory=lambda: TokenBucket(RATE, seconds=_BURST))
    _decisions: dict[Shape, PlanDecision] = field(default_factory=dict)
    _at_end: list[dict[str, Any]] = field(default_factory=list)

    def begin(self) -> None:
        """Observe the session."""
        for subscription in self.session.subscriptions:
            if subscription.decisions:
                self._decisions[subscription.shape] = subscription.decisions[-1]
        self.session.observe(self)

    def close(self) -> None:
        """End the observation. The notes stay."""
        if not self.has_ended:
            self.ended()
            self.session.observe(None)

    # --- the observer ---------------------------------------------------------------------------------------------

    def sent(self, message: OutboundMessage) -> None:
        """Note a message that the connection has accepted."""
        extent = message.extent
        if extent is not None:
            self._note_decision(extent.shape)
        self._note(message.kind, sum(map(len, message.pieces)), extent)

    def received(self, request: Request) -> None:
        """Note a request of the client."""
        extent = Extent(request.shape) if isinstance(request, Subscribe | Unsubscribe) else None
        self._note(type(request).__name__.lower(), None, extent, direction="in")

    def ended(self) -> None:
        """Note that the session has ended."""
        self._at_end = self._shapes()
        self.has_ended = True

    def observed(self, writer: DirectWriter) -> DirectWriter:
        """Return a writer that does the same, and notes what it writes."""
        observed = _ObservedWriter(writer, self._published)
        return DirectWriter(observed.encode, observed.write)

    def _published(self, publication: Publication) -> None:
        shape, end = publication.shape, publication.end
        extent = Extent(shape, Position(end.log, publication.start), end, publication.events)
        self._note("events", len(publication.data), extent, is_direct=True)

    def _note_decision(self, shape: Shape) -> None:
        decisions, known = self.session.decisions(shape), self._decisions.get(shape)
        if not decisions or decisions[-1] is known:
            return
        self._decisions[shape] = decisions[-1]
        for decision in decisions:
            if (known is None or decision.at > known.at) and self._bucket.take():
                self._add({"kind": "plan", "shape": short_text(str(shape)), "why": why(decision)}, None, decision.at)

    def _note(
        self, kind: str, size: int | None, extent: Extent | None, *, direction: str = "out", is_direct: bool = False
    ) -> None:
        if not self._bucket.take():
            self.left_out.messages += 1
            self.left_out.events += 0 if extent is None else extent.events
            self.left_out.bytes += size or 0
            return
        fields: dict[str, Any] = {"kind": kind, "direction": direction, "bytes": size}
        if extent is not None:
            fields |= {
                "shape": short_text(str(extent.shape)),
                "from": None if extent.start is None else str(extent.start),
                "to": None if extent.end is None else str(extent.end),
            }
            if kind == "events":
                fields |= {"events": extent.events, "direct": is_direct}
            if extent.part is not None:
                fields |= {"part": extent.part, "last": extent.last}
        self._add(fields, extent if kind == "events" else None, time.time())

    def _add(self, fields: dict[str, Any], extent: Extent | None, at: float) -> None:
        self._count += 1
        self._notes.append(Note(self._count, {"n": self._count, "at": round(at, 3)} | fields, extent))

    # --- reading ----------------------------------------------------------------------------------------------------

    async def tree(self, after: int = 0) -> dict[str, Any]:
        """Return the notes after one of them, and how many of these are not kept any more.

        A number beyond the newest note is of an earlier inspection: then all notes are returned.
        """
        slices, after = Slices(), after if after <= self._count else 0
        for note in list(self._notes):
            if note.extent is not None:
                extent, note.extent = note.extent, None
                removed, size = _removed(self.window, extent)
                if removed is not None:
                    note.fields["removed"] = removed
                await slices.did(size)
        kept = [note.fields for note in self._notes if note.n > after]
        return {
            "state": "ended" if self.has_ended else "running",
            "since": round(self.began, 3),
            "next": self._count,
            "missed": self._count - after - len(kept),
            "left_out": asdict(self.left_out),
            "shapes": self._at_end if self.has_ended else self._shapes(),
            "frames": kept,
        }

    def _shapes(self) -> list[dict[str, Any]]:
        vector = self.session.vector
        return [
            {
                "shape": short_text(str(each.shape)),
                "position": str(vector[each.shape]) if each.shape in vector else None,
                "hidden": _hidden(each.shape),
                "plans": [why(decision) for decision in each.decisions],
            }
            for each in self.session.subscriptions[:MAX_SHAPES]
        ]


class _ObservedWriter:
    """The direct writer of one observed connection. Its encoder is its own, so no other connection shares it."""

    def __init__(self, writer: DirectWriter, note: Any) -> None:
        self._writer = writer
        self._note = note
        self._publication: Publication | None = None

    def encode(self, publication: Publication) -> bytes:
        self._publication = publication
        return self._writer.encode(publication)

    def write(self, data: bytes) -> bool:
        if not self._writer.write(data):
            return False
        if self._publication is not None:
            self._note(self._publication)
        return True


def _removed(window: Window, extent: Extent) -> tuple[dict[str, Any] | None, int]:
    """Return the fields that redaction has removed from the events of a message, and the work to find them, in bytes.

    None if nothing is hidden from the shape's readers, or if the events are not in the window any more.
    """
    shape, start, end = extent.shape, extent.start, extent.end
    redaction = None if shape.route is None else shape.route.redaction
    if redaction is None or start is None or end is None or not window.covers(start.seq, shape):
        return None, 0
    found: Counter[str] = Counter()
    searched, size = 0, _PASSED_WORK * (window.head - start.seq)
    for event, transition in window.originals(shape, start.seq, end.seq):
        if searched >= _SEARCHED_EVENTS:
            break
        entered = entered_document(event)
        if len(event.body) + len(entered or b"") <= _SEARCHED_BYTES:
            found += removed_fields(event.body, transition, entered, redaction)
            searched, size = searched + 1, size + len(event.body)
    return {"fields": dict(found.most_common(_NAMES)), "searched": searched}, size


def _hidden(shape: Shape) -> list[str]:
    redaction = None if shape.route is None else shape.route.redaction
    return redaction.paths[:_NAMES] if isinstance(redaction, Redaction) else []


def short_text(text: str) -> str:
    """Return the beginning of a shape's text, which may have 16 KiB; a short text as it is."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# --- plans -----------------------------------------------------------------------------------------------------------


def why(decision: PlanDecision) -> dict[str, Any]:
    """Return why an answer was chosen: the numbers that the planner had."""
    plan, position = decision.plan, decision.position
    compared = plan.compared
    tree: dict[str, Any] = {
        "answer": plan.answer.value,
        "reset": None if plan.reset is None else plan.reset.value,
        "at": round(decision.at, 3),
        "from": None if position is None else str(position),
        "reason": _reason(decision),
        "source": _source(decision),
        "avoided": sorted(answer.value for answer in decision.avoided),
    }
    return tree if compared is None else tree | _numbers(compared)


def _reason(decision: PlanDecision) -> str:
    plan, compared = decision.plan, decision.plan.compared
    if plan.reset is not None:
        return "reset"
    if decision.position is None:
        return "no_position"
    if decision.is_windowed:
        return "in_window"
    if compared is not None and len(compared.exact) == 1:
        return "only_exact"
    if compared is not None and len(compared.exact - decision.avoided) == 1:
        return "others_failed"
    return "cheapest"


def _source(decision: PlanDecision) -> str | None:
    """Return where the answer comes from: `window`, `hot` (MongoDB) or `archive`; None if that is not decided yet."""
    if decision.is_windowed:
        return "window"
    compared = decision.plan.compared
    if compared is None or decision.position is None or decision.plan.answer is not Answer.EVENTS:
        return None
    return "archive" if decision.position.seq < compared.servable.archived_up_to else "hot"


def _numbers(compared: CostComparison) -> dict[str, Any]:
    backlog, stored = compared.backlog, compared.stored
    costs: Mapping[Answer, float] = compared.costs
    return {
        "behind": {
            "log_events": backlog.passed,
            "events": backlog.events,
            "bytes": backlog.bytes,
            "documents": backlog.touched,
        },
        "costs": {answer.value: round(cost) for answer, cost in costs.items()},
        "possible": sorted(answer.value for answer in compared.exact),
        "collection": {"documents": compared.size.documents, "bytes": compared.size.bytes},
        "stored_snapshot": None if stored is None else {"seq": stored.seq, "documents": stored.size.documents},
        "horizon": compared.servable.horizon,
        "archived_up_to": compared.servable.archived_up_to,
    }
