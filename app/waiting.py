"""Waiting for an event, for a bounded time, and between attempts."""

from __future__ import annotations

import asyncio
import random


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
