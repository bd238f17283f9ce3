"""A job beside the sequencer: one worker at a time does it, under a lease of its own, and yields to sequencing."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from eventsync.concurrency.waiting import backoff, set_within
from eventsync.domain.replay import Damaged
from eventsync.errors import EventsyncError, Unavailable
from eventsync.logging import Alarms
from eventsync.mongodb.leases import RENEWALS_PER_PERIOD, LeaseStore, RenewalTimer
from eventsync.settings import Settings
from eventsync_workers.monitoring.figures import JobFigures

logger = logging.getLogger(__name__)

YieldControl = Callable[[], Awaitable[None]]
"""`Job.yield_control`, for the parts of a job."""

_BACKOFF_CAP = 60.0

_SLICE = 0.001
"""Seconds of the event loop that are taken at once; decoding a single large document may take longer."""

_ACTIVE = 0.0001
"""Seconds of the event loop after which another task counts as busy."""

_AWAY = 0.01
"""Seconds to stay away then: a change takes several steps, each of which would wait for a slice to end."""


class Stopped(EventsyncError):
    """The worker stops: the job is interrupted at once."""

    is_interruption = True
    code = "stopped"


class LeaseLost(EventsyncError):
    """Another worker has taken the job's lease."""

    is_interruption = True
    code = "lease_lost"


class Job(ABC):
    """Runs again and again while it holds the lease, until `stop`.

    Two workers may do the same job for a moment, when the lease of a paused holder has expired. `run_once` must be safe
    then: the lease is for liveness only.
    """

    def __init__(self, job: str, leases: LeaseStore, settings: Settings, name: str, stop: asyncio.Event) -> None:
        self._job = job
        self._leases = leases
        self._period = settings.lease_period
        self._pause = settings.checkpoint_interval
        self._name = name
        self._stop = stop
        self._renewal = RenewalTimer(self._period)
        self._held = False
        self._alarms = Alarms(logger)
        self._time_slice = TimeSlice()
        self.figures = JobFigures()

    @property
    def name(self) -> str:
        """The name of the job, which is that of its lease."""
        return self._job

    @abstractmethod
    async def run_once(self) -> None:
        """Do all work that is due, and call `yield_control` often. Any await may raise and interrupt it."""

    async def run(self) -> None:
        """Run until `stop`. After a failure, retry with a growing pause."""
        failures = 0
        while not self._stop.is_set():
            has_lease = False
            try:
                if has_lease := await self._renew():
                    self._held = True
                    with self.figures.run():
                        await self.run_once()
                failures = 0
            except Stopped:
                break
            except Damaged as error:
                failures += 1
                self._alarms.log(f"{self._job}: {error.diagnosis}; it waits for `eventsync reset-log`")
            except EventsyncError as error:
                failures += 1
                logger.warning("%s: %s; trying again", self._job, error.diagnosis)
            except Exception:
                failures += 1
                logger.exception("%s: failed; trying again", self._job)
            pause = self._backoff(failures)
            self.figures.next_at = time.time() + pause if has_lease else None
            # After a failure the lease ends, so that another worker may do better.
            await self._rest(pause, keeps=has_lease and not failures)
        # A job that never had the lease leaves the end of the work to the worker that has it.
        if self._held:
            try:
                await self.finish()
            except EventsyncError as error:
                logger.info("%s: %s", self._job, error.diagnosis)
        await self._release()

    async def _rest(self, pause: float, *, keeps: bool) -> None:
        """Wait until `pause` is over or the worker stops. With `keeps`, renew the lease meanwhile."""
        end, interval = time.monotonic() + pause, self._period / RENEWALS_PER_PERIOD
        # The next run renews it first: a short pause needs no renewal of its own.
        while keeps and end - time.monotonic() > interval and not await set_within(self._stop, interval):
            try:
                keeps = await self._renew()
            except Unavailable as error:
                logger.debug("%s: %s; the next renewal may come in time", self._job, error.diagnosis)
            if not keeps:
                self.figures.next_at = None
        await set_within(self._stop, end - time.monotonic())

    async def finish(self) -> None:  # noqa: B027 - most jobs have nothing to do
        """Do what must be done before the worker ends. Called only if the lease was held."""

    async def yield_control(self) -> None:
        """Let other tasks run when the job's time slice is over. Call it for each document or batch: it is cheap.

        Raises `Stopped`, and `LeaseLost` once another worker has the lease.
        """
        if self._stop.is_set():
            raise Stopped
        if await self._time_slice.next():
            await self._keep()

    async def _keep(self) -> None:
        if self._renewal.is_due and not await self._renew():
            raise LeaseLost("another worker has taken the lease")

    async def _renew(self) -> bool:
        self._renewal.restart()
        return await self._leases.acquire(self._job, self._name, self._period)

    async def _release(self) -> None:
        try:
            await self._leases.release(self._job, self._name)
        except Unavailable as error:
            logger.warning("%s; it will expire", error.diagnosis)

    def _backoff(self, failures: int) -> float:
        return backoff(failures, first=self._pause, cap=_BACKOFF_CAP) if failures else self._pause


class TimeSlice:
    """The slices of one long piece of work. It calls `next` often, which is nearly free while the slice lasts."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _SLICE

    async def next(self) -> bool:
        """Let other tasks run if the slice is over, and begin the next one; return True if it was over."""
        now = time.monotonic()
        if now < self._until:
            return False
        for _ in range(3):  # One round of the loop reads what has arrived, the next runs the task that it wakes.
            await asyncio.sleep(0)
        if time.monotonic() - now > _ACTIVE:
            await asyncio.sleep(_AWAY)
        self._until = time.monotonic() + _SLICE
        return True
