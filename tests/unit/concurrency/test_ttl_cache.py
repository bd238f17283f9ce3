from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.errors import Unavailable


class Source:
    """Counts what it is asked; answers with the number of the question."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await asyncio.sleep(0)
        return number


async def test_many_who_ask_at_once_ask_once() -> None:
    cache, source = TTLCache[int](ttl=60, max_entries=10), Source()
    assert await asyncio.gather(*(cache.get("a", source) for _ in range(20))) == [1] * 20
    assert await cache.get("b", source) == 2
    assert await cache.get("a", source) == 1


async def test_an_expired_or_cleared_value_is_fetched_again() -> None:
    source = Source()
    stale = TTLCache[int](ttl=0, max_entries=10)
    assert [await stale.get("a", source), await stale.get("a", source)] == [1, 2]
    cache = TTLCache[int](ttl=60, max_entries=10)
    assert [await cache.get("a", source), await cache.get("a", source)] == [3, 3]
    cache.clear()
    assert await cache.get("a", source) == 4


async def test_it_knows_so_many_answers_and_no_more() -> None:
    cache, source = TTLCache[int](ttl=60, max_entries=2), Source()
    for question in ("a", "b", "c"):
        await cache.get(question, source)
    assert await cache.get("c", source) == 3
    assert await cache.get("b", source) == 2
    assert await cache.get("a", source) == 4


async def test_a_failure_is_no_answer() -> None:
    cache, source = TTLCache[int](ttl=60, max_entries=2), Source()

    async def fail() -> int:
        raise Unavailable("not now")

    with pytest.raises(Unavailable):
        await cache.get("a", fail)
    assert await cache.get("a", source) == 1
