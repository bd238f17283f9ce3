"""What was read of segments, kept for the next reader, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

Key = tuple[str, int]
"""An object's path, and where in it the frame begins."""


class Costly(Protocol):
    """What knows about how many bytes of memory it takes."""

    @property
    def cost(self) -> int: ...


Part = TypeVar("Part", bound=Costly)


class SegmentCache(Generic[Part]):
    """The frames that were used last. Objects never change, so nothing in it is ever stale."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: OrderedDict[Key, Part] = OrderedDict()
        self.bytes = 0

    def get(self, key: Key) -> Part | None:
        """The part, which counts as used now; None where it is not kept."""
        part = self._parts.get(key)
        if part is not None:
            self._parts.move_to_end(key)
        return part

    def keep(self, key: Key, part: Part) -> None:
        """Keep a part in place of those that were not used for longest. One that is larger than all is not kept."""
        if key in self._parts or part.cost > self._limit:
            return
        self._parts[key] = part
        self.bytes += part.cost
        while self.bytes > self._limit:
            _, dropped = self._parts.popitem(last=False)
            self.bytes -= dropped.cost
