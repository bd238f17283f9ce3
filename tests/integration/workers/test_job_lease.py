"""The lease of a job between two of its runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.job import Job
from support.waiting import eventually

NAME = "resting"


class Resting(Job):
    """Rests for a minute between two runs, which fail if they are to."""

    def __init__(self, stores: Stores, settings: Settings, stop: asyncio.Event, *, fails: bool = False) -> None:
        super().__init__(NAME, stores.leases, settings, "one", stop)
        self._pause = 60.0
        self._fails = fails
        self.runs = 0

    async def run_once(self) -> None:
        self.runs += 1
        if self._fails:
            raise Unavailable("it can't be done here")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_period": 1.0})


@asynccontextmanager
async def resting(stores: Stores, settings: Settings, *, fails: bool = False) -> AsyncIterator[Resting]:
    """A job that has run once, and rests."""
    stop = asyncio.Event()
    job = Resting(stores, settings, stop, fails=fails)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(job.run(), name="job")
        try:
            await eventually(lambda: _ran(job), 20)
            yield job
        finally:
            stop.set()
            await running


async def _ran(job: Resting) -> bool:
    return job.figures.next_at is not None


async def test_job_that_rests_keeps_its_lease(stores: Stores, settings: Settings) -> None:
    async with resting(stores, settings) as job:
        first = await stores.leases.read(NAME)

        async def is_renewed() -> bool:
            now = await stores.leases.read(NAME)
            return first is not None and now is not None and now.live and now.until > first.until

        await eventually(is_renewed, 20)
        assert job.runs == 1

        # As after a pause of this process that was longer than the lease.
        await stores.leases.release(NAME, "one")
        assert await stores.leases.acquire(NAME, "two", 60.0)

        async def has_lost() -> bool:
            return job.figures.next_at is None

        await eventually(has_lost, 20)
    lease = await stores.leases.read(NAME)
    assert lease is not None
    assert lease.owner == "two"


async def test_job_that_has_failed_leaves_its_lease_to_others(stores: Stores, settings: Settings) -> None:
    async with resting(stores, settings, fails=True):

        async def is_taken() -> bool:
            return await stores.leases.acquire(NAME, "two", 60.0)

        await eventually(is_taken, 20)
