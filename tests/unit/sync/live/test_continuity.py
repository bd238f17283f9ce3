"""Reads that are confirmed by the primary's process, and by a feed that was not interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.sync.live.continuity import Continuity, NotContinued
from support.waiting import patience, within


class Primary:
    """Answers which process is primary, at once or once `free` is set."""

    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.asked = 0
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self) -> str:
        self.asked += 1
        name = self.name
        await self.free.wait()
        return name


def followed(primary: Primary) -> Continuity:
    continuity = Continuity(primary, patience(10))
    continuity.interrupted()
    continuity.follows(primary.name)
    return continuity


async def read(continuity: Continuity) -> None:
    async with continuity.reading():
        pass


async def test_reads_of_the_process_that_the_feed_follows_are_confirmed() -> None:
    primary = Primary()
    continuity = followed(primary)
    await read(continuity)
    await read(continuity)
    assert primary.asked == 2
    assert not continuity.is_doubted


async def test_a_read_of_another_primary_is_not_confirmed_and_the_next_waits_for_the_feed() -> None:
    primary = Primary()
    continuity = followed(primary)
    primary.name = "two"
    with pytest.raises(NotContinued):
        await read(continuity)
    assert continuity.is_doubted
    later = asyncio.create_task(read(continuity))
    await asyncio.sleep(0)
    assert primary.asked == 1, "it does not begin to read"
    continuity.interrupted()
    assert not continuity.is_doubted, "the feed knows"
    continuity.follows("two")
    async with within(10):
        await later


async def test_a_read_during_an_interruption_is_not_confirmed() -> None:
    continuity = followed(Primary())
    term = await continuity.begin()
    continuity.interrupted()
    with pytest.raises(NotContinued):
        await continuity.confirm(term)
    continuity.follows("one")
    with pytest.raises(NotContinued):
        await continuity.confirm(term)
    assert not continuity.is_doubted, "the feed knows"


async def test_following_on_without_an_interruption_confirms_what_was_begun() -> None:
    continuity = followed(Primary())
    async with continuity.reading():
        continuity.follows("one")


async def test_no_read_begins_before_the_feed_follows_the_log() -> None:
    continuity = Continuity(Primary(), 0.01)
    continuity.interrupted()
    with pytest.raises(Unavailable, match="does not follow the event log") as refused:
        await read(continuity)
    assert refused.value.retryable


async def test_damage_that_another_primary_shows_is_no_damage() -> None:
    primary = Primary()
    continuity = followed(primary)
    with pytest.raises(Damaged):
        async with continuity.reading():
            raise Damaged("a hole")
    primary.name = "two"
    with pytest.raises(NotContinued):
        async with continuity.reading():
            raise Damaged("a hole")


async def test_rows_end_only_where_they_are_confirmed() -> None:
    primary = Primary()
    continuity = followed(primary)

    async def rows() -> AsyncIterator[Iterable[bytes]]:
        yield [b"1"]
        primary.name = "two"

    confirmed = continuity.confirmed(await continuity.begin(), rows())
    assert await anext(confirmed) == [b"1"]
    with pytest.raises(NotContinued):
        await anext(confirmed)


async def test_concurrent_reads_share_an_answer_but_none_that_was_asked_for_before() -> None:
    primary = Primary()
    continuity = followed(primary)
    primary.free.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(read(continuity))
        await asyncio.sleep(0)
        assert primary.asked == 1
        for _ in range(100):
            group.create_task(read(continuity))
        await asyncio.sleep(0)
        primary.free.set()
    assert primary.asked == 2


async def test_without_a_feed_nothing_is_confirmed() -> None:
    primary = Primary()
    await read(Continuity(primary, 0.0))
    assert primary.asked == 0
