"""Admission control: bounds on concurrent expensive work, and on the queue for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventsync.errors import Unavailable


class Admission:
    """A bounded number of places with a bounded queue, first come, first served.

    Refused callers get a random `retry_after`, so that they do not all return at once.
    """

    def __init__(self, places: int, *, queue: int, wait: float, what: str) -> None:
        """Let at most `queue` callers wait, each at most `wait` seconds. `what` names them in the refusal."""
        self._places = asyncio.Semaphore(places)
        self._queue = queue
        self._wait = wait
        self._what = what
        self.waiting = 0
        self.refused = 0

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold a place while the block runs. Raises `Unavailable` when the queue is full or the wait times out."""
        await self._enter()
        try:
            yield
        finally:
            self._places.release()

    async def _enter(self) -> None:
        if self._places.locked() and self.waiting >= self._queue:
            raise self._refusal()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait):
                await self._places.acquire()
        except TimeoutError as error:
            raise self._refusal() from error
        finally:
            self.waiting -= 1

    def _refusal(self) -> Unavailable:
        self.refused += 1
        return Unavailable.busy(f"too many {self._what} at a time", 0.2 * self._wait, self._wait)
