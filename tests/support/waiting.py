"""Waiting in tests, in proportion to what the machine gives.

The one place that knows how long a test may wait. A test waits for events; the seconds only say after how long it gives
up, on an idle machine. On a busy machine these seconds become longer by themselves, also while the wait lasts.

- `async with within(10): …` is the deadline around a wait in this process. Use it in place of `asyncio.timeout`.
- `await eventually(condition)` repeats a question whose answer changes in another process or in MongoDB.
- `patience(10)` is the number of seconds to give to a library or a child process: `httpx.AsyncClient(timeout=…)`,
  `subprocess.run(timeout=…)`, `process.wait(…)`.
- `scaled(2.0)` is for time limits of the system under test (`lease_period`, `send_timeout`, `heartbeat`): as short as
  asked for on an idle machine, longer on a busy one, so that nothing expires only because nobody was served.

Never assert on elapsed time, and never sleep in place of an event.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from eventsync.settings import Settings

_GENEROUS = 3.0
"""A deadline costs nothing where the event comes, and a failure that is none where it is too short."""

_BUSY = 1.5
"""The same on a busy machine, where a failure should not take for ever, either."""

_QUICK = 0.002
"""The seconds that `_work` takes on the machine that the tests' waits are written for."""

_FRESH = 1.0
"""A measurement is used for this many seconds."""

_MOST = 40.0
"""A machine that is slower than this is taken for one that does not answer."""


def patience(seconds: float) -> float:
    """Return the seconds after which to give up on what takes a fraction of `seconds` on an idle machine."""
    return seconds * max(_GENEROUS, _BUSY * _pace.now())


def scaled(seconds: float) -> float:
    """Return `seconds` of an idle machine in seconds of this one, as busy as it is now.

    What such a limit is for, a heartbeat or the renewal of a lease, is little work: it has to be served in time, not to
    get a whole processor. Linear limits would have a failover take minutes.
    """
    return seconds * (1 + (_pace.now() - 1) / 4)


@asynccontextmanager
async def within(seconds: float = 10.0) -> AsyncIterator[None]:
    """Raise `TimeoutError` where the block does not end within `patience(seconds)`, as long as that is by then."""
    async with asyncio.timeout(None) as deadline:
        watch = _Watch(deadline, seconds)
        try:
            yield
        finally:
            watch.timer.cancel()


class _Watch:
    """Moves a deadline on for as long as the machine becomes busier."""

    def __init__(self, deadline: asyncio.Timeout, seconds: float) -> None:
        self._deadline, self._seconds = deadline, seconds
        self._loop = asyncio.get_running_loop()
        self._begun, self._most = self._loop.time(), patience(seconds)
        self.timer = self._loop.call_later(self._most, self._look)

    def _look(self) -> None:
        self._most = max(self._most, patience(self._seconds))
        end = self._begun + self._most
        if end > self._loop.time():
            self.timer = self._loop.call_at(end, self._look)
        else:
            self._deadline.reschedule(self._loop.time())


async def eventually(condition: Callable[[], Any], seconds: float = 10.0, *, pause: float = 0.02) -> Any:
    """Return the first true answer of `condition`, a function or a coroutine function; for what no event tells.

    The pause between two questions grows to five times its length: what takes long is asked for less often.
    """
    longest = 5 * pause
    async with within(seconds):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(pause)
            pause = min(1.3 * pause, longest)


class _Pace:
    """Return how many times slower than an idle machine this one is at the moment; at least 1."""

    def __init__(self) -> None:
        self._measured = 1.0
        self._at = -_FRESH

    def now(self) -> float:
        if time.monotonic() - self._at >= _FRESH:
            self._measured = min(max(1.0, _queue(), _work() / _QUICK), _MOST)
            self._at = time.monotonic()
        return self._measured


def _queue() -> float:
    """Return the runnable processes for each processor, as many as there are now or were in the last minute."""
    try:
        words = Path("/proc/loadavg").read_text(encoding="ascii").split()
    except OSError:
        return 1.0
    busy = max(float(words[0]), float(words[3].partition("/")[0]))
    return busy / len(os.sched_getaffinity(0))


def _work() -> float:
    """Return the seconds that a piece of work takes, which other processes, or other machines on the host, hold up."""
    begun = time.perf_counter()
    total = 0
    for number in range(40_000):
        total += number * number
    return time.perf_counter() - begun


_pace = _Pace()


STREAM_WAIT: Final = 0.05
"""`stream_wait` of systems under test. A test often waits for what comes behind an idle read: a checkpoint, an end."""

_LIMITS: Final = (
    "body_timeout",
    "drain_timeout",
    "head_timeout",
    "hello_timeout",
    "lease_period",
    "mongodb_timeout",
    "pin_ttl",
    "pong_timeout",
    "ready_timeout",
    "request_timeout",
    "send_timeout",
    "stale_after",
    "write_deadline",
    "write_queue_delay",
)
"""Settings after whose seconds the system gives something up that may only be slow."""


def time_limits(**chosen: float) -> dict[str, float]:
    """Return the time limits of `Settings`, those of `chosen` or else its defaults, in seconds of this machine."""
    defaults = {name: float(Settings.model_fields[name].default) for name in _LIMITS}
    return {name: scaled(seconds) for name, seconds in (defaults | chosen).items()}
