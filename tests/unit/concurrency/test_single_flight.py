from __future__ import annotations

import asyncio

import pytest

from eventsync.concurrency.single_flight import SingleFlight
from eventsync.errors import Unavailable


class Fetch:
    """Counts, and waits until it may continue."""

    def __init__(self, outcome: Exception | str = "it") -> None:
        self.outcome = outcome
        self.begun = asyncio.Semaphore(0)
        self.count = 0
        self.go = asyncio.Event()

    async def __call__(self) -> str:
        self.count += 1
        self.begun.release()
        await self.go.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_one_fetches_for_all() -> None:
    single_flight, fetch = SingleFlight[str](), Fetch()
    asking = [asyncio.ensure_future(single_flight.fetch("a", fetch)) for _ in range(20)]
    await fetch.begun.acquire()
    assert await single_flight.fetch("b", lambda: asyncio.sleep(0, "other")) == "other"
    fetch.go.set()
    assert await asyncio.gather(*asking) == ["it"] * 20
    assert (fetch.count, len(single_flight)) == (1, 0)


async def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    single_flight, fetch = SingleFlight[str](), Fetch(Unavailable("not now"))
    asking = [asyncio.ensure_future(single_flight.fetch("a", fetch)) for _ in range(20)]
    await fetch.begun.acquire()
    fetch.go.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert fetch.count == 1
    fetch.outcome = "now"
    assert await single_flight.fetch("a", fetch) == "now"


async def test_after_a_cancellation_the_next_caller_fetches() -> None:
    single_flight, fetch = SingleFlight[str](), Fetch()
    first = asyncio.ensure_future(single_flight.fetch("a", fetch))
    await fetch.begun.acquire()
    others = [asyncio.ensure_future(single_flight.fetch("a", fetch)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await fetch.begun.acquire()
    fetch.go.set()
    assert await asyncio.gather(*others) == ["it"] * 5
    assert fetch.count == 2
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(single_flight) == 0


async def test_a_waiter_that_is_cancelled_disturbs_nobody() -> None:
    single_flight, fetch = SingleFlight[str](), Fetch()
    first, second = (asyncio.ensure_future(single_flight.fetch("a", fetch)) for _ in range(2))
    await fetch.begun.acquire()
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    fetch.go.set()
    assert await first == "it"
    assert second.cancelled()
