"""PyMongo's wait for a condition, made safe against cancellation on Python 3.11.

PyMongo waits by `asyncio.wait_for(condition.wait(), timeout)`. Before Python 3.12, `wait_for` waits in a task of its
own, and a caller that is cancelled after the timeout can end before that task has the lock again. It then releases a
lock that somebody else holds, and the task takes the lock later and keeps it. From then on no operation of this client
finds a server: a process whose requests reach their deadlines while there is no primary may hang for ever.
Python 3.12 waits in the calling task (python/cpython#96764), as `wait` does.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from pymongo.asynchronous import pool, topology
from pymongo.lock import Condition

NAME: Final = "_async_cond_wait"
"""The driver's own, in each of `MODULES`."""

MODULES: Final = (topology, pool)


async def wait(condition: Condition, timeout: float | None) -> bool:
    """Wait until notified, and return True; return False after `timeout` seconds. The caller has the lock again."""
    try:
        async with asyncio.timeout(timeout):
            return await condition.wait()
    except TimeoutError:
        return False


def install() -> None:
    """Have all clients of this process wait so, where Python needs it."""
    if sys.version_info < (3, 12):
        for module in MODULES:
            setattr(module, NAME, wait)
