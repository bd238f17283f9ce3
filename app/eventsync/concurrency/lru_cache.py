"""A least-recently-used cache, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """Keeps the values that were used last. It is meant for immutable values: entries never expire."""

    def __init__(self, limit: int, cost: Callable[[V], int]) -> None:
        """Bound the sum of all costs. `limit` and `cost` are in bytes; the cost of a value must not change."""
        self._limit = limit
        self._cost = cost
        self._known: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def get(self, key: K) -> V | None:
        """Return the value and mark it as used, or None if it is not in the cache."""
        known = self._known.get(key)
        if known is None:
            return None
        self._known.move_to_end(key)
        return known[0]

    def keep(self, key: K, value: V) -> None:
        """Add a value and evict the least recently used ones. A value over the limit is not added."""
        cost = self._cost(value)
        if key in self._known or cost > self._limit:
            return
        self._known[key] = value, cost
        self.bytes += cost
        while self.bytes > self._limit:
            _, (_, freed) = self._known.popitem(last=False)
            self.bytes -= freed
