"""The driver's wait for a condition: its caller has the lock afterwards, however it is cancelled."""

from __future__ import annotations

import asyncio
from types import ModuleType

import pytest
from pymongo.lock import Condition, Lock

from eventsync.mongodb import condition_wait
from eventsync.mongodb.condition_wait import MODULES, NAME
from support.waiting import eventually, within


@pytest.fixture(autouse=True)
def installed() -> None:
    condition_wait.install()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("cancellations", [1, 2, 3])
async def test_a_cancelled_caller_ends_with_the_lock(module: ModuleType, cancellations: int) -> None:
    lock = Lock()
    condition = Condition(lock)
    held_at_the_end: list[bool] = []

    async def waiting() -> None:
        async with lock:
            try:
                await getattr(module, NAME)(condition, 0.01)
            finally:
                held_at_the_end.append(lock.locked())

    async def waits() -> bool:
        return bool(condition._waiters)

    async def waits_no_more() -> bool:
        return not condition._waiters

    task = asyncio.create_task(waiting())
    await eventually(waits, 10, pause=0)
    # Another one has the lock when the time is over.
    await lock.acquire()
    await eventually(waits_no_more, 10, pause=0.001)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done(), "it waits for the lock, which is not its own"
    assert lock.locked()
    lock.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert held_at_the_end == [True]
    await asyncio.sleep(0)
    assert not lock.locked(), "nobody keeps it"


@pytest.mark.parametrize("module", MODULES)
async def test_it_tells_a_notice_from_the_end_of_the_time(module: ModuleType) -> None:
    lock = Lock()
    condition = Condition(lock)

    async def notify() -> None:
        async with lock:
            condition.notify_all()

    async with asyncio.TaskGroup() as group, within(10), lock:
        assert not await getattr(module, NAME)(condition, 0.001)
        for seconds in (5.0, None):
            group.create_task(notify())
            assert await getattr(module, NAME)(condition, seconds)
