"""What was read, kept for the next reader, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """The values that were used last. For what never changes: nothing in it is ever stale."""

    def __init__(self, limit: int, cost: Callable[[V], int]) -> None:
        """`limit` is in bytes, as is the `cost` of a value, which must not change."""
        self._limit = limit
        self._cost = cost
        self._known: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None where it is not kept."""
        known = self._known.get(key)
        if known is None:
            return None
        self._known.move_to_end(key)
        return known[0]

    def keep(self, key: K, value: V) -> None:
        """Keep a value in place of those that were not used for longest. One that is larger than all is not kept."""
        cost = self._cost(value)
        if key in self._known or cost > self._limit:
            return
        self._known[key] = value, cost
        self.bytes += cost
        while self.bytes > self._limit:
            _, (_, freed) = self._known.popitem(last=False)
            self.bytes -= freed
