"""A terminal that tests read."""

from __future__ import annotations

import asyncio
import io

from rich.console import Console

from eventsync.dev.terminal import Terminal
from support.waiting import within


class Screen(io.StringIO):
    """A terminal's content, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()
        self.terminal = Terminal(Console(file=self, width=500))

    def write(self, text: str) -> int:
        self._news.set()
        return super().write(text)

    async def shows(self, text: str, *, times: int = 1, seconds: float = 10.0) -> None:
        """Wait until `text` has been shown so many times."""
        async with within(seconds):
            while self.getvalue().count(text) < times:
                self._news.clear()
                await self._news.wait()
