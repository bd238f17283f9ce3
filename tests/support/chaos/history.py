"""History of a run as seen from outside: every write that was tried, and every frame that a client was sent."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

from pymongo.errors import PyMongoError

from eventsync.mongodb.errors import short

_LONG = 1000


def shortened(value: Any) -> Any:
    """The same JSON, with a fingerprint in the place of each long string: 15 MiB are compared as well by it."""
    if isinstance(value, str):
        return value if len(value) <= _LONG else f"{len(value)} characters, {sha256(value.encode()).hexdigest()}"
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    return [shortened(item) for item in value] if isinstance(value, list) else value


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
    part: int = 0

    @property
    def message(self) -> dict[str, Any]:
        """The message, as the protocol has it."""
        span = {"from": self.start, "to": self.end, "position": self.end, "vector": {self.shape: self.end}}
        rows = {"events": list(self.events), "docs": self.docs, "part": self.part, "last": self.last}
        return {"type": self.kind, **span, **rows}

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


class Recorder:
    """Collects a history. A write that never ends is unknown."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._writes: dict[str, Write] = {}
        self._frames: list[Frame] = []

    def invoke(
        self, operation: str, via: Via, effects: Iterable[Effect], *, keyed: bool = False, required: int | None = None
    ) -> None:
        """Record the beginning of a write. `operation` is unique."""
        assert operation not in self._writes
        self._writes[operation] = Write(
            operation, via, tuple(effects), "unknown", time.monotonic(), math.inf, time.time(), keyed, "never ended",
            required=required,
        )  # fmt: skip

    def end(self, operation: str, outcome: Outcome, *, effects: Iterable[Effect] | None = None, **found: Any) -> None:
        """Record the end of a write, with its `detail` and `answers`.

        `effects` replaces those of the invocation, where they are known only afterwards (nothing to delete).
        """
        write = self._writes[operation]
        final = write.effects if effects is None else tuple(effects)
        changes = {"detail": ""} | found
        self._writes[operation] = replace(write, outcome=outcome, ended=time.monotonic(), effects=final, **changes)
        self.acknowledged += outcome == "ok"

    @contextmanager
    def writing(
        self, operation: str, *effects: Effect, weak: bool = False, refused: tuple[type[PyMongoError], ...] = ()
    ) -> Iterator[None]:
        """Record a write by the driver around the block, which raises what the driver raises.

        What raises may have happened, except after an error of `refused`. What is `weak` may be rolled back.
        """
        self.invoke(operation, "behind", effects)
        outcome: Outcome = "unknown"
        detail = ""
        try:
            yield
            outcome = "unknown" if weak else "ok"
        except PyMongoError as error:
            outcome, detail = "failed" if isinstance(error, refused) else "unknown", short(error)
            raise
        finally:
            self.end(operation, outcome, detail=detail)

    def frame(self, client: str, shape: str, message: dict[str, Any]) -> None:
        """A message of protocol.md has arrived, or `{"type": "connect"}`."""
        end = message.get("to") or message.get("position") or message.get("vector", {}).get(shape)
        events, docs = (tuple(map(shortened, message.get(name, ()))) for name in ("events", "docs"))
        whole = {name: message[name] for name in ("part", "last") if name in message}
        start, at = message.get("from"), time.time()
        self._frames.append(Frame(client, shape, message["type"], start, end, events, docs, at=at, **whole))

    def history(self) -> History:
        return History(tuple(self._writes.values()), tuple(self._frames))


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
