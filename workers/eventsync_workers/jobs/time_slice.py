"""Shares the event loop with the sequencer: long work in short slices."""

from __future__ import annotations

import asyncio
import time

_SLICE = 0.001
"""Seconds of the event loop that are taken at once; decoding a single large document may take longer."""

_ACTIVE = 0.0001
"""Seconds of the event loop after which another task counts as busy."""

_AWAY = 0.01
"""Seconds to stay away then: a change takes several steps, each of which would wait for a slice to end."""


class TimeSlice:
    """The slices of one long piece of work. It calls `next` often, which is nearly free while the slice lasts."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _SLICE

    async def next(self) -> bool:
        """Let other tasks run if the slice is over, and begin the next one; return True if it was over."""
        now = time.monotonic()
        if now < self._until:
            return False
        for _ in range(3):  # One round of the loop reads what has arrived, the next runs the task that it wakes.
            await asyncio.sleep(0)
        if time.monotonic() - now > _ACTIVE:
            await asyncio.sleep(_AWAY)
        self._until = time.monotonic() + _SLICE
        return True
