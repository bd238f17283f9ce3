"""Frames behind the window: read once for all cursors, cached and prefetched."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventsync.concurrency.admission import Admission
from eventsync.domain.positions import Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.stores.stores import Stores
from eventsync.sync.catch_up.store_frames import StoreFrames
from eventsync.sync.live.continuity import Continuity
from eventsync.sync.live.pages import PageLimit
from support.logs_by_hand import append, begun

SHAPE = Shape("docs")
LIMIT = PageLimit(events=10, bytes=1 << 20)


def unfed() -> Continuity:
    """Return the continuity of a window without a feed: there is nothing to confirm."""

    async def process() -> str:
        raise AssertionError("nobody asks")

    return Continuity(process, 0.0)


def frames_of(stores: Stores, *, places: int = 4, queue: int = 100, max_bytes: int = 1 << 20) -> StoreFrames:
    return StoreFrames(
        stores.events, unfed(), Admission(places, queue=queue, wait=30, what="clients"), LIMIT, max_bytes
    )


async def test_frame_for_a_thousand_cursors_is_read_once(stores: Stores) -> None:
    log = await begun(stores, "docs")
    head = await append(stores, log, "docs", 25)
    frames = frames_of(stores, places=1, queue=0)
    found = await asyncio.gather(*(frames.frame(log, SHAPE, Seq(0), head) for _ in range(1000)))
    assert len({id(frame.data) for frame in found}) == 1
    assert (found[0].start, found[0].end) == (0, 10)
    assert frames.reads == 1
    assert await frames.frame(log, SHAPE, Seq(0), head) is found[0]
    assert frames.reads == 1


async def test_frame_after_the_former_end_is_read(stores: Stores) -> None:
    log = await begun(stores, "docs", "others")
    head = await append(stores, log, "docs", 3)
    frames = frames_of(stores)
    first = await frames.frame(log, SHAPE, Seq(0), head)
    assert (first.start, first.end) == (0, 3)
    middle = await append(stores, log, "others", 4)
    head = await append(stores, log, "docs", 2)
    assert await frames.frame(log, SHAPE, Seq(0), head) is first
    last = await frames.frame(log, SHAPE, first.end, head)
    assert (last.start, last.end) == (3, head)
    assert b'"from":"%b:3"' % log.encode() in last.data
    nothing = await frames.frame(log, Shape.parse("others/9"), Seq(0), middle)
    assert (nothing.end, nothing.data) == (middle, b"")


async def test_frames_are_cached_within_the_bound(stores: Stores) -> None:
    log = await begun(stores, "docs")
    head = await append(stores, log, "docs", 40, size=1000)
    frames = frames_of(stores, max_bytes=25_000)
    for cursor in (0, 10, 20, 0):
        frame = await frames.frame(log, SHAPE, Seq(cursor), head)
        assert frame.end == cursor + 10
        assert frames.bytes <= 25_000
    assert frames.reads == 4
    await frames.frame(log, SHAPE, Seq(20), head)
    assert frames.reads == 4
    without = frames_of(stores, max_bytes=0)
    assert (await without.frame(log, SHAPE, Seq(0), head)).end == 10
    assert without.bytes == 0


async def test_too_many_concurrent_reads_are_refused(stores: Stores) -> None:
    log = await begun(stores, "docs")
    head = await append(stores, log, "docs", 50)
    frames = frames_of(stores, places=1, queue=2)
    found = await asyncio.gather(
        *(frames.frame(log, SHAPE, Seq(cursor), head) for cursor in range(10)), return_exceptions=True
    )
    assert [type(one) for one in found].count(Unavailable) == 7
    assert frames.reads == 3
    assert (await frames.frame(log, SHAPE, Seq(9), head)).end == 19


async def test_next_frames_are_prefetched_several_at_a_time(stores: Stores) -> None:
    log = await begun(stores, "docs")
    head = await append(stores, log, "docs", 135)
    limit = PageLimit(events=10, bytes=1 << 10)
    frames = StoreFrames(stores.events, unfed(), Admission(4, queue=100, wait=30, what="clients"), limit, 1 << 20)
    cursor, ends = Seq(0), []
    while cursor < head:
        frame = await frames.frame(log, SHAPE, cursor, head)
        assert frame.start == cursor
        ends.append(frame.end)
        cursor = frame.end
    assert ends == [*range(10, 135, 10), 135]
    assert frames.reads == 3, "the first one, eight, and the last five"


async def test_failed_prefetch_is_read_again_on_demand(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    log = await begun(stores, "docs")
    head = await append(stores, log, "docs", 25)
    limit = PageLimit(events=10, bytes=1 << 10)
    frames = StoreFrames(stores.events, unfed(), Admission(4, queue=100, wait=30, what="clients"), limit, 1 << 20)
    event_batches, asked = stores.events.event_batches, asyncio.Event()

    def failing(*words: Any, **named: Any) -> Any:
        if words[1] == 0:
            return event_batches(*words, **named)
        asked.set()
        raise Unavailable("not now")

    monkeypatch.setattr(stores.events, "event_batches", failing)
    first = await frames.frame(log, SHAPE, Seq(0), head)
    await asked.wait()
    with pytest.raises(Unavailable):
        await frames.frame(log, SHAPE, first.end, head)
    monkeypatch.undo()
    assert (await frames.frame(log, SHAPE, first.end, head)).end == 20
