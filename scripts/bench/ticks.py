"""The longest pause of an event loop, in CPU time of its thread: for what is measured inside a process."""

from __future__ import annotations

import asyncio
import time
from typing import Final

_EVERY: Final = 0.001


class Ticks:
    """Ticks of a timer on the loop that `start` is called on. `longest`: seconds of CPU between two of them."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._seen = 0.0

    def start(self) -> None:
        """Tick from now on, until the loop ends."""
        self._loop = asyncio.get_running_loop()
        self._seen = time.thread_time()
        self._tick()

    def _tick(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._seen)
        self._seen = now
        self._loop.call_later(_EVERY, self._tick)
