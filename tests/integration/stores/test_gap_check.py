"""Missing events are found by counting, and long ranges are not counted for each reader."""

from __future__ import annotations

import asyncio

import pytest
from bson.int64 import Int64

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import DamagedEvents
from eventsync.stores.log import gap_check
from eventsync.stores.log.gap_check import GapCheck
from eventsync.stores.stores import Stores

LOG = LogId("gaps")
COUNT = 30_000


@pytest.fixture
async def check(stores: Stores, counts: list[tuple[int, int]]) -> GapCheck:
    """A check of a log of `COUNT` events."""
    await stores.log["events"].insert_many(
        [{"_id": {"l": LOG, "n": Int64(n)}, "c": "docs"} for n in range(1, COUNT + 1)]
    )
    return stores.hot.gap_check


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges that MongoDB has counted."""
    found: list[tuple[int, int]] = []
    real = GapCheck._count

    async def counting(self: GapCheck, log: LogId, after: Seq, up_to: Seq) -> int:
        if log == LOG:  # Servers of other tests, in this process, count their own.
            found.append((after, up_to))
        return await real(self, log, after, up_to)

    monkeypatch.setattr(GapCheck, "_count", counting)
    return found


async def delete(stores: Stores, seq: int) -> None:
    await stores.log["events"].delete_one({"_id": {"l": LOG, "n": Int64(seq)}})


async def test_blocks_are_counted_once_for_all_readers(check: GapCheck, counts: list[tuple[int, int]]) -> None:
    await asyncio.gather(*(check.require(LOG, Seq(100), Seq(COUNT)) for _ in range(20)))
    assert sum(up_to - after for after, up_to in counts) < COUNT + 20 * 2 * gap_check._BLOCK
    counts.clear()
    await check.require(LOG, Seq(5000), Seq(25_000))
    assert counts == [(5000, 8192), (24_576, 25_000)]


async def test_every_single_missing_event_is_found(
    stores: Stores, check: GapCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_check, "_VALID", 0.0)
    monkeypatch.setattr(gap_check, "_SHARE", 0.0)
    for seq in (1, 4096, 4097, 15_000, 28_672, 28_673, COUNT):
        await check.require(LOG, Seq(0), Seq(COUNT))
        await delete(stores, seq)
        with pytest.raises(DamagedEvents, match=f"event {seq} is missing"):
            await check.require(LOG, Seq(0), Seq(COUNT))
        await check.require(LOG, Seq(seq), Seq(COUNT))
        await stores.log["events"].insert_one({"_id": {"l": LOG, "n": Int64(seq)}, "c": "docs"})


async def test_an_event_that_is_missing_at_an_end_is_found_at_once(stores: Stores, check: GapCheck) -> None:
    await check.require(LOG, Seq(100), Seq(COUNT))
    await delete(stores, COUNT - 1)
    with pytest.raises(DamagedEvents, match=f"event {COUNT - 1} is missing"):
        await check.require(LOG, Seq(100), Seq(COUNT))


async def test_short_ranges_and_fresh_checks_are_always_counted(stores: Stores, check: GapCheck) -> None:
    await check.require(LOG, Seq(0), Seq(COUNT))
    await delete(stores, 6000)
    await check.require(LOG, Seq(0), Seq(COUNT))
    with pytest.raises(DamagedEvents, match="event 6000 is missing"):
        await check.require(LOG, Seq(3000), Seq(10_000))
    with pytest.raises(DamagedEvents, match="event 6000 is missing"):
        await check.require(LOG, Seq(0), Seq(COUNT), fresh=True)


async def test_archived_blocks_are_not_looked_for(stores: Stores, check: GapCheck) -> None:
    await check.require(LOG, Seq(0), Seq(COUNT))
    await stores.tiers.raise_archived_up_to(LOG, Seq(13_000))
    await stores.log["events"].delete_many({"_id.n": {"$lte": 13_000}})
    await check.require(LOG, Seq(0), Seq(COUNT))


async def test_blocks_are_counted_before_a_reader_asks(check: GapCheck, counts: list[tuple[int, int]]) -> None:
    await check._refresh(LOG, Seq(COUNT), asyncio.Event())
    await check._refresh(LOG, Seq(COUNT), asyncio.Event())
    assert counts == [(0, 28_672)]
    await check.require(LOG, Seq(0), Seq(COUNT))
    assert counts[1:] == [(28_672, COUNT)]


async def test_keeping_ends_when_it_is_to_stop(check: GapCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap_check, "_PAUSE", 0.01)
    stop, looked = asyncio.Event(), asyncio.Event()

    def head() -> Seq:
        looked.set()
        return Seq(COUNT)

    keeping = asyncio.create_task(check.keep(lambda: LOG, head, stop))
    await looked.wait()
    stop.set()
    await keeping
