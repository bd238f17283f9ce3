"""Waiting for an event, for a bounded time, and between attempts."""

from __future__ import annotations

import asyncio
import random


class LightEvent:
    """As much of `asyncio.Event` as connections use: that holds a deque, of 760 bytes, and a timeout around it 500."""

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[asyncio.Future[bool]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Let everybody go on who waits."""
        self._set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> bool:
        """Wait until it is set."""
        return await self.within(None)

    async def within(self, seconds: float | None) -> bool:
        """Whether it is set within `seconds`; None is for ever."""
        if self._set:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(0.0, seconds), _give_up, waiter)
        self._waiters.append(waiter)
        try:
            return await waiter
        finally:
            self._waiters.remove(waiter)
            if timer is not None:
                timer.cancel()


def _give_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` is set within `seconds`."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True


def backoff(failures: int, *, first: float, cap: float) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, with jitter, `cap` at most."""
    # 2.0 ** 1024 is an error, not infinity.
    return min(cap, first * 2.0 ** min(failures, 64)) * random.uniform(0.5, 1.0)
