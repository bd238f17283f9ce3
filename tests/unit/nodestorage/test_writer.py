"""Writers of one document queue up; writers of different ones don't."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.errors import Conflict
from eventsync.nodestorage.writer import DocumentLocks


async def test_turns_come_in_order() -> None:
    turns, order = DocumentLocks(), list[int]()
    inside = 0

    async def write(number: int) -> None:
        nonlocal inside
        async with turns.of("c/1", within=5):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    await asyncio.gather(*(write(number) for number in range(20)))
    assert order == list(range(20))


async def test_other_documents_do_not_wait() -> None:
    turns = DocumentLocks()
    async with turns.of("c/1", within=5), turns.of("c/2", within=0.001):
        pass


async def test_waiting_is_bounded_and_leaves_the_queue() -> None:
    turns = DocumentLocks()
    async with turns.of("c/1", within=5):
        with pytest.raises(Conflict, match="c/1"):
            async with turns.of("c/1", within=0.01):
                pytest.fail("two turns at once")
    async with turns.of("c/1", within=0.01):
        pass


async def test_an_error_ends_the_turn_and_nothing_is_kept() -> None:
    turns = DocumentLocks()
    with pytest.raises(ZeroDivisionError):
        async with turns.of("c/1", within=5):
            raise ZeroDivisionError
    async with turns.of("c/1", within=0.01):
        assert len(turns._locks) == 1
    assert len(turns._locks) == 0
