"""History of a run as seen from outside: every write that was tried, and every frame that a client was sent."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from support.chaos.long_text import shortened

Outcome = Literal["ok", "failed", "unknown"]
Via = Literal["api", "behind"]
Key = tuple[str, str]
"""A document: (collection, id text)."""

ALL = "*"
"""The id of an effect on whichever documents there are: a drop, what expires."""

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Effect:
    """One change of one document that a write makes. `mark` is the unique value of the field `mark`; None: a delete."""

    key: Key
    mark: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The API's answer about one effect. `doc` and `patch` are None where the answer has none."""

    id: str
    version: int
    etag: str | None = None
    doc: Mapping[str, Any] | None = None
    patch: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One write. Several effects: a transaction. `invoked` and `ended` are in seconds of one monotonic clock.

    `ok`: acknowledged by a majority. `failed`: refused, nothing may have happened. `unknown`: all or nothing.
    `operation` is also what the API was given as `Idempotency-Key`, where `keyed`. `answers`: one for each effect of an
    acknowledged write through the API. `required`: the version that its condition names; 0: that there is no document.
    """

    operation: str
    via: Via
    effects: tuple[Effect, ...]
    outcome: Outcome
    invoked: float
    ended: float
    at: float
    keyed: bool = False
    detail: str = ""
    answers: tuple[Answer, ...] = ()
    required: int | None = None

    def __str__(self) -> str:
        changed = [f"{'/'.join(effect.key)}={effect.mark or 'deleted'}" for effect in self.effects[:_SHOWN]]
        more = [f"{len(self.effects) - _SHOWN} more"] if len(self.effects) > _SHOWN else []
        return f"write {self.operation} ({self.via}, {self.outcome}) of {', '.join([*changed, *more])}"


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to a client about `shape`. `connect` is no message: what came before it was on another connection.

    `start` and `end` are positions (`from` and `to`; of a snapshot, `live` or `progress` only `end`).
    """

    client: str
    shape: str
    kind: str
    start: str | None = None
    end: str | None = None
    events: tuple[dict[str, Any], ...] = ()
    docs: tuple[dict[str, Any], ...] = ()
    last: bool = True
    at: float = 0.0

    def __str__(self) -> str:
        seqs = [event["seq"] for event in self.events]
        return f"{self.client} {self.kind} of {self.shape} from {self.start} to {self.end}, events {seqs}"


@dataclass(frozen=True, slots=True)
class History:
    """A whole run. `writes` in the order of their invocation; `frames` in the order of their arrival."""

    writes: tuple[Write, ...] = ()
    frames: tuple[Frame, ...] = ()

    def count(self, outcome: Outcome) -> int:
        return sum(write.outcome == outcome for write in self.writes)


@dataclass(slots=True)
class _Open:
    """A write between invocation and outcome."""

    via: Via
    effects: tuple[Effect, ...]
    keyed: bool
    required: int | None
    invoked: float
    at: float


class Recorder:
    """Collects a history. A write that never ends is unknown."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._open: dict[str, _Open] = {}
        self._writes: list[Write] = []
        self._frames: list[Frame] = []

    def invoke(
        self,
        operation: str,
        via: Via,
        effects: Iterable[Effect],
        *,
        keyed: bool = False,
        required: int | None = None,
    ) -> None:
        """A write begins. `operation` is unique."""
        assert operation not in self._open
        self._open[operation] = _Open(via, tuple(effects), keyed, required, time.monotonic(), time.time())

    def end(
        self,
        operation: str,
        outcome: Outcome,
        *,
        effects: Iterable[Effect] | None = None,
        detail: str = "",
        answers: Iterable[Answer] = (),
    ) -> None:
        """It is over. `effects` replaces those of the invocation: what is known only afterwards (nothing to delete)."""
        write = _write(operation, self._open.pop(operation), outcome, time.monotonic(), detail)
        final = write.effects if effects is None else tuple(effects)
        self._writes.append(replace(write, effects=final, answers=tuple(answers)))
        self.acknowledged += outcome == "ok"

    def frame(self, client: str, shape: str, message: dict[str, Any]) -> None:
        """A message of protocol.md has arrived, or `{"type": "connect"}`."""
        end = message.get("to") or message.get("position") or message.get("vector", {}).get(shape)
        self._frames.append(
            Frame(
                client=client,
                shape=shape,
                kind=message["type"],
                start=message.get("from"),
                end=end,
                events=tuple(shortened(event) for event in message.get("events", ())),
                docs=tuple(shortened(document) for document in message.get("docs", ())),
                last=message.get("last", True),
                at=time.time(),
            )
        )

    def history(self) -> History:
        """Everything up to now."""
        open_writes = (
            _write(operation, item, "unknown", math.inf, "never ended") for operation, item in self._open.items()
        )
        writes = sorted([*self._writes, *open_writes], key=lambda write: write.invoked)
        return History(tuple(writes), tuple(self._frames))


def _write(operation: str, item: _Open, outcome: Outcome, ended: float, detail: str) -> Write:
    return Write(
        operation,
        item.via,
        item.effects,
        outcome,
        item.invoked,
        ended,
        item.at,
        item.keyed,
        detail,
        required=item.required,
    )


def identity(write: Write, effect: Effect) -> str | None:
    """Return the name of an effect in the log; None for a delete behind the API, which carries no name."""
    if effect.mark is not None:
        return effect.mark
    return f"{write.operation} deletes {'/'.join(effect.key)}" if write.keyed else None


def identified(writes: Iterable[Write]) -> Iterator[tuple[str, Write]]:
    """Every effect with a name, and the write that it belongs to."""
    for write in writes:
        for effect in write.effects:
            if (name := identity(write, effect)) is not None:
                yield name, write
