"""The source of subscriptions: reads of MongoDB that are ahead of the window."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.sync.catch_up.source import Source
from support.waiting import patience, within

LOG, ORDERS = LogId("aaaaaaaa"), Shape("orders")


class Ahead:
    """A source whose window ends at seq 10, and what a read of MongoDB up to seq 12 may rely on."""

    def __init__(self, timeout: float) -> None:
        self.event, self.has_all = asyncio.Event(), True
        self.window = SimpleNamespace(head=10)
        self._source = SimpleNamespace(
            window=self.window,
            timeout=timeout,
            noticed=lambda: self.event,
            has_all_after=lambda *_: self.has_all,
        )

    async def is_whole(self) -> bool:
        start, end = Position(LOG, Seq(5)), Position(LOG, Seq(12))
        return await Source.has_all_between(cast("Source", self._source), ORDERS, start, end)


async def test_has_all_between_waits_for_the_feed() -> None:
    for has_all in (True, False):
        ahead = Ahead(patience(20))
        waiting = asyncio.create_task(ahead.is_whole())
        await asyncio.sleep(0)
        assert not waiting.done()
        ahead.window.head, ahead.has_all = 12, has_all
        ahead.event.set()
        async with within(10):
            assert await waiting is has_all


async def test_has_all_between_is_false_at_once_in_a_gap_and_where_the_feed_comes_too_late() -> None:
    ahead = Ahead(patience(20))
    ahead.has_all = False
    async with within(10):
        assert not await ahead.is_whole()
        assert not await Ahead(0.0).is_whole()
