"""Timeouts that share one timer.

Each request has timeouts of many seconds that hardly ever pass. With a timer for each, as `asyncio.timeout` has it,
they take a twentieth of the time of a small write.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self
from weakref import WeakKeyDictionary

_STEP: Final = 0.05
"""Seconds between two looks at the timeouts of a loop, at least: a look passes over all of them."""

_NEVER: Final = float("inf")


class Timeout:
    """Cancels the task that runs its block once its time is over. The block then raises `TimeoutError`.

    It does so up to 50 ms late, and is otherwise as `asyncio.timeout`.
    """

    __slots__ = ("_cancelling", "_ends", "_is_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float | None = None) -> None:
        """Begin with `seconds`, or with no limit."""
        self._seconds = seconds
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._ends = _NEVER
        self._is_expired = False

    @property
    def is_expired(self) -> bool:
        """True once the time was over inside of the block."""
        return self._is_expired

    def __enter__(self) -> Self:
        if (task := asyncio.current_task()) is None:
            raise RuntimeError("a timeout is for the block of a task")
        self._task, self._cancelling = task, task.cancelling()
        self._timer = _timer()
        if self._seconds is not None:
            self.start(self._seconds)
        return self

    def start(self, seconds: float) -> None:
        """End the block `seconds` from now, whatever its limit was before."""
        if self._task is not None and not self._is_expired:
            self._ends = self._timer.add(self, seconds)

    def stop(self) -> None:
        """Take away the limit."""
        if self._task is not None:
            self._timer.remove(self)

    def ends(self) -> float:
        """Return the time of the loop at which the block ends."""
        return self._ends

    def expire(self) -> None:
        """Cancel the block."""
        self._is_expired = True
        if self._task is not None:
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._timer.remove(self)
        # A cancellation by somebody else, at the same time, stays one.
        is_own = self._is_expired and task is not None and task.uncancel() <= self._cancelling
        if is_own and kind is asyncio.CancelledError:
            raise TimeoutError from error


class _Timer:
    """The timeouts of one event loop that are running. (A reference to the loop would keep it.)"""

    def __init__(self) -> None:
        self._running: set[Timeout] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._at = _NEVER

    def add(self, timeout: Timeout, seconds: float) -> float:
        """Let a timeout expire after `seconds`; return the time."""
        self._running.add(timeout)
        ends = asyncio.get_running_loop().time() + max(0.0, seconds)
        if ends < self._at:
            self._look_at(ends)
        return ends

    def remove(self, timeout: Timeout) -> None:
        """Forget a timeout, if it is there. The timer stays: the next timeout will need it."""
        self._running.discard(timeout)

    def _look_at(self, time: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._at = time
        self._handle = asyncio.get_running_loop().call_at(time, self._look)

    def _look(self) -> None:
        self._at, self._handle = _NEVER, None
        now = asyncio.get_running_loop().time()
        for timeout in [timeout for timeout in self._running if timeout.ends() <= now]:
            self._running.discard(timeout)
            timeout.expire()
        if self._running:
            self._look_at(max(now + _STEP, min(timeout.ends() for timeout in self._running)))


_timers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Timer] = WeakKeyDictionary()


def _timer() -> _Timer:
    loop = asyncio.get_running_loop()
    if (timer := _timers.get(loop)) is None:
        timer = _timers[loop] = _Timer()
    return timer
