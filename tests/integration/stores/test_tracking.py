from __future__ import annotations

import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Malformed
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores

LOG = LogId("aaaa")


async def test_a_requested_collection_is_inactive_until_activated(stores: Stores) -> None:
    await stores.tracking.ask(["b", "a"])
    assert await stores.tracking.read() == [
        TrackedCollection("a", None, Seq(0)),
        TrackedCollection("b", None, Seq(0)),
    ]
    await stores.tracking.activate(["a"], LOG, Seq(2**40))
    assert await stores.tracking.read() == [
        TrackedCollection("a", LOG, Seq(2**40), fenced=True),
        TrackedCollection("b", None, Seq(0)),
    ]


async def test_asking_again_changes_nothing(stores: Stores) -> None:
    await stores.tracking.ask(["a"])
    await stores.tracking.activate(["a"], LOG, Seq(5))
    await stores.tracking.ask(["a", "a"])
    await stores.tracking.ask([])
    assert await stores.tracking.read() == [TrackedCollection("a", LOG, Seq(5), fenced=True)]


async def test_asking_for_what_is_new_keeps_refusals(stores: Stores) -> None:
    await stores.tracking.ask(["a"])
    await stores.tracking.refuse({"a": "it is a view"})
    await stores.tracking.ask_if_new(["a", "b"])
    assert [(item.name, item.refused) for item in await stores.tracking.read()] == [("a", "it is a view"), ("b", None)]
    await stores.tracking.ask(["a"])
    assert [item.refused for item in await stores.tracking.read()] == [None, None]


async def test_a_collection_that_was_not_requested_is_not_activated(stores: Stores) -> None:
    await stores.tracking.activate(["a"], LOG, Seq(5))
    await stores.tracking.activate([], LOG, Seq(5))
    assert await stores.tracking.read() == []


async def test_an_invalid_name_makes_the_whole_request_fail(stores: Stores) -> None:
    with pytest.raises(Malformed):
        await stores.tracking.ask(["a", "system.users"])
    assert await stores.tracking.read() == []


async def test_a_refusal_is_recorded_once_and_lifted_by_activation(stores: Stores) -> None:
    await stores.tracking.ask(["a", "v"])
    assert not await stores.tracking.refuse({})
    assert await stores.tracking.refuse({"v": "it is a view"})
    assert not await stores.tracking.refuse({"v": "it is a view"})
    assert await stores.tracking.refuse({"v": "it is a timeseries"})
    assert [item.refused for item in await stores.tracking.read()] == [None, "it is a timeseries"]
    await stores.tracking.activate(["v"], LOG, Seq(1))
    assert [item.refused for item in await stores.tracking.read()] == [None, None]


async def test_collections_that_were_ever_active_in_a_log_are_remembered(stores: Stores) -> None:
    assert await stores.tracking.once_active(LOG, ["a"]) == []
    await stores.tracking.mark(LOG, ["a", "b"])
    await stores.tracking.mark(LOG, ["b", "c"])
    await stores.tracking.forget(["a", "b", "c"])
    assert await stores.tracking.once_active(LOG, ["d", "c", "a"]) == ["a", "c"]
    assert await stores.tracking.read() == []
    other = LogId("bbbb")
    assert await stores.tracking.once_active(other, ["a"]) == []
    await stores.tracking.mark(other, ["d"])
    assert await stores.tracking.once_active(other, ["a", "d"]) == ["d"]


async def test_every_collection_counts_as_active_before_where_too_many_were(stores: Stores) -> None:
    await stores.tracking.mark(LOG, [f"c{number}" for number in range(1000)])
    assert await stores.tracking.once_active(LOG, ["new"]) == []
    await stores.tracking.mark(LOG, [f"more{number}" for number in range(1000)])
    assert await stores.tracking.once_active(LOG, ["new"]) == ["new"]
    row = await stores.log["collections"].find_one({"_id": ""})
    assert row is not None
    assert len(row["active"]) == 1001
