from __future__ import annotations

import asyncio

import pytest

from app.sync.keyed_locks import KeyedLocks


async def test_one_at_a_time_for_each_key_and_nothing_is_left() -> None:
    locks, inside, most = KeyedLocks(), 0, 0

    async def use(key: str) -> None:
        nonlocal inside, most
        async with locks.held(key):
            inside += key == "a"
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= key == "a"

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(use("a"))
            group.create_task(use("b"))
    assert (most, len(locks)) == (1, 0)


async def test_keys_do_not_wait_for_each_other() -> None:
    locks = KeyedLocks()
    async with asyncio.timeout(5), locks.held("a"), locks.held("b"):
        assert len(locks) == 2


async def test_who_is_cancelled_or_fails_lets_the_next_one_in() -> None:
    locks, entered = KeyedLocks(), asyncio.Event()

    async def hold() -> None:
        async with locks.held("a"):
            entered.set()
            await asyncio.Event().wait()

    async def fail() -> None:
        async with locks.held("a"):
            raise ValueError

    async with asyncio.TaskGroup() as group:
        holding = group.create_task(hold())
        await entered.wait()
        waiting = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        holding.cancel()
        with pytest.raises(ValueError):
            await waiting
    assert len(locks) == 0
