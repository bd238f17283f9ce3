"""Budgets bound the use of one principal at a time, and no other one waits for it."""

from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.budgets import BudgetLimits, Budgets
from eventsync.concurrency.held_bytes import FREE, HeldBytes, need
from eventsync.errors import RateLimited

pytestmark = pytest.mark.anyio


class Requests:
    """Requests that hold their places until they are let go."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._tasks: list[asyncio.Task[None]] = []
        self.began: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    async def begin(self, sub: str, name: str, weight: int = 1) -> asyncio.Task[None]:
        self.ends[name] = asyncio.Event()
        task = asyncio.create_task(self._hold(sub, name, weight))
        self._tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def _hold(self, sub: str, name: str, weight: int) -> None:
        async with self._budgets.request(sub, weight):
            self.began.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        for _ in range(4):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for end in self.ends.values():
            end.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_requests_over_the_limit_wait_their_turn_and_delay_no_other_principal() -> None:
    budgets = Budgets(BudgetLimits(requests=2))
    requests = Requests(budgets)
    for name in ("a1", "a2", "a3", "a4"):
        await requests.begin("ada", name)
    await requests.begin("bob", "b1")
    assert requests.began == ["a1", "a2", "b1"]
    await requests.end("a2")
    assert requests.began == ["a1", "a2", "b1", "a3"]
    await requests.close()
    assert requests.began[-1] == "a4"
    assert len(budgets) == 0


async def test_heavy_request_waits_for_all_its_places_and_is_not_overtaken() -> None:
    requests = Requests(Budgets(BudgetLimits(requests=4)))
    await requests.begin("ada", "one")
    await requests.begin("ada", "heavy", weight=100)
    await requests.begin("ada", "two")
    assert requests.began == ["one"]
    await requests.end("one")
    assert requests.began == ["one", "heavy"]
    await requests.end("heavy")
    assert requests.began == ["one", "heavy", "two"]
    await requests.close()


async def test_too_many_waiting_requests_are_refused() -> None:
    budgets = Budgets(BudgetLimits(requests=1, waiting=1))
    requests = Requests(budgets)
    await requests.begin("ada", "a1")
    await requests.begin("ada", "a2")
    refused = await requests.begin("ada", "a3")
    with pytest.raises(RateLimited):
        await refused
    assert budgets.refused == 1
    await requests.close()


async def test_cancelled_request_gives_its_place_to_the_next_one() -> None:
    budgets = Budgets(BudgetLimits(requests=1))
    requests = Requests(budgets)
    await requests.begin("ada", "a1")
    waiting = await requests.begin("ada", "a2")
    await requests.begin("ada", "a3")
    waiting.cancel()
    await requests.end("a1")
    assert requests.began == ["a1", "a3"]
    # Cancelled in the very turn of the loop in which its place becomes free.
    last = await requests.begin("ada", "a4")
    await requests.begin("ada", "a5")
    requests.ends["a3"].set()
    await asyncio.sleep(0)
    last.cancel()
    await requests.end("a3")
    assert requests.began[-1] == "a5"
    await requests.close()
    assert len(budgets) == 0


async def test_connections_of_a_principal_are_bounded() -> None:
    budgets = Budgets(BudgetLimits(connections=1))
    with budgets.connection("ada"), budgets.connection("bob"):
        with pytest.raises(RateLimited), budgets.connection("ada"):
            pass
        # A request is no connection.
        async with budgets.request("ada"):
            pass
    with budgets.connection("ada"):
        assert len(budgets) == 1


async def test_bytes_of_a_principal_are_bounded_and_those_of_others_are_not() -> None:
    held, budgets = HeldBytes(100 * FREE), Budgets(BudgetLimits(held_bytes=4 * FREE))

    async def hold(sub: str, size: int, then: asyncio.Event) -> None:
        with held.request():
            async with budgets.request(sub):
                need(size)
                await then.wait()

    end = asyncio.Event()
    first = asyncio.create_task(hold("ada", 3 * FREE, end))
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await hold("ada", 2 * FREE, end)
    other = asyncio.create_task(hold("bob", 20 * FREE, end))
    await asyncio.sleep(0)
    assert held.held == 23 * FREE
    end.set()
    await asyncio.gather(first, other)
    await hold("ada", 4 * FREE, end)
    assert held.held == 0


async def test_without_limits_everything_is_admitted() -> None:
    requests = Requests(Budgets(BudgetLimits()))
    for number in range(50):
        await requests.begin("ada", str(number))
    assert len(requests.began) == 50
    await requests.close()
