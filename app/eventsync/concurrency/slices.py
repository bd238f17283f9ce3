"""Long work on the event loop in slices: others run in between, however many there are that have long work."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

SLICE: Final = 64 * 1024
"""Bytes of documents that are worked on without a pause: some milliseconds, also where all values are small."""


class TimeShare:
    """What one turn of an event loop may be used for, by all together: first come, first served.

    Without it, fifty requests whose documents arrive at the same time are each short, and one after the other long.
    """

    def __init__(self, each: int = SLICE) -> None:
        """`each`: bytes that are worked on in one turn; more only by a single piece of work."""
        self._each = each
        self._left = each
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._is_used = False

    async def take(self, size: int) -> None:
        """Return in a turn in which work on `size` bytes has a place; at once where this one has."""
        if not self._waiting and self._fits(size):
            self._use(size)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        await turn

    def _fits(self, size: int) -> bool:
        return size <= self._left or self._left == self._each

    def _use(self, size: int) -> None:
        self._left -= size
        if not self._is_used:
            self._is_used = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._left, self._is_used = self._each, False
        while self._waiting and (self._waiting[0][0].done() or self._fits(self._waiting[0][1])):
            turn, size = self._waiting.popleft()
            if not turn.done():  # one that was cancelled needs no place any more
                self._use(size)
                turn.set_result(None)


_shares: WeakKeyDictionary[asyncio.AbstractEventLoop, TimeShare] = WeakKeyDictionary()


async def turn(size: int) -> None:
    """Wait until the running event loop has a turn for work on `size` bytes."""
    loop = asyncio.get_running_loop()
    if (share := _shares.get(loop)) is None:
        share = _shares[loop] = TimeShare()
    await share.take(size)


class Slices:
    """The progress of one long piece of work."""

    def __init__(self, every: int = SLICE) -> None:
        self._every = every
        self._done = 0

    async def did(self, size: int) -> None:
        """Count `size` bytes of work; give way where a slice is full, and go on when the loop has a turn for the next.

        What others do at the same time counts with it.
        """
        self._done += size
        if self._done >= self._every:
            self._done = 0
            await asyncio.sleep(0)
            await turn(self._every)
