"""Lag of the log, counted on real change streams without a worker."""

from __future__ import annotations

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import token_time, watch
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.settings import Settings
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stats import lag
from eventsync.stores.stats.lag import Lag, LagReader
from eventsync.stores.stores import Stores
from support.failpoints import failing


def reader(stores: Stores) -> LagReader:
    return LagReader(stores.data, stores.events, stores.logs, stores.tracking)


@pytest.fixture
async def log(stores: Stores) -> LogId:
    """A log without a worker, in which `docs` is active, read up to now."""
    await stores.data["docs"].insert_one({"_id": "before"})
    async with watch(stores.data, []) as stream:
        token = stream.token
    begun = await stores.logs.begin(None, cluster="c", reason="r", token=token, time=token_time(token))
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], begun.id, Seq(0))
    return begun.id


async def test_nothing_is_pending(log: LogId, stores: Stores) -> None:
    await stores.data["other"].insert_one({})
    assert await reader(stores).read(log) == Lag()


async def test_it_counts_from_the_newest_event_on(log: LogId, stores: Stores) -> None:
    async with watch(stores.data, []) as stream:
        await stores.data["docs"].insert_one({"_id": 1})
        (change,) = (await stream.read(wait=5, limit=10)).changes
        appended = NewEvent(
            StoredEvent(Seq(1), "docs", IdText("int:1"), b"{}"), 0, change["_id"]["_data"], change["clusterTime"]
        )
    await stores.data["docs"].insert_many([{"_id": n} for n in (2, 3)])
    assert (await reader(stores).read(log)).changes == 3
    await stores.events.append(log, [appended])
    found = await reader(stores).read(log)
    assert (found.changes, found.more) == (2, False)
    assert 0 < found.seconds < 60


async def test_it_counts_so_many_at_most(log: LogId, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "MAX_CHANGES", 20)
    monkeypatch.setattr(lag, "_BATCH", 10)
    await stores.data["docs"].insert_many([{"_id": n} for n in range(50)])
    found = await reader(stores).read(log)
    assert (found.changes, found.more) == (20, True)


async def test_an_unknown_lag_has_a_reason(log: LogId, client: Client, stores: Stores, settings: Settings) -> None:
    await stores.logs.begin_repair(log, "a drill")
    assert (await reader(stores).read(log)).unknown == "the log is being repaired: a drill"
    await stores.logs.end_repair(log)
    async with connect(settings, "lag") as own, failing(client, "getMore", 286, app=app_name(settings, "lag")):
        assert "has to repair the log" in str((await reader(Stores.of(own, settings)).read(log)).unknown)
    await stores.log["heads"].delete_many({})
    assert (await reader(stores).read(log)).unknown == "the log has no checkpoint"


async def test_a_change_at_the_very_time_of_the_checkpoint_is_in_the_log(log: LogId, stores: Stores) -> None:
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    await stores.data["docs"].insert_one({"_id": 1})
    now: Timestamp = (await stores.data.command("ping"))["operationTime"]
    await stores.logs.checkpoint(log, Seq(0), checkpoint.token, now)
    assert (await reader(stores).read(log)).changes == 0
