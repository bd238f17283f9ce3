"""Idle, stopped and changing leaders: the log continues at its head."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import count

import pytest
from bson import Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart
from eventsync.domain.positions import Seq
from eventsync.mongodb.client import Client, connect_pinned
from eventsync.settings import Settings
from eventsync.stores.stores import SEQUENCING, Stores
from eventsync_workers.sequencing.sequencer import Sequencer
from eventsync_workers.sequencing.transactions import Transaction, TransactionAssembler
from support.histories import History, based
from support.load import under_load
from support.replay import assert_complete, began, caught_up, current_log, eventually, tracked
from support.systems import running_worker


async def test_an_idle_stream_keeps_its_checkpoint_moving(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        times: set[Timestamp] = set()

        async def moving() -> bool | None:
            checkpoint = await stores.logs.read_checkpoint(log)
            assert checkpoint is not None
            assert checkpoint.seq == 0
            times.add(checkpoint.time)
            return len(times) > 3 or None

        assert await eventually(stores, "heads", moving)


async def test_a_worker_that_stops_releases_the_lease_at_once(stores: Stores, settings: Settings) -> None:
    slow = settings.model_copy(update={"lease_period": 600.0})
    async with running_worker(slow):
        await began(stores, "docs")
    lease = await stores.leases.read(SEQUENCING)
    assert lease is not None
    assert not lease.live
    await stores.data["docs"].insert_one({"_id": 1})
    async with running_worker(slow):
        await assert_complete(stores, "docs")


@pytest.mark.slow
async def test_workers_that_start_and_stop_under_load_neither_lose_nor_duplicate_events(
    client: Client, stores: Stores, settings: Settings
) -> None:
    async with running_worker(settings):
        await began(stores, "docs")
    async with under_load(*(History.of(stores, "docs", seed, keys=range(20)).write for seed in range(3))) as load:
        for _ in range(8):
            async with running_worker(settings):
                await load.wait(30)
    async with running_worker(settings):
        replay = await assert_complete(stores, "docs")
    assert replay.seq > 240
    assert await current_log(stores) == await current_log(stores)
    assert (await stores.logs.current()).number == 1  # type: ignore[union-attr]


async def test_a_lease_that_comes_back_loses_nothing(
    client: Client, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequencer that has to stop now and then, in mid-transaction above all, and the next moment has not."""
    rng, over, feed = random.Random(1), asyncio.Event(), TransactionAssembler.feed
    cut_off: set[str] = set()
    is_inside = False

    def feeding(self: TransactionAssembler, changes: Sequence[RawBSONDocument], up_to: Timestamp) -> list[Transaction]:
        nonlocal is_inside
        whole, name = feed(self, changes, up_to), self._key
        # Once in each transaction: the next term reads it again from its beginning.
        if self.is_open and name is not None and name not in cut_off:
            cut_off.add(name)
            is_inside = True
        return whole

    def stopping() -> bool:
        nonlocal is_inside
        stops, is_inside = is_inside or rng.random() < 0.15, False
        return over.is_set() or stops

    async def lead() -> None:
        async with connect_pinned(settings, "worker") as writing:
            while not over.is_set():
                await Sequencer(stores, settings.model_copy(update={"stream_batch": 3}), writing).lead(stopping)

    numbers = count(1000, 6)

    async def write_together() -> None:
        first = next(numbers)
        async with client.start_session() as session, await session.start_transaction():
            await stores.data["docs"].insert_many([{"_id": first + n} for n in range(6)], session=session)

    monkeypatch.setattr(TransactionAssembler, "feed", feeding)
    await stores.ensure_indexes()
    await stores.tracking.ask(["docs"])
    async with asyncio.TaskGroup() as group:
        group.create_task(lead())
        try:
            await tracked(stores, "docs")
            histories = (History.of(stores, "docs", seed, keys=range(20)) for seed in (1, 2))
            async with under_load(*(history.write for history in histories)) as load:
                for _ in range(5):
                    await load.wait(12)
                    await write_together()
            replay = await assert_complete(stores, "docs")
        finally:
            over.set()
    large = {event["txn"]["id"] for event in replay.events if event.get("txn", {}).get("of", 0) == 6}
    assert len(large & cut_off) == 5


async def test_the_rest_of_a_transaction_that_was_half_appended_completes_it(
    client: Client, stores: Stores, settings: Settings
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await based(stores, log, "docs")  # a later base would be ahead of the log that is left below
        async with client.start_session() as session, await session.start_transaction():
            await stores.data["docs"].insert_many([{"_id": n} for n in range(6)], session=session)
        before = [event async for event in stores.events.read(await caught_up(stores), Seq(0))]
    # What a sequencer leaves that dies inside the insert: a prefix, no checkpoint behind it, and nothing tallied yet.
    await stores.log["events"].delete_many({"_id.n": {"$gt": 2}})
    await stores.log["tallies"].delete_many({})
    await stores.log["heads"].update_one({"_id": log}, {"$set": {"seq": Int64(0), "time": Timestamp(1, 1)}})
    async with running_worker(settings):
        await assert_complete(stores, "docs")
        after = [event async for event in stores.events.read(log, Seq(0))]
    assert after == before
    first = before[0].transaction
    assert first is not None
    assert [event.transaction for event in after] == [TransactionPart(first.id, n, 6) for n in range(1, 7)]
