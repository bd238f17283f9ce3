"""A cache with a time to live, which fetches each missing value once for all concurrent callers."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from eventsync.concurrency.single_flight import SingleFlight

T = TypeVar("T")


class TTLCache(Generic[T]):
    """Keeps at most `max_entries` values, each for `ttl` seconds."""

    def __init__(self, *, ttl: float, max_entries: int) -> None:
        self._ttl = ttl
        self._max_entries = max_entries
        self._entries: OrderedDict[Hashable, tuple[float, T]] = OrderedDict()
        self._flights: SingleFlight[T] = SingleFlight()
        self._generation = 0

    async def get(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        """Return the value. If it is missing or expired, one caller awaits `fetch` for all."""
        entry = self._entries.get(key)
        if entry is not None and time.monotonic() - entry[0] < self._ttl:
            return entry[1]
        # The generation is part of the key: a fetch begun before `clear` may return a value that is just as stale.
        return await self._flights.fetch((self._generation, key), lambda: self._fetch(key, fetch))

    async def _fetch(self, key: Hashable, fetch: Callable[[], Awaitable[T]]) -> T:
        generation = self._generation
        value = await fetch()
        if generation == self._generation:
            self._entries[key] = time.monotonic(), value
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        return value

    def clear(self) -> None:
        """Remove all values, because they are known to be stale."""
        self._entries.clear()
        self._generation += 1
