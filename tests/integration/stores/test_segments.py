from __future__ import annotations

from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.format import Span
from eventsync.stores.archive.segments import Segment
from eventsync.stores.stores import Stores

LOG = LogId("log")


def segment(number: int) -> Segment:
    first, time = Seq(1 + 10 * number), Timestamp(1 + number, 1)
    return Segment(LOG, Span(first, Seq(first + 9), time, time, "", ""), f"log/{first}", 1, 1, 1, b"")


async def test_object_is_looked_up_by_the_index(stores: Stores) -> None:
    """The sweeper asks for each object of the archive, and a sweep of a large archive must not read all segments."""
    await stores.ensure_indexes()
    for number in range(100):
        assert await stores.archive.segments.register(segment(number))
    assert await stores.archive.segments.is_registered("log/71")
    assert not await stores.archive.segments.is_registered("log/72")
    for path, found in (("log/71", 1), ("log/72", 0)):
        plan = await stores.log["segments"].find({"path": path}, {"path": 1}).explain()
        assert plan["executionStats"]["totalDocsExamined"] == found


async def test_newest_segments_come_first_a_page_at_a_time(stores: Stores) -> None:
    for number in range(5):
        assert await stores.archive.segments.register(segment(number))
    newest = stores.archive.segments.newest_before
    assert await newest(LOG, None, 2) == [segment(4), segment(3)]
    assert await newest(LOG, Seq(31), 2) == [segment(2), segment(1)]
    assert await newest(LOG, Seq(11), 2) == [segment(0)]
    assert await newest(LogId("other"), None, 2) == []
