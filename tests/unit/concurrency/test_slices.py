"""Long work of many at a time: what one turn of the event loop does is bounded, and all get their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from eventsync.concurrency.slices import SLICE, Slices, TimeShare, turn

pytestmark = pytest.mark.anyio


async def busiest(*work: Awaitable[None]) -> tuple[int, list[int]]:
    """The most pieces of work that ended in one turn of the loop, and the order in which all did."""
    ended: list[int] = []

    async def run(number: int, piece: Awaitable[None]) -> None:
        await piece
        ended.append(number)

    tasks = [asyncio.ensure_future(run(number, piece)) for number, piece in enumerate(work)]
    most = seen = 0
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        most, seen = max(most, len(ended) - seen), len(ended)
    return most, ended


async def test_one_turn_has_one_slice_for_all() -> None:
    share = TimeShare(each=100)
    assert await busiest(*(share.take(100) for _ in range(5))) == (1, [0, 1, 2, 3, 4])
    assert await busiest(*(share.take(50) for _ in range(6))) == (2, [0, 1, 2, 3, 4, 5])


async def test_more_than_a_slice_has_a_turn_for_itself() -> None:
    share = TimeShare(each=100)
    assert await busiest(share.take(1), share.take(500), share.take(1), share.take(99)) == (2, [0, 1, 2, 3])


async def test_little_work_does_not_wait() -> None:
    share = TimeShare(each=100)
    for _ in range(5):
        taking = asyncio.ensure_future(share.take(20))
        await asyncio.sleep(0)
        assert taking.done()


async def test_a_cancelled_waiter_blocks_no_other() -> None:
    share = TimeShare(each=100)
    tasks = [asyncio.ensure_future(share.take(100)) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [False, True, True, False]
    await share.take(100)


async def test_all_of_a_loop_share_its_turns() -> None:
    async def sliced() -> None:
        slices = Slices()
        for _ in range(3):
            await slices.did(SLICE)

    assert (await busiest(*(turn(SLICE) for _ in range(5)), *(sliced() for _ in range(5))))[0] == 1
