from __future__ import annotations

import asyncio
import time

from workers.turns import Turns


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_others_go_first_only_when_a_turn_is_over() -> None:
    ran: list[int] = []
    turns = Turns()
    asyncio.get_running_loop().call_soon(ran.append, 1)
    assert not await turns.next()
    assert ran == []
    spin(0.002)
    assert await turns.next()
    assert ran == [1]


async def test_while_others_are_at_work_it_stays_away() -> None:
    async def steps() -> None:
        for _ in range(5):
            spin(0.0005)
            await asyncio.sleep(0)
        done.append(True)

    done: list[bool] = []
    turns = Turns()
    working = asyncio.create_task(steps())
    spin(0.002)
    assert await turns.next()
    assert done == [True]
    await working
