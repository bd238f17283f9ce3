from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Unavailable
from eventsync.stores.snapshots.pins import Pinned, Pins
from eventsync.stores.stores import Stores

LOG, OTHER = LogId("k3f9ab2c"), LogId("zzzzzzzz")
PAST = datetime(2020, 1, 1, tzinfo=UTC)


async def only(stores: Stores) -> dict[str, Any]:
    rows: list[dict[str, Any]] = await stores.log["pins"].find({}).to_list()
    assert len(rows) == 1
    return rows[0]


async def test_pins_last_until_their_readers_end(stores: Stores) -> None:
    pins = Pins(stores.log, 60)
    nothing = Pinned(None, frozenset())
    assert await pins.pinned(LOG) == nothing
    async with pins.held(LOG, Seq(7), "a"):
        async with pins.held(LOG, Seq(5)), pins.held(OTHER, Seq(1), "c"), pins.held(LOG, None, "b"):
            assert await pins.pinned(LOG) == Pinned(Seq(5), frozenset({"a", "b"}))
        assert await pins.pinned(LOG) == Pinned(Seq(7), frozenset({"a"}))
    assert await pins.pinned(LOG) == nothing
    assert await stores.log["pins"].count_documents({}) == 0


async def test_a_reader_that_fails_holds_nothing_any_more(stores: Stores) -> None:
    pins = Pins(stores.log, 60)
    with pytest.raises(KeyError):
        async with pins.held(LOG, Seq(5)):
            raise KeyError
    assert await stores.log["pins"].count_documents({}) == 0


async def test_a_pin_of_a_reader_that_has_died_counts_until_it_has_run_out(stores: Stores) -> None:
    pins = Pins(stores.log, 60)
    async with pins.held(LOG, Seq(5), "a"):
        until = (await only(stores))["until"]
        now = (await stores.data.command("hello"))["localTime"].replace(tzinfo=UTC)
        assert 50 < (until - now).total_seconds() <= 60, "by MongoDB's own clock"
        await stores.log["pins"].update_one({}, {"$set": {"until": PAST}})
        assert await pins.pinned(LOG) == Pinned(None, frozenset())


async def test_mongodb_removes_what_has_run_out(stores: Stores) -> None:
    pins = Pins(stores.log, 60)
    await pins.ensure_indexes()
    (index,) = [item async for item in await stores.log["pins"].list_indexes() if item["name"] == "expiry"]
    assert index["expireAfterSeconds"] == 0


async def test_a_pin_is_renewed_by_its_reader_and_only_when_it_is_time(stores: Stores) -> None:
    async with Pins(stores.log, 60).held(LOG, Seq(5)) as pin:
        before = (await only(stores))["until"]
        await pin.keep()
        assert (await only(stores))["until"] == before, "just made"
    async with Pins(stores.log, 0.0).held(LOG, Seq(5)) as pin:
        soon = datetime(2100, 1, 1, tzinfo=UTC)
        await stores.log["pins"].update_one({}, {"$set": {"until": soon}})
        await pin.keep()
        assert (await only(stores))["until"] < soon, "its time to live was over a quarter"


@pytest.mark.parametrize("gone", [True, False])
async def test_a_reader_that_slept_for_too_long_gets_an_error(stores: Stores, gone: bool) -> None:
    """The reader is refused before and after MongoDB removes the pin."""
    async with Pins(stores.log, 60).held(LOG, Seq(5)) as pin:
        pin._renewal._renewed -= 3600
        if gone:
            await stores.log["pins"].delete_many({})
        else:
            await stores.log["pins"].update_one({}, {"$set": {"until": PAST}})
        with pytest.raises(Unavailable, match="idle for too long"):
            await pin.keep()
