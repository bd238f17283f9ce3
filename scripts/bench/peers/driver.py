"""A peer's source of events: a clock that sends what is asked on the standard input."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from scripts.bench.peers import frames

Broadcast = Callable[[Sequence[bytes]], None]
"""Sends messages to all clients that there are."""


class Listening:
    """Answers that the server listens. `head`: clients that come now are at this event."""

    head = 0

    async def begin(self, seq: int) -> dict[str, object]:
        """Begin at event `seq`."""
        self.head = seq
        return {"log": frames.LOG}


class Driver(Listening):
    """Sends each event when it is due."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast

    async def steady(self, count: int, rate: float, size: int) -> dict[str, object]:
        """One event after the other, each at its intended time."""
        began = time.monotonic()
        for number in range(count):
            due = began + number / rate
            await asyncio.sleep(due - time.monotonic())
            self.head += 1
            self._broadcast([frames.event(self.head, due, size)])
        return {"head": self.head}
