"""Time slicing for long work on the event loop, so that other tasks run in between."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

SLICE: Final = 64 * 1024
"""Bytes of documents processed without a pause: a few milliseconds, even if all values are small."""


class TimeShare:
    """A budget of work for each iteration of an event loop, shared by all tasks, first come, first served.

    Without it, fifty requests whose documents arrive together block the loop for fifty times the work of one.
    """

    def __init__(self, each: int = SLICE) -> None:
        """Allow `each` bytes of work in one iteration. Only a single larger piece may exceed it."""
        self._each = each
        self._left = each
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._is_used = False

    async def take(self, size: int) -> None:
        """Wait for an iteration with room for work on `size` bytes. Return at once if the current one has room."""
        if not self._waiting and self._fits(size):
            self._use(size)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, size))
        await turn

    def _fits(self, size: int) -> bool:
        # Work that is larger than the whole budget gets an iteration to itself.
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
            if not turn.done():  # a cancelled waiter needs no room
                self._use(size)
                turn.set_result(None)


_shares: WeakKeyDictionary[asyncio.AbstractEventLoop, TimeShare] = WeakKeyDictionary()


async def turn(size: int) -> None:
    """Wait until the running event loop has room for work on `size` bytes."""
    loop = asyncio.get_running_loop()
    if (share := _shares.get(loop)) is None:
        share = _shares[loop] = TimeShare()
    await share.take(size)


class Slices:
    """Splits one long piece of work into slices."""

    def __init__(self, every: int = SLICE) -> None:
        self._every = every
        self._done = 0

    async def did(self, size: int) -> None:
        """Count `size` bytes of finished work. When a slice is full, yield until the loop has room for the next one."""
        self._done += size
        if self._done >= self._every:
            self._done = 0
            await asyncio.sleep(0)
            await turn(self._every)
