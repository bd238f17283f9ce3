"""How far a client is behind: by how many events of its shape, and by how much time."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain.positions import Position
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.errors import NotTracked
from eventsync.stores.log.events import EventStore
from eventsync.stores.log.stored_event import StoredEvent, said
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.sync.catch_up.planner import Planner
from eventsync.sync.live.window import Window

_AGE: Final = 2.0
_MOST: Final = 10_000
"""Positions whose next event is remembered for so many seconds: a listing has many clients at the same one."""


@dataclass(frozen=True, slots=True)
class ShapeLag:
    """`events` of the shape are not acknowledged (about so many, where they are not in the window any more).

    The oldest was committed `seconds` ago; None where it is not kept any more.
    """

    events: int
    seconds: float | None


class ClientLag:
    """Asks MongoDB only about positions that the window does not cover."""

    def __init__(self, planner: Planner, window: Window, events: EventStore) -> None:
        self._planner = planner
        self._window = window
        self._events = events
        self._next: TTLCache[float | None] = TTLCache(age=_AGE, most=_MOST)

    async def of(self, shape: Shape, position: Position) -> ShapeLag | None:
        """None where the position can't be compared with what there is. Raises `Unavailable`."""
        try:
            self._planner.require(shape)
        except NotTracked:
            return None
        if position.log != self._window.log:
            return None
        if self._window.covers(position.seq, shape):
            return self._in_window(shape, position)
        count = await self._planner.missed(shape, position)
        committed = await self._next.get((shape, position), lambda: self._committed(shape, position))
        return ShapeLag(count, _ago(committed) if count else 0.0)

    def _in_window(self, shape: Shape, position: Position) -> ShapeLag:
        missed = list(self._window.events(shape, position.seq))
        return ShapeLag(len(missed), _ago(_committed(missed[0])) if missed else 0.0)

    async def _committed(self, shape: Shape, position: Position) -> float | None:
        """When the first event after a position was committed, in seconds since 1970."""
        events = self._events.read(position.log, position.seq, self._window.head, shape=shape, batch=1)
        try:
            async with aclosing(events):
                async for event in events:
                    return _committed(event)
        except (BehindHorizon, Damaged):
            return None
        return None


def _committed(event: StoredEvent) -> float:
    return datetime.fromisoformat(said(event, "at")).timestamp()


def _ago(committed: float | None) -> float | None:
    # By this server's clock: what it says is for people, and nothing depends on it.
    return None if committed is None else max(0.0, time.time() - committed)
