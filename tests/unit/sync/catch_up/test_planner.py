"""The planner's choice of a stored snapshot for a new client."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from bson.timestamp import Timestamp

from eventsync.domain.plan import CollectionSize
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.definitions import Definitions
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.log.tracking import Tracking
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.planner import Planner
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window

LOG = LogId("aaaaaaaa")
ORDERS = Shape("orders")
OLDER = StoredSnapshot("older", LOG, "orders", Seq(10), Timestamp(1, 1), 1, 1000, 10_000, 90_000, datetime.now(UTC))
NEWER = replace(OLDER, id="newer", seq=Seq(20))


class Stored:
    """Stores with a large collection, where a newer snapshot is completed while the figures of the older are read."""

    def __init__(self) -> None:
        self.snapshot = OLDER
        self.planner: Planner | None = None

    async def newest(self, *_: Any) -> StoredSnapshot:
        return self.snapshot

    async def counted_up_to(self, _: LogId) -> Seq:
        self.snapshot = NEWER
        if self.planner is not None:
            # As after the plan of another client has failed: all figures are read again.
            self.planner.outdated()
        return Seq(30)

    async def after(self, *_: Any) -> Any:
        return SimpleNamespace(events=0, bytes=0)

    async def read(self, _: LogId) -> Tiers:
        return Tiers()

    async def size(self, _: str) -> CollectionSize:
        return CollectionSize(1_000_000, 1_000_000_000)

    @property
    def stores(self) -> Stores:
        stats = SimpleNamespace(counters=self, estimates=self)
        return cast("Stores", SimpleNamespace(tiers=self, stats=stats, snapshots=SimpleNamespace(stored=self)))


class Unchanged(Stored):
    """The collection has no event after its newest snapshot, and events up to 25 are gone."""

    async def quiet_until(self, *_: Any) -> Seq:
        return Seq(30)

    async def read(self, _: LogId) -> Tiers:
        return Tiers(archived_up_to=Seq(25), horizon=Seq(25))


async def test_snapshot_of_a_new_client_is_the_one_that_its_position_belongs_to() -> None:
    stored, tracking = Stored(), cast("Tracking", SimpleNamespace(tracked_from=lambda _: Seq(0)))
    window = Window(1_000_000, PageLimit(1000, 1_000_000))
    window.start(LOG, Seq(30))
    stored.planner = Planner(stored.stores, window, tracking, Definitions(tracking))
    beginning = await stored.planner.beginning(ORDERS)
    assert beginning is not None
    assert (beginning.snapshot, beginning.position) == (OLDER, Position(LOG, Seq(10)))
    later = await stored.planner.beginning(ORDERS)
    assert later is not None
    assert (later.snapshot, later.position) == (NEWER, Position(LOG, Seq(20)))


async def test_snapshot_from_before_the_collection_was_tracked_again_is_not_used() -> None:
    """Not all changes since have events, so that it has none since does not make it current."""
    stored, tracking = Unchanged(), cast("Tracking", SimpleNamespace(tracked_from=lambda _: Seq(20)))
    window = Window(1_000_000, PageLimit(1000, 1_000_000))
    window.start(LOG, Seq(30))
    planner = Planner(stored.stores, window, tracking, Definitions(tracking))
    assert await planner.beginning(ORDERS) is None
    stored.snapshot = NEWER
    planner.outdated()
    beginning = await planner.beginning(ORDERS)
    assert beginning is not None
    assert beginning.snapshot == NEWER
