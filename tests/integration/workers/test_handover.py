"""Idle, stopped and changing leaders: the log continues at its head."""

from __future__ import annotations

import asyncio
import random

import pytest
from bson import Int64
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart
from eventsync.domain.positions import Seq
from eventsync.mongodb.client import Client, connect_pinned
from eventsync.settings import Settings
from eventsync.stores.stores import SEQUENCING, Stores
from eventsync_workers.sequencing.sequencer import Sequencer
from support.histories import History, based
from support.load import under_load
from support.replay import assert_complete, began, caught_up, current_log, eventually, tracked
from support.systems import running_worker


async def test_an_idle_stream_keeps_its_checkpoint_moving(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings.model_copy(update={"stream_wait": 0.05})):
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


async def test_a_lease_that_comes_back_loses_nothing(client: Client, stores: Stores, settings: Settings) -> None:
    """A sequencer that has to stop now and then, in mid-transaction above all, and the next moment has not."""
    rng, over = random.Random(1), asyncio.Event()

    def stopping() -> bool:
        return over.is_set() or rng.random() < 0.15

    async def lead() -> None:
        async with connect_pinned(settings, "worker") as writing:
            while not over.is_set():
                await Sequencer(stores, settings.model_copy(update={"stream_batch": 3}), writing).lead(stopping)

    await stores.ensure_indexes()
    await stores.tracking.ask(["docs"])
    async with asyncio.TaskGroup() as group:
        group.create_task(lead())
        try:
            await tracked(stores, "docs")
            async with under_load(
                History.of(stores, "docs", 1, keys=range(20)).write, History.of(stores, "docs", 2, keys=range(20)).write
            ) as load:
                await load.wait(60)
            replay = await assert_complete(stores, "docs")
        finally:
            over.set()
    assert any(event.get("txn", {}).get("of", 0) > 3 for event in replay.events)


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
