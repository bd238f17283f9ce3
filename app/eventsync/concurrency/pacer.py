"""Paces a storm of arrivals over iterations of the event loop, so that other tasks are still served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Pacer:
    """Runs a few entries in each iteration of the event loop, first come, first served.

    Other ready tasks run in between: a health check waits for one entry, not for two thousand. The queue is unbounded;
    limits on arrivals apply before.
    """

    def __init__(self, each: int = 1) -> None:
        """Run `each` entries in one iteration, which should take about half a millisecond.

        A publication takes ten iterations or more to reach clients. With four sessions begun in each iteration instead
        of one, it arrived twice as late during a storm of a thousand clients, and the storm was over no sooner
        (`scripts/bench/run storm`).
        """
        self._each = each
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def pass_through(self, enter: Callable[[], None]) -> None:
        """Call `enter` when its turn has come."""
        self._waiting.append(enter)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    async def passed(self) -> None:
        """Wait for a turn."""
        turn = asyncio.get_running_loop().create_future()
        self.pass_through(lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _turn(self) -> None:
        try:
            for _ in range(min(self._each, len(self._waiting))):
                # It leaves the queue afterwards: an entry that adds another one must not schedule a second turn.
                self._waiting[0]()
                self._waiting.popleft()
        except Exception:
            # The entries behind a failed one must not wait for ever.
            self._waiting.popleft()
            raise
        finally:
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._turn)
