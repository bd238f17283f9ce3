"""Bytes that requests hold together are bounded; one alone, and small ones, are always served."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.held_bytes import FREE, HeldBytes, need
from eventsync.errors import Unavailable

MOST = 10 * FREE


def test_requests_together_hold_no_more_than_they_may() -> None:
    held = HeldBytes(MOST)
    with held.request() as first:
        need(8 * FREE)
        with held.request() as second:
            need(2 * FREE)
            with pytest.raises(Unavailable):
                need(2 * FREE + 1)
            assert (held.held, held.refused, second.size) == (MOST, 1, 2 * FREE)
            first.settle(FREE)
            need(9 * FREE)
        assert held.held == FREE
    assert held.held == 0


def test_one_alone_may_hold_whatever_it_needs_and_small_ones_are_served_beside_it() -> None:
    held = HeldBytes(MOST)
    with held.request():
        need(3 * MOST)
        with held.request():
            need(FREE)
            with pytest.raises(Unavailable):
                need(FREE + 1)


def test_repeated_needs_count_once() -> None:
    held = HeldBytes(MOST)
    with held.request():
        for _ in range(100):
            need(FREE)
        assert held.held == FREE


async def test_work_that_outlives_its_request_holds_nothing() -> None:
    held, ended = HeldBytes(MOST), asyncio.Event()

    async def late() -> None:
        await ended.wait()
        need(FREE)

    with held.request():
        work = asyncio.create_task(late())
    ended.set()
    await work
    assert held.held == 0


def test_without_a_request_nothing_is_counted() -> None:
    need(10**12)


async def test_concurrent_requests_are_counted_apart() -> None:
    held = HeldBytes(MOST)
    both = asyncio.Barrier(2)

    async def request(size: int) -> int:
        with held.request() as share:
            await both.wait()
            need(size)
            await both.wait()
            return share.size

    first, second = await asyncio.gather(request(1), request(2))
    assert (first, second) == (1, 2)
    assert held.held == 0
