from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.waiting import LightEvent


async def _waiting(flag: LightEvent, count: int, seconds: float | None) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.ensure_future(flag.wait(seconds)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_everybody_goes_on_once_it_is_set() -> None:
    flag = LightEvent()
    tasks = await _waiting(flag, 3, None)
    assert not any(task.done() for task in tasks)
    flag.set()
    flag.set()
    assert await asyncio.gather(*tasks) == [True] * 3
    assert flag.is_set()
    assert await flag.wait()
    flag.clear()
    assert not flag.is_set()


async def test_a_woken_waiter_continues_even_if_the_event_is_cleared_at_once() -> None:
    flag = LightEvent()
    (task,) = await _waiting(flag, 1, 60.0)
    flag.set()
    flag.clear()
    assert await task


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001])
async def test_a_wait_ends_at_its_timeout(seconds: float) -> None:
    flag = LightEvent()
    assert not await flag.wait(seconds)
    flag.set()
    assert await flag.wait(seconds)


async def test_nothing_is_left_of_who_is_cancelled() -> None:
    flag = LightEvent()
    gone, stays = await _waiting(flag, 2, 60.0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert len(flag._waiters) == 1
    flag.set()
    assert await stays
    assert flag._waiters == []
