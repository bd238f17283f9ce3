from __future__ import annotations

from dataclasses import dataclass

from eventsync.concurrency.lru_cache import LRUCache


@dataclass(frozen=True)
class Part:
    cost: int


def test_the_least_recently_used_value_is_evicted_first() -> None:
    cache: LRUCache[tuple[str, int], Part] = LRUCache(10, lambda part: part.cost)
    for number in range(5):
        cache.keep(("a", number), Part(2))
    assert cache.get(("a", 0)) == Part(2)
    cache.keep(("b", 0), Part(3))
    assert [cache.get(("a", number)) is not None for number in range(5)] == [True, False, False, True, True]
    assert cache.bytes == 9


def test_one_that_is_larger_than_all_is_kept_alone_where_one_always_is() -> None:
    cache: LRUCache[int, Part] = LRUCache(10, lambda part: part.cost, keeps_one=True)
    for number, cost in enumerate((2, 11, 12)):
        cache.keep(number, Part(cost))
    assert [cache.get(number) is not None for number in range(3)] == [False, False, True]
    assert cache.bytes == 12
    cache.keep(3, Part(4))
    cache.keep(4, Part(5))
    assert [cache.get(number) is not None for number in range(5)] == [False, False, False, True, True]


def test_one_that_is_larger_than_all_is_not_kept() -> None:
    cache: LRUCache[tuple[str, int], Part] = LRUCache(10, lambda part: part.cost)
    cache.keep(("a", 0), Part(2))
    cache.keep(("a", 1), Part(11))
    assert cache.get(("a", 1)) is None
    assert cache.get(("a", 0)) == Part(2)
    cache.keep(("a", 0), Part(2))
    assert cache.bytes == 2
