"""How many may do something expensive at a time; the others wait their turn, up to a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import Unavailable


class Admission:
    """A bounded number of places, and a bounded wait for one."""

    def __init__(self, places: int, *, wait: float, what: str) -> None:
        self._places = asyncio.Semaphore(places)
        self._wait = wait
        self._what = what

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold a place while the block runs. Raises `Unavailable` when none came free in time."""
        try:
            async with asyncio.timeout(self._wait):
                await self._places.acquire()
        except TimeoutError as error:
            raise Unavailable(f"too many {self._what} at a time", retry_after=self._wait / 2) from error
        try:
            yield
        finally:
            self._places.release()
