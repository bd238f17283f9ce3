from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.shapes import Shape
from eventsync.errors import ConfigurationError, Unavailable
from eventsync.mongodb.client import connect
from eventsync.settings import Settings, load_settings
from eventsync.stores.archive.identity import MARK
from eventsync.stores.log.tiers import Tiers
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.archiver import Archiver
from eventsync_workers.jobs.sealer import Sealer
from eventsync_workers.jobs.trimming import HotTierTrimmer
from support.archives import archiver, begun, event, everything, hot_seqs, in_segments, sealed, stored
from support.environment import environment_of
from support.waiting import patience

Step = Callable[..., Awaitable[Any]]


def _deadly(step: Step, when: str) -> Step:
    async def died(*arguments: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await step(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    return died


async def _run_and_die(step: str, when: str) -> None:
    owner = next(kind for kind in (Sealer, HotTierTrimmer, Archiver) if hasattr(kind, step))
    made: Step = getattr(owner, step)
    # The methods of a class that this process uses for nothing else.
    setattr(owner, step, _deadly(made, when))
    settings = load_settings()
    async with connect(settings, "worker") as client:
        stores = Stores.of(client, settings)
        # By the name of its successor, which so needs not wait for the lease to run out.
        await Archiver(stores, settings, "me", asyncio.Event()).run_once()


def crashed_archiver(settings: Settings, step: str, when: str) -> int:
    """Run an archiver as a process of its own that kills itself `before` or `after` a step; returns its exit code."""
    environment = environment_of(settings)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, Path(__file__).parents[2:4]))  # the tests, the project
    command = [sys.executable, __file__, step, when]
    return subprocess.run(command, env=environment, timeout=patience(60), check=False).returncode


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Segments of 20 events in blocks of a few, 15 events stay hot, and nothing is too old."""
    return in_segments(settings, tmp_path, segment_block_bytes=1024)


EVENTS = [event(seq, "docs" if seq % 3 else "rare", f"int:{seq % 10}") for seq in range(1, 101)]


async def test_events_are_sealed_and_read_across_the_seam(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS, ["docs", "rare"])
    await archiver(stores, settings).run_once()
    assert await stores.tiers.read(log) == Tiers(archived_up_to=Seq(80))
    assert await hot_seqs(stores, log) == list(range(81, 101))
    assert (await stores.archive.segments.totals(log)).segments == 4
    for after, up_to in ((0, 100), (0, 79), (19, 20), (35, 85), (80, 100), (79, 81), (99, 100), (100, 100)):
        assert await everything(stores, log, after, up_to) == [
            sealed(item) for item in EVENTS if after < item.event.seq <= up_to
        ]
    for shape in (Shape("rare"), Shape("docs", IdText("int:4")), Shape("nobody"), Shape("docs", IdText("int:x"))):
        assert await everything(stores, log, 5, 95, shape) == [
            sealed(item)
            for item in EVENTS[5:95]
            if item.event.collection == shape.collection and shape.id in {None, item.event.id}
        ]


async def test_a_documents_history_across_the_seam(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS, ["docs", "rare"])
    await archiver(stores, settings).run_once()
    one = Shape("docs", IdText("int:4"))
    seqs = [item.event.seq for item in EVENTS if (item.event.collection, item.event.id) == ("docs", "int:4")]
    page = await stores.events.of_document(log, one, after_version=0, after=Seq(0), up_to=Seq(100), limit=100)
    assert [item.seq for item in page] == seqs
    page = await stores.events.of_document(log, one, after_version=34, after=Seq(0), up_to=Seq(100), limit=3)
    assert [item.seq for item in page] == [seq for seq in seqs if seq > 34][:3]
    ids = [IdText("int:4"), IdText("int:5")]
    changes = [item async for item in stores.history.reader.changes(log, "docs", after=Seq(3), up_to=Seq(99), ids=ids)]
    for text in ids:
        assert [change.seq for change in changes if change.id == text] == [
            item.event.seq for item in EVENTS[3:99] if (item.event.collection, item.event.id) == ("docs", text)
        ]


async def test_archived_events_leave_their_touched_documents(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS, ["docs", "rare"])
    await archiver(stores, settings).run_once()
    rows = await stores.log["touched"].find().to_list()
    newest = {(item.event.collection, item.event.id): item.event.seq for item in EVENTS[:80]}
    assert {(row["_id"]["c"], row["_id"]["i"]): row["n"] for row in rows if row["_id"]["l"] == log} == newest


async def test_a_transaction_is_not_divided(stores: Stores, settings: Settings) -> None:
    events = [event(seq) for seq in range(1, 15)]
    events += [event(14 + n, transaction=TransactionPart("t", n, 12)) for n in range(1, 13)]
    events += [event(26 + n, transaction=TransactionPart("u", n, 60)) for n in range(1, 61)]
    events += [event(seq) for seq in range(87, 91)]
    log = await begun(stores, events)
    await archiver(stores, settings).run_once()
    assert (await stores.tiers.read(log)).archived_up_to == 26
    assert await everything(stores, log, 0, 90) == [sealed(item) for item in events]


async def test_events_after_the_newest_snapshot_stay_in_mongodb(stores: Stores, settings: Settings) -> None:
    """`docs` has a snapshot at 45; `rare`, at 3, has had no event since: it holds up nobody."""
    events = [event(seq, "rare" if seq <= 3 else "docs") for seq in range(1, 101)]
    log = await begun(stores, events[:45], ["docs", "rare"])
    await stores.events.append(log, events[45:])
    await stores.log["snapshots"].update_one({"c": "rare"}, {"$set": {"n": 3}})
    await archiver(stores, settings).run_once()
    assert (await stores.tiers.read(log)).archived_up_to == 40
    await stored(stores, log, "docs", 100)
    await archiver(stores, settings).run_once()
    assert (await stores.tiers.read(log)).archived_up_to == 80


async def test_all_events_stay_in_mongodb_while_a_collection_has_no_snapshot(
    stores: Stores, settings: Settings
) -> None:
    log = await begun(stores, EVENTS)
    await stores.tracking.ask(["new"])
    await stores.tracking.activate(["new"], log, Seq(100))
    await archiver(stores, settings).run_once()
    assert await hot_seqs(stores, log) == list(range(1, 101))


async def test_the_newest_event_stays_in_mongodb(stores: Stores, settings: Settings) -> None:
    settings = settings.model_copy(update={"hot_events": 1, "hot_age": 0.0, "segment_events": 1})
    log = await begun(stores, EVENTS[:7])
    await archiver(stores, settings).run_once()
    assert await hot_seqs(stores, log) == [7]
    tail = await stores.events.tail(log)
    assert tail is not None
    assert tail.seq == 7


async def test_without_an_archive_all_events_stay_in_mongodb(client: Any, settings: Settings) -> None:
    settings = settings.model_copy(update={"archive_url": "none"})
    stores = Stores.of(client, settings)
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    assert await hot_seqs(stores, log) == list(range(1, 101))


async def test_one_of_two_archivers_registers_a_segment(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS)
    results = await asyncio.gather(*(archiver(stores, settings).run_once() for _ in range(3)), return_exceptions=True)
    assert all(
        result is None or isinstance(result, Unavailable) or type(result).__name__ == "Moved" for result in results
    )
    await archiver(stores, settings).run_once()
    assert (await stores.archive.segments.totals(log)).events == 80
    assert await everything(stores, log, 0, 100) == [sealed(item) for item in EVENTS]


@pytest.mark.parametrize("mounted_over", [False, True])
async def test_nothing_is_sealed_into_an_archive_that_was_unmounted(
    stores: Stores, settings: Settings, tmp_path: Path, mounted_over: bool
) -> None:
    log = await begun(stores, EVENTS)
    job = archiver(stores, settings)
    await job.run_once()
    directory = tmp_path / "archive"
    await asyncio.to_thread(directory.rename, tmp_path / "away")
    if mounted_over:
        directory.mkdir()
    more = [event(seq) for seq in range(101, 141)]
    await stores.events.append(log, more)
    await stored(stores, log, "docs", 140)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="another archive"):
            await job.run_once()
    assert [*directory.rglob("*")] == []
    if mounted_over:
        directory.rmdir()
    await asyncio.to_thread((tmp_path / "away").rename, directory)
    await job.run_once()
    assert (await stores.tiers.read(log)).archived_up_to == 120
    assert await everything(stores, log, 0, 140) == [sealed(item) for item in [*EVENTS, *more]]


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], None]] = {"flipped": _flip, "cut": _cut, "missing": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_segment_is_named(stores: Stores, settings: Settings, damage: str) -> None:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    segment = await stores.archive.segments.starting(log, Seq(21))
    assert segment is not None
    await stores.archive.reader.check(segment)
    DAMAGES[damage](Path(settings.archive_url) / segment.path)
    with pytest.raises(Damaged, match=segment.path):
        await everything(stores, log, 0, 100)
    with pytest.raises(Damaged, match=segment.path):
        await stores.archive.reader.check(segment)
    assert len(await everything(stores, log, 40, 100)) == 60


async def test_a_segment_that_is_not_registered_is_a_hole_that_is_named(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    await stores.log["segments"].delete_one({"_id.n": 21})
    with pytest.raises(Damaged, match=f"events 21 to 40 of log {log} are in no segment"):
        await everything(stores, log, 0, 100)


async def test_a_segment_that_reads_back_differently_is_not_registered(
    stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    log = await begun(stores, EVENTS)
    objects = stores.archive.objects
    assert objects is not None
    put = objects.put

    async def broken(path: str, data: bytes) -> None:
        await put(path, data)
        if path != MARK:
            _flip(Path(settings.archive_url) / path)

    objects.put = broken  # type: ignore[method-assign] # a disk that lies
    with pytest.raises(Damaged, match="reads back differently"):
        await archiver(stores, settings).run_once()
    assert await stores.archive.segments.newest(log) is None
    assert await hot_seqs(stores, log) == list(range(1, 101))


async def test_readers_see_no_hole_and_no_duplicate_while_events_move(stores: Stores, settings: Settings) -> None:
    """They read slowly, so that events leave MongoDB under each of them."""
    log = await begun(stores, EVENTS)
    expected = [sealed(item) for item in EVENTS]

    async def slow(batch: int) -> list[Any]:
        found = []
        async with aclosing(stores.archive.tiered.read(log, Seq(0), Seq(100), batch=batch)) as events:
            async for item in events:
                found.append(item)
                await asyncio.sleep(0.01)
        return found

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(slow(batch)) for batch in (1, 3, 10, 33)]
        archiving = group.create_task(archiver(stores, settings).run_once())
    assert archiving.done()
    assert all(reader.result() == expected for reader in readers)
    assert (await stores.tiers.read(log)).archived_up_to == 80


async def test_rows_that_vanish_before_they_are_validated_are_not_missed(stores: Stores, settings: Settings) -> None:
    """The reader has begun in MongoDB; everything is moved before it asks for its second batch."""
    log = await begun(stores, EVENTS)
    reader = stores.archive.tiered.read(log, Seq(0), Seq(100), Shape("docs"), batch=5)
    async with aclosing(reader) as events:
        first = [await anext(events) for _ in range(5)]
        other = Stores.of(stores.log.client, settings)
        await archiver(other, settings).run_once()
        rest = [item async for item in events]
    assert first + rest == [sealed(item) for item in EVENTS if item.event.collection == "docs"]


async def test_event_batches_show_no_hole_and_no_duplicate_while_events_move(
    stores: Stores, settings: Settings
) -> None:
    log = await begun(stores, EVENTS)
    expected = [(item.event.seq, item.event.body) for item in EVENTS if item.event.collection == "docs"]

    async def slow(batch: int, pause: float) -> list[tuple[int, bytes]]:
        found = list[tuple[int, bytes]]()
        event_batches = stores.archive.tiered.event_batches(log, Seq(0), Seq(100), Shape("docs"), batch=batch)
        async with aclosing(event_batches):
            async for event_batch in event_batches:
                found += zip(event_batch.seqs, event_batch.bodies, strict=True)
                await asyncio.sleep(pause)
        return found

    reader = stores.archive.tiered.event_batches(log, Seq(0), Seq(100), Shape("docs"), batch=5)
    async with aclosing(reader):
        begun_in_mongodb = await anext(reader)
        other = Stores.of(stores.log.client, settings)
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(slow(batch, 0.01)) for batch in (1, 3, 10, 33)]
            group.create_task(archiver(other, settings).run_once())
        rest = [pair async for event_batch in reader for pair in zip(event_batch.seqs, event_batch.bodies, strict=True)]
    assert [*zip(begun_in_mongodb.seqs, begun_in_mongodb.bodies, strict=True), *rest] == expected
    assert all(task.result() == expected for task in readers)
    assert await slow(10, 0.0) == expected
    assert (await stores.tiers.read(log)).archived_up_to == 80


@pytest.mark.slow
async def test_a_body_that_is_stored_in_parts_is_sealed_whole(stores: Stores, settings: Settings) -> None:
    settings = settings.model_copy(update={"segment_events": 2, "hot_events": 1})
    events = [event(1), event(2, pad=secrets.token_hex(12_000_000)), event(3), event(4)]
    log = await begun(stores, events)
    assert await stores.log["event_parts"].count_documents({}) > 0
    await archiver(stores, settings).run_once()
    assert await stores.log["event_parts"].count_documents({}) == 0
    assert await everything(stores, log, 0, 4) == [sealed(item) for item in events]


STEPS = ("seal", "verify", "register", "record_touched", "raise_archived_up_to", "drop")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_an_archiver_killed_at_any_step_neither_loses_nor_duplicates_events(
    stores: Stores, settings: Settings, step: str, when: str
) -> None:
    """A reader reads all the while, and finds every event exactly once: before, during and after."""
    settings = settings.model_copy(update={"segment_events": 40})
    log = await begun(stores, EVENTS)
    expected = [sealed(item) for item in EVENTS]
    over = asyncio.Event()

    async def read_all_the_while() -> int:
        count = 0
        while not over.is_set():
            assert await everything(stores, log, 0, 100) == expected
            count += 1
        return count

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read_all_the_while())
        try:
            code = await asyncio.to_thread(crashed_archiver, settings, step, when)
            assert code == -signal.SIGKILL
            await archiver(stores, settings).run_once()
            assert await everything(stores, log, 0, 100) == expected
        finally:
            over.set()
    assert reading.result() > 3
    assert await hot_seqs(stores, log) == list(range(81, 101))
    assert (await stores.tiers.read(log)).archived_up_to == 80
    assert (await stores.archive.segments.totals(log)).events == 80
    newest = {item.event.id: item.event.seq for item in EVENTS[:80] if item.event.collection == "docs"}
    rows = await stores.log["touched"].find({"_id.c": "docs"}).to_list()
    assert {row["_id"]["i"]: row["n"] for row in rows} == newest


if __name__ == "__main__":
    asyncio.run(_run_and_die(*sys.argv[1:]))
