"""Timeouts that share one timer."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.timeouts import Timeout

FAR = 3600.0


async def waiting(timeout: Timeout, entered: asyncio.Event | None = None) -> None:
    with timeout:
        if entered is not None:
            entered.set()
        await asyncio.Event().wait()


async def test_block_ends_once_its_time_is_over() -> None:
    timeout = Timeout(0.0)
    with pytest.raises(TimeoutError):
        await waiting(timeout)
    assert timeout.is_expired
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_shorter_timeout_does_not_wait_for_a_longer_one() -> None:
    longer = asyncio.create_task(waiting(Timeout(FAR)))
    with pytest.raises(TimeoutError):
        await waiting(Timeout(0.0))
    assert not longer.done()
    longer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await longer


async def test_each_of_several_ends() -> None:
    found = await asyncio.gather(*(waiting(Timeout(number / 1000)) for number in range(20)), return_exceptions=True)
    assert [type(error) for error in found] == [TimeoutError] * 20


async def test_inner_block_leaves_the_outer_one_its_time() -> None:
    with Timeout(FAR) as outer:
        with pytest.raises(TimeoutError):
            await waiting(Timeout(0.0))
        assert not outer.is_expired
        await asyncio.sleep(0)


async def test_outer_block_ends_within_an_inner_one() -> None:
    inner = Timeout(FAR)
    with pytest.raises(TimeoutError), Timeout(0.0):
        await waiting(inner)
    assert not inner.is_expired


async def test_limit_can_be_taken_away_and_set_again() -> None:
    with Timeout(0.0) as timeout:
        timeout.stop()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not timeout.is_expired
        timeout.start(0.0)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        assert timeout.is_expired


async def test_block_that_ends_in_time_is_never_cancelled() -> None:
    with Timeout(0.0):
        pass
    with pytest.raises(TimeoutError):
        await waiting(Timeout(0.0))  # the timer has looked


async def test_cancellation_by_another_stays_one() -> None:
    entered = asyncio.Event()
    task = asyncio.create_task(waiting(Timeout(FAR), entered))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_at_the_same_time_stays_one() -> None:
    timeout, entered = Timeout(FAR), asyncio.Event()
    task = asyncio.create_task(waiting(timeout, entered))
    await entered.wait()
    task.cancel()
    timeout.expire()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_error_of_the_block_is_kept() -> None:
    async def fails() -> None:
        with Timeout(0.0):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                raise LookupError from error

    with pytest.raises(LookupError):
        await fails()


async def test_timeout_that_was_left_has_no_effect() -> None:
    with Timeout(FAR) as timeout:
        pass
    timeout.start(0.0)
    timeout.expire()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
