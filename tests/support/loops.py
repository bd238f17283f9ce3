"""An event loop in a thread of its own, and how long its work holds it up.

A pause is the CPU time that the loop's thread spends between two ticks of a timer: what a busy machine takes away does
not count. But CPU time is not the same everywhere and always: a neighbour on the same core makes all of it longer. So
a pause that is too long is taken in proportion to what a fixed computation takes just after it. And whatever disturbs a
measurement makes it longer: a case that is too long is measured again, and the shortest counts.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

import uvloop

from eventsync.process.garbage_collection import collect_rarely

T = TypeVar("T")

_EVERY = 0.001

_PAUSE = 0.05
"""Most seconds of CPU between two ticks, on the machine that this was measured on."""

_REFERENCE = 0.012
"""Seconds of CPU that `_reference` takes there."""

_TIMES = 4
"""Most times that a case is measured."""


class _Ticks:
    """Ticks of a timer on the loop that `start` is called on. `longest`: seconds of CPU between two of them."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._seen = 0.0

    def start(self) -> None:
        """Tick from now on, until the loop ends."""
        self._loop = asyncio.get_running_loop()
        self._seen = time.thread_time()
        self._tick()

    def _tick(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._seen)
        self._seen = now
        self._loop.call_later(_EVERY, self._tick)


class Loop(Generic[T]):
    """A part of the system on an event loop in a thread of its own.

    `pauses`: name of a case → its longest pause, in seconds of the machine that the bound is for. Of a case that was
    measured several times, the shortest of these.
    """

    def __init__(self, part: Callable[[], AbstractAsyncContextManager[T]], *, waited_for: bool) -> None:
        """`part` runs it while its block runs. `waited_for`: as for `collect_rarely`."""
        self._part = part
        self._waited_for = waited_for
        self._started = threading.Event()
        self._ticks = _Ticks()
        self._given: list[T] = []
        self._failure: BaseException | None = None
        self._measured: set[str] = set()
        self.pauses: dict[str, float] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[T]:
        """Run the part while the block runs; give what it gives."""
        self._started.clear()
        thread = threading.Thread(target=self._run)
        collected = gc.get_threshold()
        gc.collect()  # what other tests have left is not the part's, which its own collections would look through
        collect_rarely(waited_for=self._waited_for)  # as its process does
        thread.start()
        try:
            await asyncio.to_thread(self._started.wait)
            if self._failure is not None:
                raise self._failure
            yield self._given[0]
        finally:
            if self._failure is None:
                self._loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(thread.join)
            gc.unfreeze()
            gc.set_threshold(*collected)

    @asynccontextmanager
    async def during(self, name: str) -> AsyncIterator[None]:
        """Measure a case: note the longest pause while the block runs."""
        self._ticks.longest = 0.0
        yield
        pause = self._ticks.longest
        if pause > _PAUSE:
            pause /= max(1.0, _slowness())
        self.pauses[name] = min(pause, self.pauses.get(name, pause))
        self._measured.add(name)

    async def measured(self, cases: Callable[[], Awaitable[object]]) -> None:
        """Run what measures one or more cases, and again while one of them is too long, a few times at most."""
        self._measured = set()
        for _ in range(_TIMES):
            await cases()
            if all(self.pauses[name] <= _PAUSE for name in self._measured):
                break

    def assert_short(self) -> None:
        """Fail where any pause is longer than the bound, with all of them."""
        slowest_first = sorted(self.pauses.items(), key=lambda item: -item[1])
        report = "\n".join(f"{pause * 1000:7.1f} ms  {name}" for name, pause in slowest_first)
        assert max(self.pauses.values()) <= _PAUSE, f"bound {_PAUSE * 1000:.1f} ms\n{report}"

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised where it was started
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._part() as given:
            self._given = [given]
            self._ticks.start()
            self._started.set()
            await self._stop.wait()


def _slowness() -> float:
    """Return how many times as long as on the machine that the bound is for a computation takes now."""
    return min(_reference() for _ in range(3)) / _REFERENCE


def _reference() -> float:
    began = time.thread_time()
    sum(number * number for number in range(300_000))
    return time.thread_time() - began
