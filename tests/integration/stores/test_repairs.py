"""The history of repairs: what it keeps, and how much."""

from __future__ import annotations

from eventsync.domain.positions import LogId, Seq
from eventsync.stores.log.repairs import KEPT
from eventsync.stores.stores import Stores

LOG = LogId("k3f9ab2c")


async def test_newest_repairs_are_kept(stores: Stores) -> None:
    for number in range(KEPT + 3):
        await stores.repairs.begin(LOG, "history", "$reason " + "x" * 1000, Seq(number))
    repairs = await stores.repairs.newest()
    assert [repair.after for repair in repairs] == list(range(KEPT + 2, 2, -1))
    assert await stores.log["repairs"].count_documents({}) == KEPT
    assert {len(repair.reason) for repair in repairs} == {500}
    assert {(repair.ended, repair.up_to, repair.events) for repair in repairs} == {(None, None, 0)}


async def test_collections_with_the_most_events_are_listed(stores: Stores) -> None:
    id_ = await stores.repairs.begin(LOG, "interrupted", "$why", Seq(7))
    events = {f"with.dot{number}": number for number in range(60)}
    await stores.repairs.end(id_, Seq(2000), events)
    (repair,) = await stores.repairs.newest()
    assert (repair.reason, repair.up_to, repair.events) == ("$why", 2000, sum(events.values()))
    assert list(repair.collections.items())[:2] == [("with.dot59", 59), ("with.dot58", 58)]
    assert len(repair.collections) == 50
