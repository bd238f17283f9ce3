"""The ids of a collection as it was: those of a stored snapshot, and of the documents touched after it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.values.extended_json import Document
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.history.past_pages import PastCursor, PastPages
from eventsync.stores.stores import Stores
from support.loops import Loop


async def touched(stores: Stores, base: Sequence[str], then: Sequence[str]) -> Position:
    """A snapshot of `docs` with the documents of `base`, and an event of each of `then` after it."""
    await stores.ensure_indexes()
    log = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=Timestamp(1, 1))
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], log.id, Seq(0))

    async def rows() -> AsyncIterator[tuple[int, Document]]:
        for text in base:
            yield 1, {"_id": text}

    await stores.snapshots.stored.write(log.id, "docs", Seq(0), Timestamp(1, 1), rows())
    for first in range(0, len(then), 10_000):
        some = enumerate(then[first : first + 10_000], first + 1)
        await stores.log["events"].insert_many(
            [{"_id": {"l": log.id, "n": Int64(seq)}, "c": "docs", "i": text} for seq, text in some]
        )
    return Position(LogId(log.id), Seq(len(then)))


async def test_pages_have_the_touched_documents_in_order_once_each(stores: Stores) -> None:
    choose = random.Random(7)
    base = [f"b{number}" for number in range(20)]
    then = [f"d{number}" for number in range(1300)] + base[:10]
    choose.shuffle(then)
    position = await touched(stores, base, then + then[:50])
    pages = PastPages(stores)
    for limit in (7, 100, 2000):
        found: list[IdText] = []
        after: PastCursor | None = None
        while ids := await pages.ids("docs", position, after, limit):
            assert len(ids) <= limit
            found += [each.text for each in ids]
            after = PastCursor.parse(str(ids[-1].cursor))
        assert (sorted(found[:20]), found[20:]) == (sorted(base), sorted(set(then) - set(base)))


async def test_a_cursor_skips_documents_that_it_does_not_name(stores: Stores) -> None:
    position = await touched(stores, [], [f"d{number:04}" for number in range(2500)])
    pages = PastPages(stores)
    [first] = await pages.ids("docs", position, None, 1)
    for created, skip, names in (("", 1200, ["d1200", "d1201"]), ("d1000", 1400, ["d2401", "d2402"]), ("", 2500, [])):
        after = PastCursor(first.cursor.snapshot, created=IdText(created), skip=skip)
        ids = await pages.ids("docs", position, after, 2)
        assert [each.text for each in ids] == names
        assert [each.passed for each in ids] == [skip + 1, skip + 2][: len(names)]


@pytest.mark.slow
async def test_no_cursor_blocks_the_event_loop(stores: Stores, settings: Settings) -> None:
    ids = [f"d{number}" for number in range(150_000)]
    random.Random(7).shuffle(ids)
    position = await touched(stores, [], ids)
    [first] = await PastPages(stores).ids("docs", position, None, 1)

    @asynccontextmanager
    async def part() -> AsyncIterator[tuple[asyncio.AbstractEventLoop, PastPages]]:
        async with connect(settings, "test") as client:
            yield asyncio.get_running_loop(), PastPages(Stores.of(client, settings))

    loop = Loop(part, waited_for=True)
    async with loop.running() as (other, pages):

        async def listed() -> None:
            for skip in (0, 70_000, 999_999_999):
                after = PastCursor(first.cursor.snapshot, created=IdText(""), skip=skip)
                async with loop.during(f"{skip} skipped"):
                    reading = pages.ids("docs", position, after, 100)
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(reading, other))

        await loop.measured(listed)
    loop.assert_short()
