"""Figures for operators: the overview that MongoDB holds, and the lag of this server's clients."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain.positions import LogId, Seq, StateVector
from eventsync.errors import EventsyncError
from eventsync.mongodb.client import time_limit
from eventsync.stores.stats.overview import Overview, read_overview
from eventsync.stores.stores import Stores
from eventsync.sync.live.window import Window

logger = logging.getLogger(__name__)

_AGE: Final = 5.0
"""Seconds for which figures from MongoDB are cached, however many scrapers ask."""

_TIMEOUT: Final = 3.0
"""Timeout of reading the figures, in seconds."""


class Operating:
    """Reads the figures of MongoDB, at most once in a few seconds, however many ask."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._memo: TTLCache[Overview | None] = TTLCache(age=_AGE, most=1)

    async def overview(self) -> Overview | None:
        """What there is to operate; None where MongoDB does not say within bounds."""
        return await self._memo.get("overview", self._read)

    async def _read(self) -> Overview | None:
        try:
            with time_limit(_TIMEOUT):
                return await read_overview(self._stores)
        except EventsyncError as error:
            logger.warning("no overview: %s", error.diagnosis)
            return None


@dataclass(frozen=True, slots=True)
class Behind:
    """Lag of a server's clients. `oldest` is the lowest of their positions; None without clients."""

    log: LogId | None
    oldest: Seq | None
    events: int
    """Events of the log between that client and the head."""


def behind(window: Window, vectors: Iterable[StateVector]) -> Behind:
    """Return the lag of clients with these state vectors.

    A client whose shape has no newer event counts as at the head, also if its position was last moved earlier.
    """
    positions = [
        window.head if window.log == position.log and window.is_current(shape, position.seq) else position.seq
        for vector in vectors
        for shape, position in vector.items()
        if position.log == window.log
    ]
    oldest = min(positions, default=None)
    return Behind(window.log, oldest, max(0, window.head - oldest) if oldest is not None else 0)
