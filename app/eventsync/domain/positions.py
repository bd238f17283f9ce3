"""Positions in the event log, and the state vectors made of them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NewType
from urllib.parse import parse_qsl, quote

from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed

LogId = NewType("LogId", str)
"""One incarnation of a stream's numbering: 8 lowercase letters and digits, never used again.

A shape with parameters is a log of its own to its clients: the id has a scope behind a dot (`scoped`).
"""

Seq = NewType("Seq", int)
"""An event's number in its log: 1, 2, 3 … without a gap. 0 is before the first event."""

START: Final = Seq(0)
"""Before the first event."""

_POSITION = re.compile(r"([a-z0-9]{1,32}(?:\.[0-9a-f]{8})?):(0|[1-9][0-9]{0,18})", re.ASCII)
_FIRST: Final = "ghijklmnopqrstuvwxyz"
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def new_log_id() -> LogId:
    """Return a new random log id. It does not begin like a scope: see `vector_from_short`."""
    return LogId(secrets.choice(_FIRST) + "".join(secrets.choice(_ALPHABET) for _ in range(7)))


def scoped(log: LogId, scope: str | None) -> LogId:
    """Return the id of a log as clients of a route know it, `k3f9ab2c.5f2c81ab`; without a scope, the log's own."""
    return LogId(f"{log}.{scope}") if scope else log


def unscoped(log: LogId) -> LogId:
    """Return the id of the log that a scoped one is a part of."""
    return LogId(log.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Position:
    """A point in a log: everything up to and including `seq` has been applied. Text form `log:seq`."""

    log: LogId
    seq: Seq

    def __str__(self) -> str:
        return f"{self.log}:{self.seq}"

    @classmethod
    def parse(cls, text: object) -> Position:
        """Read the text form. Raises `Malformed`."""
        if not isinstance(text, str) or not (match := _POSITION.fullmatch(text)) or int(match[2]) >= 2**63:
            raise Malformed(f"{str(text)[:64]!r} is not a position: expected log:seq")
        return cls(LogId(match[1]), Seq(int(match[2])))

    @classmethod
    def parse_in_log(cls, text: object) -> Position:
        """Read the text form as a point of the whole log, of which each scope is a part. Raises `Malformed`."""
        position = cls.parse(text)
        return cls(unscoped(position.log), position.seq)


StateVector = Mapping[Shape, Position]
"""The positions up to which a client has applied events: shape → position."""


def vector_to_json(vector: StateVector) -> dict[str, str]:
    """Return the JSON form of a state vector."""
    return {str(shape): str(position) for shape, position in vector.items()}


def vector_from_json(value: Any, *, limit: int) -> dict[Shape, Position]:
    """Read the JSON form, of at most `limit` entries. Raises `Malformed`."""
    if not isinstance(value, dict):
        raise Malformed("a state vector is an object of shape to position")
    if len(value) > limit:
        raise Malformed(f"a state vector has at most {limit} entries")
    return _vector(value.items())


def vector_to_text(vector: StateVector) -> str:
    """Return the text form for SSE ids and query strings: `orders=k3f9ab2c:128&orders%2F42=k3f9ab2c:131`."""
    return "&".join(f"{quote(str(shape), safe='')}={position}" for shape, position in vector.items())


def vector_from_text(text: str, *, limit: int) -> dict[Shape, Position]:
    """Read the text form, of at most `limit` entries. Raises `Malformed`."""
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=limit, errors="strict")
    except ValueError as error:
        raise Malformed(f"the state vector can't be read: {error}") from error
    return _vector(pairs)


def vector_to_short(vector: StateVector, shapes: Sequence[Shape]) -> str:
    """Return the short form of the positions of `shapes`, in that order: `09d3e417.k3f9ab2c:128,131,,140`.

    A digest stands for all shapes. An item names its log only if it differs from that of the item before. A shape
    without a position has an empty item.
    """
    items, log = [], None
    for position in map(vector.get, shapes):
        if position is None:
            items.append("")
        else:
            items.append(str(position.seq) if position.log == log else str(position))
            log = position.log
    return f"{_digest(shapes)}.{','.join(items)}"


def vector_from_short(text: str, shapes: Sequence[Shape]) -> dict[Shape, Position]:
    """Read the short form for `shapes`, in that order. The digest is optional. Raises `Malformed`."""
    items = text.removeprefix(f"{_digest(shapes)}.").split(",")
    # A digest that is left is one of other shapes. With a position that has a scope it makes two dots, and with one
    # that has none no position at all: no log is called like a scope.
    if len(items) != len(shapes) or items[0].count(".") > 1:
        raise Malformed("the state vector's short form is one of other shapes than those that are asked for")
    vector, log = {}, ""
    for shape, item in zip(shapes, items, strict=True):
        if item:
            vector[shape] = position = Position.parse(item if ":" in item else f"{log}:{item}")
            log = position.log
    return vector


def _digest(shapes: Sequence[Shape]) -> str:
    """Return a digest that detects a short form made for other shapes."""
    return hashlib.sha256("\n".join(map(str, shapes)).encode()).hexdigest()[:8]


def _vector(pairs: Iterable[tuple[object, object]]) -> dict[Shape, Position]:
    vector: dict[Shape, Position] = {}
    for shape, position in pairs:
        parsed = Shape.parse(shape)
        if parsed in vector:
            raise Malformed(f"{parsed} stands twice in the state vector")
        vector[parsed] = Position.parse(position)
    return vector
