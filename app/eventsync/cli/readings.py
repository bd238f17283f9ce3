"""Readings that `tail`, `history` and `diff` print, whether they come from MongoDB or from a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eventsync.domain.positions import LogId, Position, Seq

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReadPage:
    """Events, as on the wire, and the position after them."""

    events: Sequence[Json]
    end: Position


class EventLog(Protocol):
    """The events of one shape."""

    async def head(self) -> Position:
        """Return the position of the newest event, with the scope of the shape. Raises as `page`."""

    async def page(self, after: Position) -> ReadPage:
        """Return the events after a position; wait a while for one.

        Raises `ResetRequired`, `Unavailable` and `NotTracked`, and other errors for good.
        """


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """The newest events of a document, and the number of all that are kept: those after `first`."""

    log: LogId
    first: Seq
    events: Sequence[Json]
    count: int


@dataclass(frozen=True, slots=True)
class ReadDifference:
    """A patch, and the `version` (None without a document) and `position` of both of its sides."""

    before: Json
    after: Json
    patch: Sequence[Json]
