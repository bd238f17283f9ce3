"""Long work on the event loop in slices: others run in between."""

from __future__ import annotations

import asyncio
from typing import Final

SLICE: Final = 64 * 1024
"""Bytes of documents that are worked on without a pause: some milliseconds, also where all values are small."""


class Slices:
    """The progress of one long piece of work."""

    def __init__(self, every: int = SLICE) -> None:
        self._every = every
        self._done = 0

    async def did(self, size: int) -> None:
        """Count `size` bytes of work; give way where a slice is full."""
        self._done += size
        if self._done >= self._every:
            self._done = 0
            await asyncio.sleep(0)
