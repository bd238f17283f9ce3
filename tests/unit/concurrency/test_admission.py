from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.admission import Admission
from eventsync.errors import Unavailable
from support.waiting import within


async def test_as_many_as_there_are_places_and_no_more() -> None:
    admission = Admission(2, queue=10, wait=30, what="readers")
    inside, most, left = 0, 0, asyncio.Event()

    async def visit() -> None:
        nonlocal inside, most
        async with admission.admitted():
            inside += 1
            most = max(most, inside)
            if most == 2:
                left.set()
            await left.wait()
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(visit())
    assert (most, inside) == (2, 0)


async def test_a_caller_without_a_place_in_time_is_refused() -> None:
    admission = Admission(1, queue=10, wait=0.01, what="readers")
    async with admission.admitted():
        with pytest.raises(Unavailable, match="too many readers") as caught:
            async with admission.admitted():
                raise AssertionError("admitted beside another")
    assert 0.002 <= caught.value.retry_after <= 0.01
    assert (admission.waiting, admission.refused) == (0, 1)
    async with admission.admitted():
        pass


async def test_a_place_is_given_back_by_whoever_fails() -> None:
    admission = Admission(1, queue=10, wait=0.01, what="readers")
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"):
            async with admission.admitted():
                raise ValueError("mine")


async def test_a_place_is_given_back_by_whoever_is_cancelled() -> None:
    admission = Admission(1, queue=10, wait=0.05, what="readers")
    inside = asyncio.Event()

    async def stay() -> None:
        async with admission.admitted():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await inside.wait()
    task.cancel()
    async with admission.admitted():
        assert task.done()


async def test_a_full_queue_refuses_at_once() -> None:
    admission = Admission(1, queue=1, wait=30, what="readers")

    async def visit() -> None:
        async with admission.admitted():
            raise AssertionError("admitted beside another")

    async with admission.admitted():
        waiting = asyncio.create_task(visit())
        await asyncio.sleep(0)
        assert admission.waiting == 1
        async with within(5):
            with pytest.raises(Unavailable, match="too many readers"):
                await visit()
        waiting.cancel()
        await asyncio.wait({waiting})
    assert (admission.waiting, admission.refused) == (0, 1)
