from __future__ import annotations

from bson.int64 import Int64

from eventsync.domain.ids import IdText
from eventsync.domain.plan import CollectionSize
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.archive.touched import TouchedStore
from eventsync.stores.stats.estimates import MAX_EVENTS
from eventsync.stores.stores import Stores

LOG = LogId("k3f9ab2c")


async def log_of(stores: Stores, count: int, documents: int) -> None:
    """Events by hand: every other one of the collection `docs`."""
    rows = [
        {"_id": {"l": LOG, "n": Int64(n)}, "c": "docs" if n % 2 else "other", "i": f"d{n // 2 % documents}"}
        for n in range(1, count + 1)
    ]
    await stores.events.ensure_indexes()
    await stores.log["events"].insert_many(rows)


async def test_the_size_of_a_collection(stores: Stores) -> None:
    assert await stores.stats.estimates.size("nothing") == CollectionSize(0, 0)
    await stores.data["docs"].insert_many([{"_id": n, "text": "x" * 1000} for n in range(50)])
    size = await stores.stats.estimates.size("docs")
    assert size.documents == 50
    assert 1000 < size.each < 1100


async def test_the_events_of_a_document(stores: Stores) -> None:
    await log_of(stores, 3000, 1)
    docs = Shape.parse("docs/d0")
    assert await stores.stats.estimates.of_document(LOG, docs, after=Seq(0)) == MAX_EVENTS
    assert await stores.stats.estimates.of_document(LOG, docs, after=Seq(2990)) == 5
    assert await stores.stats.estimates.of_document(LOG, Shape.parse("docs/d1"), after=Seq(0)) == 0


async def test_touched_documents_are_estimated_from_a_sample_and_counted_when_few(stores: Stores) -> None:
    await log_of(stores, 6000, 50)

    async def touched(after: int, archived_up_to: int = 0, name: str = "docs") -> int:
        return await stores.stats.estimates.touched(
            LOG, name, after=Seq(after), up_to=Seq(6000), archived_up_to=Seq(archived_up_to)
        )

    assert await touched(5980) == 10, "so few are counted"
    assert 35 <= await touched(0) <= 90
    assert (await touched(0, name="nothing"), await touched(6000)) == (0, 0)
    # What is archived is known by its documents.
    store = TouchedStore(stores.log)
    await store.touch(LOG, [("docs", IdText("a"), Seq(10)), ("docs", IdText("b"), Seq(20))])
    assert await touched(15, archived_up_to=5980) == 11
    assert await touched(5, archived_up_to=5980) == 12
