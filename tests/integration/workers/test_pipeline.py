"""The pipeline's order, its bounds, and the events that it appends when a stage fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import Batch, HistoryLost, StreamInterrupted
from eventsync.mongodb.client import app_name
from eventsync.mongodb.connections import PinnedConnection
from eventsync.settings import Settings
from eventsync.stores.log.events import EventStore, NewEvent
from eventsync.stores.log.logs import Fenced
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.converter import DecodedChange
from eventsync_workers.sequencing.log_writer import LogWriter
from eventsync_workers.sequencing.missing_images import ImageReader
from eventsync_workers.sequencing.pipeline import Pipeline
from support.changes import change, inserted
from support.failpoints import failing
from support.histories import based
from support.replay import assert_complete, caught_up, eventually, replayed, tracked
from support.systems import running_worker
from support.waiting import within

LOG = LogId("k3f9ab2c")
MUCH = 2**30


class Inserts:
    """Counts the events of each insert into the real store, and can hold an insert up."""

    def __init__(self, store: EventStore) -> None:
        self._append = store.append
        self.store = store
        self.counts: list[int] = []
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        self.may.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        """None gets further than to `asked` while the block runs."""
        self.may.clear()
        try:
            yield
        finally:
            self.may.set()

    async def append(self, log: LogId, events: Sequence[NewEvent], *, over: PinnedConnection | None = None) -> None:
        self.asked.set()
        await self.may.wait()
        await self._append(log, events, over=over)
        self.counts.append(len(events))


class Images(ImageReader):
    """The real reader, but a change of the document `lost` has no state any more."""

    async def complete(self, change: DecodedChange) -> DecodedChange | None:
        if change["documentKey"]["_id"] == "lost":
            raise HistoryLost("its time is no longer kept")
        return await super().complete(change)


@pytest.fixture
def inserts(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Inserts:
    watched = Inserts(stores.events)
    monkeypatch.setattr(stores.events, "append", watched.append)
    return watched


@pytest.fixture
def writer(stores: Stores, inserts: Inserts) -> LogWriter:
    return LogWriter(LOG, inserts.store, Images(stores.snapshots.live), None, Timestamp(0, 1))


def alone(*keys: Any) -> list[list[RawBSONDocument]]:
    """A group for each key, each at a time of its own."""
    return [[inserted(key, time=number)] for number, key in enumerate(keys, start=1)]


async def ids(stores: Stores) -> list[str]:
    found = [event async for event in stores.events.read(LOG, Seq(0))]
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    return [event.id for event in found]


async def test_a_lone_change_is_appended_at_once(inserts: Inserts, stores: Stores, writer: LogWriter) -> None:
    async with Pipeline.running(writer, MUCH) as pipeline:
        for key in range(3):
            await pipeline.put(alone(key))
            await pipeline.drained()
    assert inserts.counts == [1, 1, 1]
    assert await ids(stores) == ["int:0", "int:1", "int:2"]


async def test_the_next_read_waits_only_until_a_lone_change_is_sent(inserts: Inserts, writer: LogWriter) -> None:
    async with within(10), Pipeline.running(writer, MUCH) as pipeline:
        with inserts.held():
            await pipeline.put(alone("lone"))
            await pipeline.paced()
            assert inserts.asked.is_set()
            assert inserts.counts == []


async def test_the_next_read_waits_for_changes_that_have_met_an_insert_in_flight(
    inserts: Inserts, stores: Stores, writer: LogWriter
) -> None:
    async with within(10), Pipeline.running(writer, MUCH) as pipeline:
        with inserts.held():
            await pipeline.put(alone("first"))
            await pipeline.paced()
            await pipeline.put([[inserted("second", time=2)], [inserted("third", time=3)]])
            read_on = asyncio.create_task(pipeline.paced())
            await asyncio.sleep(0.05)
            assert not read_on.done()
        await read_on
        assert inserts.counts == [1, 2]
    assert await ids(stores) == ["first", "second", "third"]


async def test_a_backlog_is_read_without_a_pause(inserts: Inserts, writer: LogWriter) -> None:
    async with within(10), Pipeline.running(writer, MUCH) as pipeline:
        with inserts.held():
            for first in range(0, 1200, 300):
                await pipeline.put([[inserted(key, time=key + 1)] for key in range(first, first + 300)])
                if first:
                    await pipeline.paced()
            assert inserts.counts == []


async def test_a_backlog_is_appended_in_order_by_large_inserts(
    inserts: Inserts, stores: Stores, writer: LogWriter
) -> None:
    async with Pipeline.running(writer, MUCH) as pipeline:
        for first in range(0, 4000, 1000):
            await pipeline.put(alone(*range(first, first + 1000)))
    assert await ids(stores) == [f"int:{key}" for key in range(4000)]
    assert min(inserts.counts[:-1]) >= 500


async def test_changes_during_an_insert_are_appended_together_by_the_next(inserts: Inserts, writer: LogWriter) -> None:
    async with Pipeline.running(writer, MUCH) as pipeline:
        with inserts.held():
            for key in range(5):
                await pipeline.put(alone(key))
                await inserts.asked.wait()
    assert inserts.counts == [1, 4]


async def test_reading_waits_while_too_much_is_not_appended(
    inserts: Inserts, stores: Stores, writer: LogWriter
) -> None:
    async with Pipeline.running(writer, 10_000) as pipeline:
        with inserts.held():
            await pipeline.put(alone(1, 2))
            much = asyncio.create_task(pipeline.put(alone(*range(3, 20))), name="put too much")
            await inserts.asked.wait()
            done, _ = await asyncio.wait({much}, timeout=0.05)
            assert not done
        await much
    assert len(await ids(stores)) == 19


async def test_the_checkpoint_of_an_empty_batch_comes_after_all_events_before_it(
    inserts: Inserts, writer: LogWriter
) -> None:
    batch = Batch([], f"82{9:08X}{1:08X}2B")
    async with Pipeline.running(writer, MUCH) as pipeline:
        with inserts.held():
            await pipeline.put(alone("a", "b"))
            await pipeline.put([], batch)
            await inserts.asked.wait()
            assert writer.checkpoint is None
        await pipeline.drained()
        assert writer.checkpoint == (2, batch.token, Timestamp(9, 1))


async def putting(writer: LogWriter, limit: int, *pieces: list[list[RawBSONDocument]], end: Exception) -> None:
    """Put all of it, then fail with `end`."""
    async with Pipeline.running(writer, limit) as pipeline:
        for piece in pieces:
            await pipeline.put(piece)
        raise end


def lost() -> list[RawBSONDocument]:
    return [change("insert", key="lost", time=200, fullDocument={"_id": "lost"})]


NETWORK = StreamInterrupted("the network")


async def test_a_failed_conversion_appends_all_before_it_and_nothing_after_it(
    inserts: Inserts, stores: Stores, writer: LogWriter
) -> None:
    before, behind = [f"a{n}" for n in range(150)], [f"b{n}" for n in range(150)]
    with pytest.raises(HistoryLost, match="no longer kept"):
        await putting(writer, MUCH, alone(*before), [lost(), *alone(*behind)], end=NETWORK)
    assert await ids(stores) == before
    assert writer.seq == len(before)


async def test_a_failed_append_is_the_error_of_the_pipeline(
    inserts: Inserts, stores: Stores, writer: LogWriter
) -> None:
    other = LogWriter(LOG, stores.events, ImageReader(stores.snapshots.live), None, Timestamp(0, 1))
    await other.append([await other.convert(alone("other"))])
    with pytest.raises(Fenced):
        await putting(writer, MUCH, alone("a", "b"), [lost()], end=NETWORK)
    assert await ids(stores) == ["other"]
    assert writer.checkpoint is None


async def test_put_raises_the_failure_while_it_waits_for_room(writer: LogWriter) -> None:
    with pytest.raises(HistoryLost):
        await putting(writer, 1, [lost()], alone(1), end=AssertionError("there was room"))


async def test_changes_read_before_a_failure_are_appended(inserts: Inserts, stores: Stores, writer: LogWriter) -> None:
    with pytest.raises(StreamInterrupted):
        await putting(writer, MUCH, alone(*range(250)), end=NETWORK)
    assert len(await ids(stores)) == 250


# --- the worker on a backlog --------------------------------------------------------------------------------------


async def backlog(stores: Stores, settings: Settings, *names: str) -> LogId:
    """Have these collections tracked, their bases stored, and nobody at work."""
    async with running_worker(settings):
        await stores.tracking.ask(names)
        log = await tracked(stores, *names)
        for name in names:
            await based(stores, log, name)
    return log


async def test_a_drop_in_the_middle_of_a_backlog_keeps_its_place(stores: Stores, settings: Settings) -> None:
    await backlog(stores, settings, "docs", "other")
    await stores.data["docs"].insert_many([{"_id": f"early-{n}"} for n in range(700)])
    await stores.data["other"].insert_many([{"_id": n} for n in range(50)])
    await stores.data["docs"].drop()
    await stores.data["docs"].insert_many([{"_id": f"late-{n}"} for n in range(700)])
    async with running_worker(settings):
        replay = await assert_complete(stores, "docs", "other")
    ops = [event["op"] for event in replay.events if event["collection"] == "docs"]
    assert ops == ["create"] * 700 + ["delete"] * 700 + ["create"] * 700


@pytest.mark.slow
async def test_a_worker_that_is_stopped_in_the_middle_of_a_backlog_leaves_a_clean_prefix(
    stores: Stores, settings: Settings
) -> None:
    small = settings.model_copy(update={"stream_batch": 50, "pipeline_bytes": 2**20})
    log = await backlog(stores, small, "docs")
    await stores.data["docs"].insert_many([{"_id": n, "text": "x" * 500} for n in range(3000)])
    async with running_worker(small):
        await eventually(stores, "events", lambda: stores.events.tail(log))
    assert 0 < await stores.log["events"].count_documents({}) < 3000
    async with running_worker(small):
        replay = await assert_complete(stores, "docs")
    assert [event["id"] for event in replay.events] == [f"int:{n}" for n in range(3000)]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["insert", "getMore"])
async def test_a_command_that_fails_in_the_middle_of_a_backlog_loses_nothing(
    client: Any, stores: Stores, settings: Settings, command: str
) -> None:
    small = settings.model_copy(update={"stream_batch": 100})
    await backlog(stores, small, "docs")
    await stores.data["docs"].insert_many([{"_id": n} for n in range(2000)])
    async with failing(client, command, 91, app=app_name(settings, "worker"), times=3), running_worker(small):
        replay = await replayed(stores, await caught_up(stores))
    assert [event["id"] for event in replay.events] == [f"int:{n}" for n in range(2000)]
