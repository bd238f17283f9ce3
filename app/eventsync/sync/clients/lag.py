"""Lag of clients: of one client's shape in events and time, and of all clients of a server."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eventsync.access.access import Access
from eventsync.concurrency.slices import turn
from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain.positions import LogId, Position, Seq, StateVector, unscoped
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.errors import Forbidden, InvalidPredicate, NotTracked, UnknownShape
from eventsync.stores.log.events import EventStore
from eventsync.stores.log.stored_event import StoredEvent, body_member
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.window import Window

_AGE: Final = 2.0
"""Seconds for which the time of a position's next event is cached: in a listing many clients share a position."""

_CACHED: Final = 10_000

_MOST: Final = 20_000
"""Most events of the window that are looked at to count those of a shape: the work of `_WORK` bytes each."""

_WORK: Final = 64


@dataclass(frozen=True, slots=True)
class ShapeLag:
    """Number of unacknowledged `events` of a shape, which is an estimate if they are many or outside the window.

    The oldest was committed `seconds` ago; None if it is no longer retained.
    """

    events: int
    seconds: float | None


class ClientLag:
    """Computes lags. It queries MongoDB only for positions that the window does not cover, or far behind its head."""

    def __init__(self, source: Source, events: EventStore) -> None:
        self._source = source
        self._planner = source.planner
        self._window = source.window
        self._events = events
        self._next: TTLCache[float | None] = TTLCache(ttl=_AGE, max_entries=_CACHED)

    async def of(self, shape: Shape, position: Position, access: Access) -> ShapeLag | None:
        """Return the lag of a position; None if it is not comparable with the log. Raises `Unavailable`.

        That of somebody who sees another part of the shape than `access` allows is not comparable.
        """
        try:
            shape = self._source.bind(shape, access)
            self._planner.require(shape)
        except (Forbidden, InvalidPredicate, NotTracked, UnknownShape):
            return None
        if position.log != self._window.log_of(shape):
            return None
        behind = max(0, self._window.head - position.seq)
        await turn(_WORK * min(behind, _MOST))
        if behind <= _MOST and self._window.covers(position.seq, shape):
            return self._in_window(shape, position)
        count = await self._planner.missed(shape, position)
        committed = await self._next.get((shape.topic, position), lambda: self._committed(shape, position))
        return ShapeLag(count, _ago(committed) if count else 0.0)

    def _in_window(self, shape: Shape, position: Position) -> ShapeLag:
        missed = [event for event, _ in self._window.originals(shape, position.seq, self._window.head)]
        return ShapeLag(len(missed), _ago(_committed(missed[-1])) if missed else 0.0)

    async def _committed(self, shape: Shape, position: Position) -> float | None:
        """Return the commit time of the first event after a position, in seconds since 1970."""
        log, head = unscoped(position.log), self._window.head
        events = self._events.read(log, position.seq, head, shape=shape, batch=1)
        try:
            async with aclosing(events):
                async for event in events:
                    return _committed(event)
        except (BehindHorizon, Damaged):
            return None
        return None


def _committed(event: StoredEvent) -> float:
    return datetime.fromisoformat(body_member(event, "at")).timestamp()


def _ago(committed: float | None) -> float | None:
    # By this server's clock: the value is for people only.
    return None if committed is None else max(0.0, time.time() - committed)


@dataclass(frozen=True, slots=True)
class ServerLag:
    """Lag of a server's clients. `oldest` is the lowest of their positions; None without clients."""

    log: LogId | None
    oldest: Seq | None
    events: int
    """Events of the log between that client and the head."""


def server_lag(window: Window, vectors: Iterable[StateVector], *, is_any_current: bool = False) -> ServerLag:
    """Return the lag of clients with these state vectors; with `is_any_current`, also of one that is at the head.

    A client whose shape has no newer event counts as at the head, also if its position was last moved earlier.
    """
    # Most of thousands of clients share a shape and a position.
    distinct = {(shape.topic, position): shape for vector in vectors for shape, position in vector.items()}
    positions = [
        window.head if window.is_current(shape, position.seq) else position.seq
        for (_, position), shape in distinct.items()
        if position.log == window.log_of(shape)
    ]
    if is_any_current:
        positions.append(window.head)
    oldest = min(positions, default=None)
    return ServerLag(window.log, oldest, max(0, window.head - oldest) if oldest is not None else 0)
