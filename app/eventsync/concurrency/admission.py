"""How many may do something expensive at a time; the others wait their turn, up to a bound of number and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventsync.errors import Unavailable


class Admission:
    """A bounded number of places, and a bounded queue for them, first come, first served.

    Who is sent away is told to come back after a time drawn at random, so that not all come back at once.
    """

    def __init__(self, places: int, *, queue: int, wait: float, what: str) -> None:
        """At most `queue` may wait, each at most `wait` seconds. `what` they are, for those who are sent away."""
        self._places = asyncio.Semaphore(places)
        self._queue = queue
        self._wait = wait
        self._what = what
        self.waiting = 0
        self.refused = 0

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold a place while the block runs. Raises `Unavailable` when the queue is full, or none came free in time."""
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
