"""Sharing the event loop with the sequencer: long work in short turns."""

from __future__ import annotations

import asyncio
import time

_TURN = 0.001
"""Seconds of the event loop that are taken at once; decoding a single large document may take longer."""

_ACTIVE = 0.0001
"""Whoever uses the loop for more than this between two turns is at work."""

_AWAY = 0.01
"""Seconds to stay away then: a change takes several steps, each of which would wait for a turn to end."""


class TimeSlice:
    """One long piece of work. It asks for its `next` turn often; that is nearly free while the turn lasts."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _TURN

    async def next(self) -> bool:
        """Let others go first when the turn is over. Whether it was."""
        now = time.monotonic()
        if now < self._until:
            return False
        for _ in range(3):  # what arrives is read in one round of the loop, and whom it wakes runs in the next
            await asyncio.sleep(0)
        if time.monotonic() - now > _ACTIVE:
            await asyncio.sleep(_AWAY)
        self._until = time.monotonic() + _TURN
        return True
