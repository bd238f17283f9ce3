"""The journal is flushed for writers that do not wait for it, and no longer than they need it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from eventsync.domain.positions import LogId
from eventsync.stores.log.logs import LogStore
from eventsync_workers.sequencing import journal_flusher
from eventsync_workers.sequencing.journal_flusher import JournalFlusher
from support.waiting import within

pytestmark = pytest.mark.anyio

FAST = 0.003
"""Seconds that a journaled write takes."""


class Journal:
    """Stands for the store's journal; each flush sets `flushed`."""

    def __init__(self) -> None:
        self.flushed = asyncio.Event()

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        async def flush() -> None:
            self.flushed.set()

        yield flush


def flusher(journal: Any, *, interval: float = 0.001) -> JournalFlusher:
    made = JournalFlusher(cast("LogStore", journal), LogId("k3f9ab2c"), interval)
    see(made, 0.0)  # The clocks are equal.
    return made


def see(made: JournalFlusher, delay: float, *, waited: float = 1.0, journaled: float = FAST) -> None:
    """Show a change that was committed `delay` seconds ago, to a read that began `waited` seconds ago."""
    made.saw(datetime.now(UTC) - timedelta(seconds=delay), time.time() - waited, journaled)


async def test_four_late_reads_of_five_start_the_flushing() -> None:
    journal = Journal()
    made = flusher(journal)
    async with within(10), made.running():
        for delay in (0.06, 0.06, 0.0, 0.06):
            see(made, delay)
            assert made.delay is None
        see(made, 0.06)
        assert made.delay == pytest.approx(0.06, abs=0.02)
        await journal.flushed.wait()


@pytest.mark.parametrize(
    "seen",
    [
        [{"delay": delay} for delay in (0.06, 0.0, 0.06, 0.06, 0.0, 0.06)],
        [{"delay": 60.0, "waited": 0.001}] * 5,
        [{"delay": 0.06, "journaled": 0.05}] * 5,
        [{"delay": 0.008}] * 5,
    ],
    ids=["now and then", "backlog", "slow disk", "in time"],
)
async def test_nothing_else_starts_it(seen: list[dict[str, float]]) -> None:
    made = flusher(Journal())
    async with made.running():
        for one in seen:
            see(made, **one)
        await asyncio.sleep(0.01)
    assert (made.delay, made.flushes) == (None, 0)


async def test_an_interval_of_zero_turns_it_off() -> None:
    made = flusher(Journal(), interval=0.0)
    async with made.running():
        for _ in range(5):
            see(made, 0.06)
        await asyncio.sleep(0.01)
    assert (made.delay, made.flushes) == (None, 0)


@pytest.mark.parametrize("limit", ["_HOLD", "_IDLE"])
async def test_it_stops_after_its_time_and_without_changes_and_starts_again(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_flusher, limit, 0.05)
    journal = Journal()
    made = flusher(journal)
    async with within(10), made.running():
        for _ in range(2):
            journal.flushed.clear()
            # On a busy machine its time may be over before it has flushed anything.
            while not journal.flushed.is_set():
                see(made, 0.06)
                await asyncio.sleep(0)
            while made.delay is not None:  # noqa: ASYNC110 - its end is no event
                await asyncio.sleep(0.005)
            flushes = made.flushes
            await asyncio.sleep(0.02)
            assert made.flushes == flushes
