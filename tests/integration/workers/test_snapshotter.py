from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.settings import Settings
from eventsync.stores.snapshots.live_snapshots import TimeNotKept
from eventsync.stores.stores import SNAPSHOTTING, Stores
from eventsync_workers.jobs.job import LeaseLost
from eventsync_workers.jobs.snapshotter import Snapshotter
from support.failpoints import failing
from support.histories import based, collection_at, newest_checkpoint, state_of
from support.replay import assert_complete, caught_up, eventually, tracked
from support.systems import running_worker
from support.waiting import within


@pytest.fixture
async def log(stores: Stores) -> LogId:
    """A log without a worker, in which `docs` is active; its checkpoint says that 0 is the collection as it is."""
    await stores.ensure_indexes()
    await stores.data["docs"].insert_many([{"_id": n, "t": "x" * 500} for n in range(3000)])
    now = (await stores.data.command("ping"))["operationTime"]
    begun = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=now)
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], begun.id, Seq(0))
    return begun.id


def snapshotter(stores: Stores, settings: Settings, name: str = "me") -> tuple[Snapshotter, asyncio.Event]:
    stop = asyncio.Event()
    return Snapshotter(stores, settings, name, stop), stop


async def test_a_worker_stores_the_base_of_what_it_tracks(stores: Stores, settings: Settings) -> None:
    await stores.data["docs"].insert_many([{"_id": n} for n in range(10)])
    async with running_worker(settings):
        await stores.tracking.ask(["docs", "empty"])
        log = await tracked(stores, "docs", "empty")
        assert (await based(stores, log, "docs")).documents == 10
        assert (await based(stores, log, "empty")).documents == 0
        await stores.tracking.ask(["later"])
        await stores.data["later"].insert_one({"_id": 1})
        await tracked(stores, "later")
        await based(stores, log, "later")
        await caught_up(stores)
        checkpoint = await newest_checkpoint(stores, log)
        assert (await state_of(stores, log, "later", checkpoint.seq)).keys() == {"int:1"}
    lease = await stores.leases.read(SNAPSHOTTING)
    assert lease is not None
    assert not lease.live


async def test_one_run_stores_each_missing_base_once(log: LogId, stores: Stores, settings: Settings) -> None:
    maker, _ = snapshotter(stores, settings)
    await maker.run_once()
    first = await stores.snapshots.stored.newest(log, "docs")
    await maker.run_once()
    assert first is not None
    assert first.documents == 3000
    assert await stores.snapshots.stored.newest(log, "docs") == first
    assert await stores.log["snapshots"].count_documents({}) == 1
    assert await state_of(stores, log, "docs", Seq(0)) == await collection_at(
        stores, "docs", await newest_checkpoint(stores, log)
    )


async def test_a_snapshot_from_before_tracking_is_no_base(log: LogId, stores: Stores, settings: Settings) -> None:
    maker, _ = snapshotter(stores, settings)
    await maker.run_once()
    now = (await stores.data.command("ping"))["operationTime"]
    await stores.logs.checkpoint(log, Seq(7), "82AB", now)
    await stores.tracking.activate(["docs"], log, Seq(5))
    await maker.run_once()
    newest = await stores.snapshots.stored.newest(log, "docs")
    assert newest is not None
    assert newest.seq == 7


async def test_a_new_logs_base_replaces_the_old_logs(log: LogId, stores: Stores, settings: Settings) -> None:
    maker, _ = snapshotter(stores, settings)
    await maker.run_once()
    old = await stores.logs.current()
    now = (await stores.data.command("ping"))["operationTime"]
    new = await stores.logs.begin(old, cluster="c", reason="r", token="82AA", time=now)
    await maker.run_once()
    assert await stores.snapshots.stored.newest(log, "docs") is not None, "it is not tracked in the new log yet"
    await stores.tracking.activate(["docs"], new.id, Seq(0))
    await maker.run_once()
    assert await stores.snapshots.stored.newest(new.id, "docs") is not None
    assert await stores.snapshots.stored.newest(log, "docs") is None


async def test_a_stopped_snapshotter_ends_at_once_and_leaves_nothing(
    log: LogId, stores: Stores, settings: Settings
) -> None:
    maker, stop = snapshotter(stores, settings.model_copy(update={"snapshot_chunk_bytes": 20_000}))
    task = asyncio.create_task(maker.run())
    async with within(10):
        while not await stores.log["snapshot_chunks"].find_one():  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.001)
        stop.set()
        await task
    assert await stores.snapshots.stored.newest(log, "docs") is None
    assert await stores.log["snapshot_chunks"].count_documents({}) == 0


async def test_one_of_many_snapshotters_makes_the_snapshot(log: LogId, stores: Stores, settings: Settings) -> None:
    makers = [snapshotter(stores, settings, name) for name in ("a", "b", "c")]
    async with asyncio.TaskGroup() as group:
        for maker, _ in makers:
            group.create_task(maker.run())
        await based(stores, log, "docs")
        for _, stop in makers:
            stop.set()
    assert await stores.log["snapshots"].count_documents({}) == 1


async def test_a_snapshotter_that_loses_the_lease_gives_up(log: LogId, stores: Stores, settings: Settings) -> None:
    """As after a pause: the lease has run out, and another one has it."""
    maker, _ = snapshotter(stores, settings.model_copy(update={"lease_period": 0.0001}))
    await stores.leases.acquire(SNAPSHOTTING, "another", 60)
    with pytest.raises(LeaseLost, match="another worker has taken the lease"):
        await maker.run_once()
    assert await stores.log["snapshots"].count_documents({}) == 0
    assert await stores.log["snapshot_chunks"].count_documents({}) == 0


@pytest.mark.slow
async def test_the_next_worker_makes_the_snapshot_of_a_killed_one(
    stores: Stores, settings: Settings, start_worker: Callable[[], Any]
) -> None:
    await stores.data["docs"].insert_many([{"_id": n, "t": "x" * 500} for n in range(20_000)])
    await stores.tracking.ask(["docs"])
    first = start_worker()
    async with within(20), watch(stores.log, [{"$match": {"ns.coll": "snapshot_chunks"}}]) as stream:
        while not (await stream.read(wait=1, limit=1)).changes:
            pass
        first.kill()
    log = await tracked(stores, "docs")
    assert await stores.snapshots.stored.newest(log, "docs") is None
    start_worker()
    assert (await based(stores, log, "docs")).documents == 20_000
    await stores.log["snapshots"].update_many({"complete": False}, {"$set": {"at": datetime(2020, 1, 1, tzinfo=UTC)}})
    assert await stores.snapshots.stored.sweep(60) == 1
    assert len(await stores.log["snapshot_chunks"].distinct("_id.s")) == 1


async def test_a_checkpoint_that_mongodb_no_longer_keeps_is_tried_again(stores: Stores, settings: Settings) -> None:
    old = Timestamp(1_600_000_000, 1)
    begun = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=old)
    await stores.data["docs"].insert_one({"_id": 1})
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], begun.id, Seq(0))
    maker, stop = snapshotter(stores, settings)
    with pytest.raises(TimeNotKept, match="minSnapshotHistoryWindowInSeconds"):
        await maker.run_once()
    assert await stores.log["snapshots"].count_documents({}) == 0
    task = asyncio.create_task(maker.run())
    now = (await stores.data.command("ping"))["operationTime"]
    await stores.logs.checkpoint(begun.id, Seq(0), "82AB", now)
    await based(stores, begun.id, "docs")
    stop.set()
    await task


async def test_a_base_that_takes_longer_than_mongodb_keeps_its_time_is_said_and_tried_again(
    log: LogId, client: Client, stores: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of the reading, and again; what it left is removed each time, and the log stays."""
    async with (
        connect(settings, "base") as own,
        failing(client, "getMore", 239, app=app_name(settings, "base"), times=2),
    ):
        maker, stop = snapshotter(Stores.of(own, settings), settings)
        task = asyncio.create_task(maker.run())
        assert (await based(stores, log, "docs")).documents == 3000
        stop.set()
        await task
    said = [message for message in caplog.messages if "minSnapshotHistoryWindowInSeconds" in message]
    assert len(said) == 2
    assert all(message.endswith("; trying again") for message in said)
    assert await stores.log["snapshots"].count_documents({}) == 1
    assert (await stores.logs.current()).id == log  # type: ignore[union-attr]


async def test_a_collection_tracked_again_without_events_gets_a_new_base(stores: Stores, settings: Settings) -> None:
    """The old base lacks what was written while nobody looked, and there is no event of it."""
    await stores.data["docs"].insert_one({"_id": 1})
    async with running_worker(settings):
        await stores.tracking.ask(["docs", "other"])
        log = await tracked(stores, "docs", "other")
        first = await based(stores, log, "docs")
    await stores.tracking.forget(["docs"])
    async with running_worker(settings):
        await stores.data["other"].insert_one({"_id": 1})
        await assert_complete(stores, "other")
        await stores.data["docs"].insert_one({"_id": 2})
        await stores.log["snapshots"].update_many({"c": "docs"}, {"$set": {"n": 1}})
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")

        async def renewed() -> bool | None:
            found = await stores.snapshots.stored.newest(log, "docs")
            return True if found is not None and found.id != first.id else None

        await eventually(stores, "snapshots", renewed)
        assert (await state_of(stores, log, "docs", Seq(2))).keys() == {"int:1", "int:2"}
