from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from bson.int64 import Int64

from eventsync.domain.ids import IdText, format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import State
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.history.comparison import Difference
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.log.logs import Checkpoint
from eventsync.stores.stores import Stores
from support.histories import History, based, newest_checkpoint
from support.replay import caught_up, tracked
from support.systems import running_worker


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"snapshot_chunk_bytes": 1024})


async def differences(stores: Stores, log: LogId, at: Checkpoint) -> dict[IdText, tuple[State, State]]:
    found: dict[IdText, tuple[State, State]] = {}
    async with aclosing(stores.history.comparison.differences(log, "docs", at.seq, at.time)) as differing:
        async for difference in differing:
            assert difference.id not in found, "each once"
            found[difference.id] = (difference.in_log, difference.in_collection)
    return found


@pytest.mark.slow
async def test_compare_finds_each_unlogged_change_once(stores: Stores, settings: Settings) -> None:
    """The repair's case: the collection changes without the log, and each document that differs is found once."""
    docs, history = stores.data["docs"], History.of(stores, "docs", 1)
    await docs.insert_many([{"_id": f"old-{n}", "n": n} for n in range(1200)])
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
        for _ in range(60):
            await history.write()
        await docs.insert_many([{"_id": f"new-{n}", "n": n} for n in range(700)])
        await docs.delete_many({"_id": {"$in": ["old-3", "old-4"]}})
        await docs.insert_one({"_id": "old-4", "again": True})
        await caught_up(stores)
    head = await newest_checkpoint(stores, log)
    assert await differences(stores, log, head) == {}

    await docs.delete_many({"_id": {"$in": ["old-1", "new-1", "old-4"]}})
    await docs.update_one({"_id": "old-2"}, [{"$set": {"n": {"$toLong": "$n"}}}])
    await docs.update_one({"_id": "new-2"}, {"$set": {"_sync": {"v": Int64(1), "op": "o", "by": "b"}}})
    await docs.insert_many([{"_id": "old-3"}, {"_id": "newest"}, {"_id": {"a": 1}}])
    now = (await stores.data.command("ping"))["operationTime"]
    found = await differences(stores, log, replace(head, time=now))
    assert found == {
        "old-1": ((0, {"_id": "old-1", "n": 1}), None),
        "new-1": ((0, {"_id": "new-1", "n": 1}), None),
        "old-4": ((0, {"_id": "old-4", "again": True}), None),
        "old-2": ((0, {"_id": "old-2", "n": 2}), (0, {"_id": "old-2", "n": Int64(2)})),
        "new-2": ((0, {"_id": "new-2", "n": 2}), (1, {"_id": "new-2", "n": 2})),
        "old-3": (None, (0, {"_id": "old-3"})),
        "newest": (None, (0, {"_id": "newest"})),
        'ejson:{"a":1}': (None, (0, {"_id": {"a": 1}})),
    }
    assert await differences(stores, log, head) == {}, "the collection is read as it was at that time"


async def test_it_counts_and_can_be_left_early(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": n} for n in range(1100)])
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
    at = await newest_checkpoint(stores, log)
    counts: list[int] = []
    all_of_it = stores.history.comparison.differences(log, "docs", at.seq, at.time, compared=counts.append)
    assert [difference async for difference in all_of_it] == []
    assert sum(counts) == 2200
    assert max(counts) <= 500
    await docs.delete_many({})
    now = (await stores.data.command("ping"))["operationTime"]
    async with aclosing(stores.history.comparison.differences(log, "docs", at.seq, now)) as differing:
        assert await anext(differing) == Difference(IdText("int:0"), (0, {"_id": 0}), None)


async def test_without_a_base_there_is_nothing_to_compare_with(stores: Stores, settings: Settings) -> None:
    await stores.data["docs"].insert_one({"_id": 1})
    now: Any = (await stores.data.command("ping"))["operationTime"]
    differing = stores.history.comparison.differences(LogId("k3f9ab2c"), "docs", Seq(0), now)
    with pytest.raises(NoBase) as caught:
        await anext(differing)
    assert isinstance(caught.value, Unavailable)


async def test_ids_that_no_request_may_name_are_compared(stores: Stores, settings: Settings) -> None:
    deep: Any = 1
    for _ in range(110):
        deep = {"a": deep}
    docs = stores.data["docs"]
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
        await docs.insert_one({"_id": deep})
        await caught_up(stores)
    head = await newest_checkpoint(stores, log)
    assert await differences(stores, log, head) == {}
    await docs.delete_one({"_id": deep})
    now = (await stores.data.command("ping"))["operationTime"]
    found = await differences(stores, log, replace(head, time=now))
    assert found == {format_id(deep): ((0, {"_id": deep}), None)}
