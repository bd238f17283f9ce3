"""A least-recently-used cache, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """Keeps the values that were used last. It is meant for immutable values: entries never expire."""

    def __init__(self, limit: int, cost: Callable[[V], int], *, keeps_one: bool = False) -> None:
        """Bound the sum of all costs. `limit` and `cost` are in bytes; the cost of a value must not change.

        With `keeps_one`, a single value may exceed the limit; it is then the only one.
        """
        self._limit = limit
        self._keeps_one = keeps_one
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
        """Add a value and evict the least recently used ones.

        A value over the limit is not added without `keeps_one`.
        """
        cost = self._cost(value)
        if key in self._known or (cost > self._limit and not self._keeps_one):
            return
        self._known[key] = value, cost
        self.bytes += cost
        while self.bytes > self._limit and len(self._known) > self._keeps_one:
            _, (_, freed) = self._known.popitem(last=False)
            self.bytes -= freed
