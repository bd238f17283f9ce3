"""Positions in the log of a shape, and the text forms of state vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote

_LONG: Final = 1024
"""Longest text form that names its shapes, in characters; a longer one has positions only."""


class Position(NamedTuple):
    """A point in a log: everything up to and including `seq` is applied. The log may have a scope behind a dot."""

    log: str
    seq: int

    def __str__(self) -> str:
        return f"{self.log}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read the text form, `k3f9ab2c:128`. Raises `ValueError`."""
        log, colon, seq = text.rpartition(":")
        if not colon or not log or not (seq.isascii() and seq.isdigit()):
            raise ValueError(f"{text[:64]!r} is not a position")
        return cls(log, int(seq))

    def is_past(self, barrier: Position) -> bool | None:
        """Return True at or past a barrier, which has no scope; None if it is of another log."""
        return self.seq >= barrier.seq if self.log.partition(".")[0] == barrier.log else None

    def reaches(self, other: Position) -> bool:
        """Return True if `other` is in the same log, and not beyond this position."""
        return self.log == other.log and other.seq <= self.seq


def vector_text(shapes: Sequence[str], vector: Mapping[str, str]) -> str:
    """Return a state vector for a URL that names the shapes; a long one has only their positions, in that order."""
    named = "&".join(f"{quote(shape, safe='')}={vector[shape]}" for shape in shapes if shape in vector)
    if len(named) <= _LONG:
        return named
    items, log = [], ""
    for shape in shapes:
        if shape not in vector:
            items.append("")
            continue
        position = Position.parse(vector[shape])
        items.append(str(position.seq) if position.log == log else str(position))
        log = position.log
    return ",".join(items)
