"""Admission control: bounds on concurrent expensive work, and on the wait for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Final

from eventsync.domain.protocol import RETRY_WHEN_FULL
from eventsync.errors import EventsyncError, Overloaded, Unavailable
from eventsync.metrics.instruments import Histogram


class Admission:
    """A bounded number of places with a bounded queue, first come, first served.

    Refused callers get a random `retry_after`, so that they do not all return at once.
    """

    def __init__(self, places: int, *, queue: int, wait: float, what: str) -> None:
        """Let at most `queue` callers wait, each at most `wait` seconds. `what` names them in the refusal."""
        self._places = asyncio.Semaphore(places)
        self._queue = queue
        self._wait = wait
        self._what = what
        self.waiting = 0
        self.refused = 0

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold a place while the block runs. Raises `Unavailable` when the queue is full or the wait times out."""
        await self._enter()
        try:
            yield
        finally:
            self._places.release()

    async def _enter(self) -> None:
        if self._places.locked() and self.waiting >= self._queue:
            raise self._refusal()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._wait):
                await self._places.acquire()
        except TimeoutError as error:
            raise self._refusal() from error
        finally:
            self.waiting -= 1

    def _refusal(self) -> Unavailable:
        self.refused += 1
        return Unavailable.busy(f"too many {self._what} at a time", 0.2 * self._wait, self._wait)


_ALWAYS: Final = 4
"""So many may be in progress whatever the delay is. They notice when the service recovers."""

_IN_DOUBT: Final = 64
"""So many may be in progress while the expected delay may be wrong."""

_FIRST_RATE: Final = 1000.0
"""The rate of the service, per second, that is assumed before it is known."""

_REMEMBERED: Final = 4096
"""Ends of work whose times are kept."""

_LONGEST_RETRY: Final = 5.0
"""In seconds."""


class ConnectionPlaces:
    """A bounded number of clients that are connected at a time, whatever their transport. None waits for a place."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a place while the block runs. Raises `Unavailable` if there is none."""
        if self._taken >= self._places:
            raise Unavailable.busy(f"this server has its {self._places} connections already", *RETRY_WHEN_FULL)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class DelayAdmission:
    """Admits work at once if its expected delay is at most `limit` seconds, and refuses it at once otherwise.

    The work waits elsewhere, in any number of queues. Its expected delay is the time in which as many were done as are
    in progress now, or twice that of the later half of them, which is longer if the service slows down. The time since
    anything was done is added, which is how a stall shows, and a turn of the event loop, because a request is read only
    then. Idle periods do not count.

    That would refuse too much in four cases. In the first three, up to `_IN_DOUBT` are admitted.

    - After an idle period the rate is that of a few at a time, and says nothing about many.
    - Grouped work ends in groups, so the estimate is far too high at the first end after a pause. Then the work's own
      time, and the number that was in progress beside it, show how many are done within the limit.
    - If some work hangs (behind a locked document) and the rest is rare, the rate is low although nothing queues. The
      rest then overtakes the work that hangs, which never happens in a queue.
    - If all callers were refused, nobody would notice the end of a stall. So one caller in `limit` seconds is always
      admitted.
    """

    def __init__(self, limit: float, what: str, answers: tuple[type[EventsyncError], ...] = ()) -> None:
        """`what` names the work in the refusal. An error of `answers` ends it as a result does.

        Other errors do not count as work done: a bad request takes no time, and a timeout is no service.
        """
        self._limit = limit
        self._what = what
        self._answers = answers
        self._idle = 0.0
        """The sum of idle periods. All times below are of a clock that stands still in them."""
        self._idle_since: float | None = (now := time.monotonic())
        self._ends = [now + (number - _REMEMBERED) / _FIRST_RATE for number in range(_REMEMBERED)]
        """A ring of the times at which work was done; the newest is before `_next`."""
        self._next = 0
        self._began: dict[int, tuple[float, int]] = {}
        """The begin of each work in progress, the oldest first, and the number in progress then."""
        self._number = 0
        self._doubted = self._probed = now
        self._allowed = _IN_DOUBT
        """So many may be in progress within `limit` seconds of `_doubted`, whatever the expected delay is."""
        self._turn = 0.0
        self._turn_began: float | None = None
        self.done = 0
        """The number of ends that counted as work done."""
        self.refused = 0
        self.results: Counter[str] = Counter()
        """The number of pieces of work that have ended: `ok`, or the code of their error."""
        self.seconds = Histogram()
        """The time that each has taken."""

    @property
    def waiting(self) -> int:
        """The number in progress."""
        return len(self._began)

    @property
    def delay(self) -> float:
        """The expected delay of a new caller, in seconds."""
        return self._expected(self._now()) if self._began else 0.0

    def check(self) -> None:
        """Raise `Overloaded` if a caller would be refused now."""
        waiting = len(self._began)
        # The expected delay comes last: computing it takes longer than all else.
        if waiting < _ALWAYS:
            return
        now = self._now()
        if waiting < self._allowed and now - self._doubted <= self._limit:
            return
        if (delay := self._expected(now)) <= self._limit:
            return
        if now - self._probed >= self._limit:
            self._probed = now
            return
        self.refused += 1
        soonest = min(delay, _LONGEST_RETRY)
        raise Overloaded.busy(
            f"{self._what} would take longer than {self._limit:g} s now; nothing was done", soonest, 2 * soonest
        )

    def admitted(self) -> AbstractContextManager[None]:
        """Count the block as work in progress. Raises `Overloaded` as `check` does."""
        return _Work(self)

    def _now(self) -> float:
        return time.monotonic() - self._idle

    def begin(self) -> int:
        """Count work in progress from now on; return its number. Raises `Overloaded` as `check` does."""
        self.check()
        if self._idle_since is not None:
            self._idle += time.monotonic() - self._idle_since
            self._idle_since = None
            self._doubt(self._now(), _IN_DOUBT)
        now = self._now()
        self._number += 1
        self._began[self._number] = now, len(self._began) + 1
        if self._turn_began is None:
            self._turn_began = now
            asyncio.get_running_loop().call_soon(self._end_turn)
        return self._number

    def end(self, number: int, error: BaseException | None) -> None:
        """Count the end of work, by an error or not."""
        now, (began, beside) = self._now(), self._began.pop(number)
        self.results[_result(error)] += 1
        self.seconds.observe(now - began)
        if error is None or isinstance(error, self._answers):
            self.done += 1
            self._ends[self._next] = now
            self._next = (self._next + 1) % _REMEMBERED
            # Either of the two shows that the expected delay may be too long.
            if self._overtook(began):
                self._doubt(now, _IN_DOUBT)
            elif (took := now - began) <= self._limit / 2:
                self._doubt(now, min(_IN_DOUBT, int(beside * self._limit / max(took, 1e-6))))
        if not self._began:
            self._idle_since = time.monotonic()

    def _doubt(self, now: float, allowed: int) -> None:
        """Let `allowed` be in progress for `limit` seconds, or as many more as are allowed already."""
        is_new = now - self._doubted > self._limit
        self._doubted, self._allowed = now, allowed if is_new else max(allowed, self._allowed)

    def _overtook(self, began: float) -> bool:
        """Return True if something that began long before `began` is in progress still."""
        is_few = 0 < len(self._began) < _IN_DOUBT
        return is_few and next(iter(self._began.values()))[0] < began - self._limit / 2

    def _end_turn(self) -> None:
        if self._turn_began is not None:
            self._turn, self._turn_began = max(0.0, self._now() - self._turn_began), None

    def _expected(self, now: float) -> float:
        waiting, last = len(self._began), self._ends[self._next - 1]
        turn = self._turn if self._turn_began is None else max(self._turn, now - self._turn_began)
        half = (waiting + 1) // 2
        all_of_them = max(self._took(waiting, last), self._took(half, last) * waiting / half)
        return turn + now - last + all_of_them

    def _took(self, count: int, last: float) -> float:
        """Return the time that the newest `count` ends took until the one at `last`."""
        known = min(count, _REMEMBERED - 1)
        return (last - self._ends[(self._next - 1 - known) % _REMEMBERED]) * count / known


def _result(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    return error.code if isinstance(error, EventsyncError) else "error"


class _Work:
    """One piece of work. A class, because a generator takes three times as long, and each write is one."""

    __slots__ = ("_admission", "_number")

    def __init__(self, admission: DelayAdmission) -> None:
        self._admission = admission
        self._number = 0

    def __enter__(self) -> None:
        self._number = self._admission.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._admission.end(self._number, error)
