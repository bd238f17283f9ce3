"""Waiting for an event for a bounded time, and waiting between attempts."""

from __future__ import annotations

import asyncio
import random


class LightEvent:
    """The part of `asyncio.Event` that connections use, in less memory.

    `asyncio.Event` holds a deque of 760 bytes, and a timeout around its `wait` takes another 500.
    """

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[asyncio.Future[bool]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Set the event and wake all waiters."""
        self._set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)

    def clear(self) -> None:
        self._set = False

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, at most `timeout` seconds. Return False after a timeout."""
        if self._set:
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = None if timeout is None else loop.call_later(max(0.0, timeout), _time_out, waiter)
        self._waiters.append(waiter)
        try:
            return await waiter
        finally:
            self._waiters.remove(waiter)
            if timer is not None:
                timer.cancel()


def _time_out(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait until `event` is set, at most `seconds`. Return False after a timeout."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True


def backoff(failures: int, *, first: float, cap: float) -> float:
    """Return the seconds to wait after `failures` failures in a row: doubled each time, with jitter, at most `cap`."""
    # 2.0 ** 1024 raises OverflowError instead of returning infinity.
    return min(cap, first * 2.0 ** min(failures, 64)) * random.uniform(0.5, 1.0)
