"""A limit on the work of one request, counted in steps instead of time. Pure."""

from __future__ import annotations

from typing import Any, Final

from eventsync.errors import TooComplex

SHIFTED_PER_STEP: Final = 64
"""Array items that one step moves: inserting and removing shift all later items."""


class Budget:
    """The remaining steps. One step is a visit to a value, about 0.1 µs."""

    __slots__ = ("_steps", "left")

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take `steps`. Raises `TooComplex` if fewer are left."""
        self.left -= steps
        if self.left < 0:
            raise TooComplex(f"the request takes more than {self._steps} steps of work; split it up")


def depth_of(value: Any, limit: int, budget: Budget) -> int:
    """Count the levels below `value`: 0 for a leaf, `limit + 1` where there are more than `limit`.

    Spends a step for each value in it.
    """
    level, depth = [value], 0
    while True:
        budget.spend(len(level))
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level or depth > limit:
            return depth
        depth += 1
