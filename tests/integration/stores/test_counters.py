from __future__ import annotations

import asyncio
import math
import random
from contextlib import suppress
from typing import Any

import pytest
from bson import encode
from bson.int64 import Int64

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import DamagedEvents
from eventsync.errors import Unavailable
from eventsync.mongodb.client import app_name
from eventsync.settings import Settings
from eventsync.stores.stats import counters as module
from eventsync.stores.stats.counters import Counters, EventCount
from eventsync.stores.stores import Stores
from support.failpoints import failing
from support.waiting import eventually

LOG, OTHER = LogId("k3f9ab2c"), LogId("zzzzzzzz")
BLOCK = 10


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of ten events, and aggregations of seven."""
    monkeypatch.setattr(module, "BLOCK", BLOCK)
    monkeypatch.setattr(module, "_AT_ONCE", 7)


def history(count: int, names: str = "abc", seed: int = 1) -> list[dict[str, Any]]:
    choose = random.Random(seed)
    return [
        {"_id": {"l": LOG, "n": Int64(seq)}, "c": choose.choice(names), "i": "x", "b": "x" * choose.randrange(200)}
        for seq in range(1, count + 1)
    ]


def counted(rows: list[dict[str, Any]], after: int, collection: str | None = None) -> EventCount:
    chosen = [row for row in rows if row["_id"]["n"] > after and collection in (None, row["c"])]
    last = max((row["_id"]["n"] for row in chosen), default=0)
    return EventCount(len(chosen), sum(len(encode(row)) for row in chosen), Seq(last))


async def raw(stores: Stores) -> list[dict[str, Any]]:
    return await stores.log["tallies"].find({}, sort=[("_id", 1)]).to_list()


async def test_parts_that_are_not_read_in_time_get_smaller(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next twenty thousand events may be large and the disk cold: they would never be counted together."""
    rows, counters, sizes = history(20), Counters(stores.log), list[int]()
    await stores.log["events"].insert_many(rows)
    read = counters._sums

    async def slow(log: LogId, after: Seq, up_to: Seq) -> list[dict[str, Any]]:
        sizes.append(up_to - after)
        if up_to - after > 2:
            raise Unavailable("the events can't be counted: MongoDB did not answer in time")
        return await read(log, after, up_to)

    monkeypatch.setattr(counters, "_sums", slow)
    monkeypatch.setattr(module, "_MORE", 1)

    async def is_counted() -> bool:
        with suppress(Unavailable):
            await counters.add(LOG, Seq(20))
        return await counters.counted_up_to(LOG) == 20

    await eventually(is_counted)
    assert sizes[:5] == [7, 3, 1, 2, 3], "half as many after each failure, and one more after each success"
    assert await counters.after(LOG, Seq(0)) == counted(rows, 0)


async def test_an_event_of_no_collection_is_damage_and_counts_nothing(stores: Stores) -> None:
    rows, counters = history(9), Counters(stores.log)
    del rows[7]["c"]
    await stores.log["events"].insert_many(rows)
    with pytest.raises(DamagedEvents, match=f"event {LOG}:8 can't be read: it names no collection") as raised:
        await counters.add(LOG, Seq(9))
    assert raised.value.last == 8
    assert await counters.counted_up_to(LOG) == 7, "the part before it"


async def test_tallied_as_it_grows_it_is_what_one_counts_by_hand(stores: Stores) -> None:
    rows, counters = history(95), Counters(stores.log)
    assert await counters.counted_up_to(LOG) == 0
    for at in range(0, 95, 19):
        await stores.log["events"].insert_many(rows[at : at + 19])
        found = await counters.add(LOG, Seq(at + 19))
        assert found == {row["c"] for row in rows[at : at + 19]}
        assert await counters.counted_up_to(LOG) == at + 19
        assert await counters.sizes(LOG) == {name: counted(rows[: at + 19], 0, name) for name in "abc"}
    assert await counters.add(LOG, Seq(95)) == set(), "once"
    grown = await raw(stores)
    await stores.log["tallies"].drop()
    await counters.add(LOG, Seq(95))
    assert await raw(stores) == grown, "tallied from scratch it is the same"


async def test_after_a_position_whole_blocks_are_exact_and_its_own_is_a_share(stores: Stores) -> None:
    rows, counters = history(95), Counters(stores.log)
    await stores.log["events"].insert_many(rows)
    await counters.add(LOG, Seq(95))
    for after in range(96):
        for name in (None, *"abc"):
            said, true = await counters.after(LOG, Seq(after), name), counted(rows, after, name)
            assert said.last == true.last
            assert (said.events == 0) == (true.events == 0)
            if after % BLOCK == BLOCK - 1:  # the last of its block
                assert said == true
            own = [row for row in rows if row["_id"]["n"] // BLOCK == after // BLOCK and name in (None, row["c"])]
            assert abs(said.events - true.events) <= len(own)
            assert abs(said.bytes - true.bytes) <= sum(len(encode(row)) for row in own)


async def test_the_share_of_a_block_of_equal_events_is_exact(stores: Stores) -> None:
    counters = Counters(stores.log)
    rows = [{"_id": {"l": LOG, "n": Int64(seq)}, "c": "a", "b": "xx"} for seq in range(1, 26)]
    await stores.log["events"].insert_many(rows)
    await counters.add(LOG, Seq(25))
    for after in range(26):
        assert await counters.after(LOG, Seq(after), "a") == counted(rows, after, "a")


async def test_a_collection_is_quiet_until_its_next_event_at_most(stores: Stores) -> None:
    rows, counters = history(60, "aaaaaaab", seed=4), Counters(stores.log)
    await stores.log["events"].insert_many(rows)
    await counters.add(LOG, Seq(60))
    for name in ("a", "b", "c"):
        seqs = [row["_id"]["n"] for row in rows if row["c"] == name]
        for after in range(61):
            first = min((seq for seq in seqs if seq > after), default=math.inf)
            said = await counters.quiet_until(LOG, name, Seq(after))
            assert after <= said < first
            assert said == 60 if first == math.inf else first - said <= BLOCK


async def test_many_at_once_count_each_event_once(stores: Stores) -> None:
    rows = history(95)
    await stores.log["events"].insert_many(rows)
    outcomes = await asyncio.gather(*(Counters(stores.log).add(LOG, Seq(95)) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(outcome, set | Unavailable) for outcome in outcomes), outcomes
    await Counters(stores.log).add(LOG, Seq(95))
    assert await Counters(stores.log).sizes(LOG) == {name: counted(rows, 0, name) for name in "abc"}


async def test_one_that_is_broken_off_in_the_middle_counts_nothing_twice(stores: Stores, database_name: str) -> None:
    rows, counters = history(40), Counters(stores.log)
    await stores.log["events"].insert_many(rows)
    client = stores.log.client
    async with failing(client, "commitTransaction", 11601, app=app_name(Settings(), "test"), times=1):
        with pytest.raises(Unavailable):
            await counters.add(LOG, Seq(40))
    await counters.add(LOG, Seq(40))
    assert await counters.sizes(LOG) == {name: counted(rows, 0, name) for name in "abc"}


async def test_counters_survive_the_removal_of_their_events(stores: Stores) -> None:
    rows, counters = history(30), Counters(stores.log)
    await stores.log["events"].insert_many(rows)
    await counters.add(LOG, Seq(25))
    await stores.log["events"].delete_many({"_id.n": {"$lte": 25}})
    await counters.add(LOG, Seq(30))
    assert await counters.sizes(LOG) == {name: counted(rows, 0, name) for name in "abc"}


async def test_a_body_that_is_stored_apart_counts(stores: Stores) -> None:
    row = {"_id": {"l": LOG, "n": Int64(1)}, "c": "a", "b": {"v": "f00", "of": 2, "sha256": b"x"}}
    await stores.log["events"].insert_one(row)
    await Counters(stores.log).add(LOG, Seq(1))
    assert (await Counters(stores.log).sizes(LOG))["a"].bytes == len(encode(row)) + 2 * 8 * 1024 * 1024


async def test_each_log_has_its_own_and_former_logs_are_removed(stores: Stores) -> None:
    counters = Counters(stores.log)
    rows = history(12)
    await stores.log["events"].insert_many([*rows, {"_id": {"l": OTHER, "n": Int64(1)}, "c": "a"}])
    await counters.add(LOG, Seq(12))
    await counters.add(OTHER, Seq(1))
    assert (await counters.sizes(OTHER))["a"].events == 1
    assert await counters.after(LOG, Seq(0)) == counted(rows, 0)
    await counters.forget(OTHER)
    assert await counters.sizes(OTHER) == {}
    assert await counters.counted_up_to(OTHER) == 0
    assert await counters.counted_up_to(LOG) == 12
