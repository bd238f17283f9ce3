from __future__ import annotations

import asyncio

import pytest

from eventsync_workers.jobs import job as module
from eventsync_workers.jobs.job import TimeSlice


class Clock:
    """Advances only while something works."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


async def test_other_tasks_run_only_when_a_slice_is_over(clock: Clock) -> None:
    ran: list[int] = []
    turns = TimeSlice()
    asyncio.get_running_loop().call_soon(ran.append, 1)
    assert not await turns.next()
    assert ran == []
    clock.work(0.002)
    assert await turns.next()
    assert ran == [1]


async def test_a_slice_waits_while_other_tasks_are_busy(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AWAY", 0.2)

    async def steps() -> None:
        for _ in range(5):
            clock.work(0.0005)
            await asyncio.sleep(0)
        done.append(True)

    done: list[bool] = []
    turns = TimeSlice()
    working = asyncio.create_task(steps())
    clock.work(0.002)
    assert await turns.next()
    assert done == [True]
    await working
