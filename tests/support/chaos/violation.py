"""A promise that was broken, with the least that shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Promise = Literal[
    "density",  # the seqs of the one log are 1, 2, 3 …
    "survival",  # an acknowledged write is in the log
    "bijection",  # one event a change, and no event without a change
    "order",  # events stand in the order of their commits
    "chain",  # an event's base is the version before it
    "state",  # snapshot + events = source
    "groups",  # a transaction's events stand together, all of them, in one frame
    "client",  # what a client is sent is contiguous, never goes back, and ends at the source
    "answers",  # the API says what happened, never 500
    "progress",  # when the faults are over, everything arrives
]

_LINES = 10
_LINE = 600
"""What is printed of a witness. The evidence file has all of it."""


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
