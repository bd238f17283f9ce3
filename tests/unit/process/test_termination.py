"""`eventsync.process.termination`: signals are heard, and their own handlers still run."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from eventsync.process.termination import on_termination
from support.waiting import within


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """A handler of SIGTERM, as a server installs it; the signals that it got."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


async def test_the_callback_runs_and_the_handler_too(handled: list[int]) -> None:
    heard = asyncio.Event()
    with on_termination(heard.set):
        signal.raise_signal(signal.SIGTERM)
        async with within(5):
            await heard.wait()
    assert handled == [signal.SIGTERM]


async def test_afterwards_the_handler_is_what_it_was(handled: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with on_termination(lambda: pytest.fail("it is over")):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0)
    assert handled == [signal.SIGTERM]


async def test_a_handler_that_came_later_stays(handled: list[int]) -> None:
    def later(_number: int, _frame: object) -> None: ...

    with on_termination(lambda: None):
        signal.signal(signal.SIGTERM, later)
    assert signal.getsignal(signal.SIGTERM) is later
    assert handled == []


async def test_a_signal_without_a_handler_keeps_its_default() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with on_termination(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_than_the_main_one_hears_nothing(handled: list[int]) -> None:
    async def run() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with on_termination(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is before

    failures: list[BaseException] = []

    def threaded() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=threaded)
    thread.start()
    thread.join()
    assert failures == []
    assert handled == []
