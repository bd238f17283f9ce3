from __future__ import annotations

import asyncio

from eventsync.concurrency.pacer import Pacer


async def entered_by_turn(pacer: Pacer) -> list[int]:
    """Return how many of ten have entered after each turn. Fail unless they came in order."""
    entered = list[int]()
    for number in range(10):
        pacer.pass_through(lambda number=number: entered.append(number))  # type: ignore[misc]
    seen = []
    while len(pacer):
        await asyncio.sleep(0)
        seen.append(len(entered))
    assert entered == list(range(10))
    return seen


async def test_one_in_each_turn_first_come_first_served() -> None:
    seen = await entered_by_turn(Pacer())
    assert [seen[0], seen[1], seen[-1]] == [1, 2, 10]


async def test_or_as_many_as_it_takes() -> None:
    assert await entered_by_turn(Pacer(each=4)) == [4, 8, 10]


async def test_others_run_between_two_turns() -> None:
    pacer, order = Pacer(), list[str]()

    async def enter() -> None:
        await pacer.passed()
        order.append("new")

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(enter())
        await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
            order.append("old")
    assert order.index("old") < 9
    assert order.count("new") == 20


async def test_cancelled_and_failed_entries_block_no_other() -> None:
    pacer, entered = Pacer(), list[str]()
    gone = asyncio.create_task(pacer.passed())
    await asyncio.sleep(0)
    gone.cancel()

    def fail() -> None:
        raise ValueError

    failures = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    pacer.pass_through(fail)
    pacer.pass_through(lambda: entered.append("next"))
    await pacer.passed()
    assert entered == ["next"]
    assert [type(failure) for failure in failures] == [ValueError]
