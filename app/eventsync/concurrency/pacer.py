"""Lets newcomers in a few at a time, so that in a storm of them everybody else is still served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Pacer:
    """First come, first served. Whatever else is ready runs between two turns: a health check waits for one, not for
    two thousand. It bounds nothing; who may come at all is bounded before.
    """

    def __init__(self, each: int = 1) -> None:
        """`each`: how many may enter in one turn of the event loop, which should take half a millisecond or so.

        News pass through ten turns or more until clients have them: with four sessions begun in each instead of one,
        others waited twice as long while a thousand came, which were there no sooner than their own work takes
        (`scripts/bench/run storm`).
        """
        self._each = each
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def pass_through(self, enter: Callable[[], None]) -> None:
        """Call `enter` when it is its turn."""
        self._waiting.append(enter)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    async def passed(self) -> None:
        """Wait for the own turn."""
        turn = asyncio.get_running_loop().create_future()
        self.pass_through(lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _turn(self) -> None:
        try:
            for _ in range(min(self._each, len(self._waiting))):
                self._waiting[0]()
                self._waiting.popleft()
        except Exception:
            # Whoever it was: those behind are not to wait for ever.
            self._waiting.popleft()
            raise
        finally:
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._turn)
