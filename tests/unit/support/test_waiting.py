"""Deadlines that grow with the load of the machine."""

from __future__ import annotations

import asyncio

import pytest

from support import waiting
from support.waiting import eventually, patience, scaled, within

FOREVER = asyncio.Event


class Machine:
    """Says how busy it is."""

    pace = 1.0

    def now(self) -> float:
        return self.pace


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(waiting, "_pace", machine)
    return machine


def test_seconds_grow_with_the_load(machine: Machine) -> None:
    assert scaled(2.0) == 2.0
    assert patience(2.0) == 6.0
    machine.pace = 9.0
    assert scaled(2.0) == 6.0
    assert patience(2.0) == 27.0


async def test_a_block_that_does_not_end_times_out(machine: Machine) -> None:
    with pytest.raises(TimeoutError):
        async with within(0.001):
            await FOREVER().wait()


async def test_a_deadline_moves_on_while_the_machine_becomes_busier(machine: Machine) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    async with within(0.01):
        machine.pace = 1e6
        # On the idle machine the block would have timed out by then.
        loop.call_later(waiting._GENEROUS * 0.01 * 2, done.set)
        await done.wait()


async def test_an_error_in_the_block_comes_as_it_is(machine: Machine) -> None:
    with pytest.raises(ZeroDivisionError):
        async with within(1):
            _ = 1 / 0


async def test_a_condition_is_asked_until_it_holds(machine: Machine) -> None:
    answers = iter([False, False, True])
    await eventually(lambda: next(answers), pause=0)
    assert next(answers, None) is None


async def test_a_condition_that_never_holds_times_out(machine: Machine) -> None:
    async def never() -> bool:
        return False

    with pytest.raises(TimeoutError):
        await eventually(never, 0.001, pause=0)


def test_the_machine_is_measured() -> None:
    measured = waiting._Pace().now()
    assert 1.0 <= measured <= waiting._MOST
    assert waiting._queue() > 0
    assert waiting._work() > 0
