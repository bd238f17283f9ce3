"""A barrier by checkpoints and events that are read at every moment of a repair, a transaction and a new log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.stores.log.events import LogHead
from eventsync.stores.log.logs import Checkpoint, Log
from eventsync.stores.stores import Stores
from eventsync.sync.live.barriers import Barriers
from eventsync.sync.live.feed import Feed

LOG = Log(LogId("aaaaaaaa"), 1, "cluster", "first")
AT = 50
"""The confirmed time."""


def time(seconds: int) -> Timestamp:
    return Timestamp(seconds, 1)


class System:
    """A log, the feed that follows it, and MongoDB's clock."""

    def __init__(self) -> None:
        self.log = LOG
        self.checkpoint = Checkpoint(Seq(5), "82AA", time(AT - 20), datetime.now(UTC))
        self.tail: LogHead | None = LogHead(Seq(9), "82AA", time(AT - 10), None)
        self.now = AT
        self.noticed = asyncio.Event()
        self.asked = self.reads = 0
        self.is_asking, self.is_reading = asyncio.Event(), asyncio.Event()
        self.on_read: Callable[[str], None] = lambda _: None
        """Called before each read, with its kind."""
        events = SimpleNamespace(tail=self.read_tail)
        stores = SimpleNamespace(logs=self, events=events, log=self)
        self.barriers = Barriers(cast("Stores", stores), cast("Feed", self), 0.05)

    # --- what barriers ask --------------------------------------------------------------------------------------------

    async def require(self) -> Log:
        self.reads += 1
        self.is_reading.set()
        return self.log

    async def read_checkpoint(self, _: LogId) -> Checkpoint:
        self.on_read("checkpoint")
        return self.checkpoint

    async def read_tail(self, _: LogId) -> LogHead | None:
        self.on_read("tail")
        return self.tail

    async def command(self, command: dict[str, Any]) -> dict[str, Any]:
        assert command["readConcern"] == {"level": "linearizable"}
        self.asked += 1
        now = self.now
        self.is_asking.set()
        await asyncio.sleep(0)
        return {"operationTime": time(now)}

    # --- what happens -------------------------------------------------------------------------------------------------

    def notice(self) -> None:
        self.noticed.set()
        self.noticed = asyncio.Event()

    async def is_passed(self) -> int | None:
        """Return the seq of a barrier, or None if it fails."""
        try:
            position = await self.barriers.position()
        except Unavailable:
            return None
        return position.seq if position.log == self.log.id else -1


@pytest.fixture
def system() -> System:
    return System()


async def test_checkpoint_of_the_time_or_a_later_one_is_past_the_barrier(system: System) -> None:
    for seconds, seq in ((AT - 1, None), (AT, 5), (AT + 1, 5)):
        system.checkpoint = replace(system.checkpoint, time=time(seconds))
        assert await system.is_passed() == seq
    # Also one in the middle of a repair, which comes behind it.
    system.checkpoint = replace(system.checkpoint, repair="a drop")
    assert await system.is_passed() == 5


async def test_later_event_is_past_the_barrier_and_one_of_the_same_time_is_not(system: System) -> None:
    for seconds, seq in ((AT - 1, None), (AT, None), (AT + 1, 8)):
        system.tail = LogHead(Seq(9), "82AA", time(seconds), None)
        assert await system.is_passed() == seq
    system.tail = None
    assert await system.is_passed() is None


async def test_barrier_is_no_place_inside_a_transaction(system: System) -> None:
    system.tail = LogHead(Seq(9), "82AA", time(AT + 1), TransactionPart("t", 3, 7))
    assert await system.is_passed() == 6


@pytest.mark.parametrize("begins_before", ["checkpoint", "tail", "second checkpoint"])
async def test_event_of_a_repair_proves_nothing(system: System, begins_before: str) -> None:
    """The log lacks changes that the repair has not compared yet, though its events are later than the barrier."""
    system.tail = LogHead(Seq(9), "82AA", time(AT + 1), None)
    moments = iter(("checkpoint", "tail", "second checkpoint"))

    def begin(_: str) -> None:
        if next(moments, "") == begins_before:
            system.checkpoint = replace(system.checkpoint, repair="history is lost")

    system.on_read = begin
    assert await system.is_passed() is None


async def test_repair_that_ends_between_the_reads_leaves_its_own_checkpoint(system: System) -> None:
    system.tail = LogHead(Seq(9), "82AA", time(AT + 1), None)

    def end(kind: str) -> None:
        if kind == "tail":
            # By now all of its events are appended, and more of them than were seen.
            system.checkpoint = replace(system.checkpoint, time=time(AT + 1), seq=Seq(30))

    system.on_read = end
    assert await system.is_passed() == 30


async def test_barrier_ends_as_soon_as_the_feed_notices(system: System) -> None:
    waiting = asyncio.create_task(system.barriers.position())
    await system.is_reading.wait()
    system.checkpoint = replace(system.checkpoint, time=time(AT), seq=Seq(12))
    system.notice()
    assert await waiting == Position(LOG.id, Seq(12))
    assert system.reads == 2


async def test_concurrent_barriers_share_what_they_ask_but_no_earlier_time(system: System) -> None:
    system.checkpoint = replace(system.checkpoint, time=time(AT))
    first = asyncio.create_task(system.is_passed())
    await system.is_asking.wait()
    # A write is acknowledged while MongoDB has answered, and the answer is under way.
    system.now = AT + 5
    later = [asyncio.create_task(system.is_passed()) for _ in range(100)]
    assert await first == 5
    assert await asyncio.gather(*later) == [None] * 100
    assert system.asked <= 3


async def test_log_that_is_about_to_end_and_a_damaged_one_have_no_barrier(system: System) -> None:
    system.checkpoint = replace(system.checkpoint, time=time(AT))
    assert await system.is_passed() == 5
    system.log = replace(LOG, reset="asked for")
    assert await system.is_passed() is None
    system.log = LOG

    def damage(_: str) -> None:
        raise Damaged("canary")

    system.on_read = damage
    with pytest.raises(Unavailable) as refused:
        await system.barriers.position()
    assert "canary" not in refused.value.message
