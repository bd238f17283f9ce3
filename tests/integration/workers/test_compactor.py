from __future__ import annotations

import os
import secrets
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.segments.format import span_of
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment
from eventsync.stores.log.tiers import BehindHorizon, Tiers
from eventsync.stores.stats.counters import BLOCK
from eventsync.stores.stores import Stores
from support.archives import archiver, begun, compactor, event, everything, hot_seqs, in_segments, sealed, stored

EVENTS = [event(seq) for seq in range(1, 101)]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Segments of 20 events; 15 stay hot, 50 are kept, and none is too old."""
    return in_segments(settings, tmp_path, retention_age=0.0, retention_events=50, pin_ttl=60.0)


def files(settings: Settings, log: LogId) -> list[int]:
    """The first seqs of the objects of a log."""
    found = (Path(settings.archive_url) / log).glob("*.seg")
    return sorted(int(file.name.split("-")[0]) for file in found)


async def test_events_beyond_retention_events_are_removed_by_whole_segments(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    await compactor(stores, settings).run_once()
    assert await stores.tiers.read(log) == Tiers(archived_up_to=Seq(80), horizon=Seq(40))
    assert files(settings, log) == [41, 61]
    assert (await stores.archive.segments.totals(log)).segments == 2
    assert await everything(stores, log, 40, 100) == [sealed(item) for item in EVENTS[40:]]
    for after in (0, 20, 39):
        with pytest.raises(BehindHorizon, match=f"the events after {log}:{after} are only kept from 41 on"):
            await everything(stores, log, after, 100)
        with pytest.raises(BehindHorizon):
            await anext(
                stores.history.reader.changes(log, "docs", after=Seq(after), up_to=Seq(99), ids=[IdText("int:1")])
            )
    await archiver(stores, settings).run_once()
    assert files(settings, log) == [41, 61], "nothing is sealed twice"


async def test_events_beyond_retention_bytes_are_removed(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    size = (await stores.archive.segments.totals(log)).bytes
    settings = settings.model_copy(update={"retention_events": 0, "retention_bytes": size - 1})
    await compactor(stores, settings).run_once()
    assert (await stores.tiers.read(log)).horizon == 20
    await compactor(stores, settings).run_once()
    assert (await stores.tiers.read(log)).horizon == 20


async def test_events_beyond_retention_age_are_removed_even_if_never_sealed(client: Any, settings: Settings) -> None:
    """But for the newest event, from which the numbering continues."""
    update = {"archive_url": "none", "retention_events": 0, "retention_age": 1.0}
    settings = settings.model_copy(update=update)
    stores = Stores.of(client, settings)
    log = await begun(stores, EVENTS)
    await compactor(stores, settings).run_once()
    assert await stores.tiers.read(log) == Tiers(archived_up_to=Seq(99), horizon=Seq(99))
    assert await hot_seqs(stores, log) == [100]
    rows = await stores.log["touched"].find().to_list()
    assert {row["_id"]["i"]: row["n"] for row in rows} == {item.event.id: item.event.seq for item in EVENTS[:99]}
    with pytest.raises(BehindHorizon):
        await everything(stores, log, 98, 100)
    assert await everything(stores, log, 99, 100) == [sealed(EVENTS[-1])]


async def test_events_that_no_snapshot_covers_are_kept(client: Any, settings: Settings) -> None:
    settings = settings.model_copy(update={"archive_url": "none", "retention_events": 1})
    stores = Stores.of(client, settings)
    log = await begun(stores, EVENTS)
    await stores.log["snapshots"].update_one({}, {"$set": {"n": 30}})
    await compactor(stores, settings).run_once()
    assert (await stores.tiers.read(log)).horizon == 30
    await stores.tracking.ask(["new"])
    await stores.tracking.activate(["new"], log, Seq(100))
    await stored(stores, log, "docs", 100)
    await compactor(stores, settings).run_once()
    assert (await stores.tiers.read(log)).horizon == 30


async def test_events_that_a_live_pin_needs_are_kept(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    async with stores.snapshots.pins.held(log, Seq(25)):
        await compactor(stores, settings).run_once()
        assert (await stores.tiers.read(log)).horizon == 20
        assert await everything(stores, log, 25, 100) == [sealed(item) for item in EVENTS[25:]]
        await stores.tiers.raise_horizon(log, Seq(40))
        await compactor(stores, settings).run_once()
        assert files(settings, log) == [21, 41, 61], "the horizon is raised; what is pinned is removed later"
    await compactor(stores, settings).run_once()
    assert files(settings, log) == [41, 61]


async def test_a_reader_whose_segments_are_removed_gets_an_error(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    async with aclosing(stores.archive.tiered.read(log, Seq(0), Seq(100))) as events:
        assert (await anext(events)).seq == 1
        await compactor(stores, settings).run_once()
        with pytest.raises(BehindHorizon):
            _ = [item async for item in events]


async def test_the_next_run_removes_what_a_killed_compactor_has_left(stores: Stores, settings: Settings) -> None:
    """After the horizon was raised; after an object was removed; after events were given up."""
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    settings = settings.model_copy(update={"retention_events": 0})
    await stores.tiers.raise_horizon(log, Seq(60))
    segment = await stores.archive.segments.starting(log, Seq(1))
    assert segment is not None
    (Path(settings.archive_url) / segment.path).unlink()
    await compactor(stores, settings).run_once()
    assert files(settings, log) == [61]
    assert (await stores.archive.segments.totals(log)).segments == 1
    await stores.tiers.give_up(log, Seq(90))
    await compactor(stores, settings).run_once()
    assert files(settings, log) == []
    assert await hot_seqs(stores, log) == list(range(91, 101))
    assert await everything(stores, log, 90, 100) == [sealed(item) for item in EVENTS[90:]]


@pytest.mark.slow
async def test_touched_documents_are_removed_last(stores: Stores, settings: Settings) -> None:
    """A collection in which nothing has happened since is still known to be what its only snapshot says."""
    update = {"segment_events": 5000, "retention_events": 100, "squash_age": 0.001, "segment_block_bytes": 10**6}
    settings = settings.model_copy(update=update)
    events = [event(seq, "rare" if seq in {2, 3} else "docs", f"int:{seq}") for seq in range(1, BLOCK + 101)]
    log = await begun(stores, events, ["docs", "rare"])
    await stores.log["snapshots"].update_one({"c": "rare"}, {"$set": {"n": 3}})
    await archiver(stores, settings).run_once()
    assert await stores.tiers.read(log) == Tiers(archived_up_to=Seq(10_000))
    await compactor(stores, settings).run_once()
    await compactor(stores, settings).run_once()
    assert await stores.tiers.read(log) == Tiers(
        archived_up_to=Seq(10_000), horizon=Seq(10_000), squash_floor=Seq(9999)
    )
    assert [row["n"] async for row in stores.log["touched"].find()] == [10_000]
    ids = [IdText("int:3")]
    changes = stores.history.reader.changes(log, "rare", after=Seq(3), up_to=Seq(10_050), ids=ids)
    assert [item async for item in changes] == []
    with pytest.raises(BehindHorizon):
        await anext(stores.history.reader.changes(log, "rare", after=Seq(2), up_to=Seq(10_050), ids=ids))


async def test_a_former_log_is_removed_and_a_newer_one_is_not(stores: Stores, settings: Settings) -> None:
    former = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    old = await stores.logs.current()
    log = await begun(stores, EVENTS[:30])
    await compactor(stores, settings).run_once()
    assert await hot_seqs(stores, former) == []
    assert files(settings, former) == []
    for name in ("touched", "tallies", "segments"):
        assert await stores.log[name].count_documents({"_id.l": former}) == 0
    assert await hot_seqs(stores, log) == list(range(1, 31))

    assert old is not None
    assert await stores.logs.former(old) == []


async def test_orphans_are_swept_and_can_no_longer_be_registered(stores: Stores, settings: Settings) -> None:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    objects = stores.archive.objects
    assert objects is not None
    for name in ("young", "old"):
        await objects.put(f"{log}/{name}.seg", secrets.token_bytes(10))
    for file in (Path(settings.archive_url) / log).iterdir():
        if file.stem != "young":
            os.utime(file, (1_600_000_000, 1_600_000_000))
    worker = compactor(stores, settings)
    assert await worker.sweep(log) == 1
    names = {file.stem for file in (Path(settings.archive_url) / log).iterdir()}
    assert "young" in names
    assert "old" not in names
    assert len(names) == 5
    late = Segment(log, span_of([sealed(event(81))]), f"{log}/old.seg", 10, 10, 0, b"")
    with pytest.raises(Unavailable, match="removed as an orphan"):
        await archiver(stores, settings).register(late)
    assert await stores.archive.segments.starting(log, Seq(81)) is None
    # It is killed between the two. The archiver that continues checks the segment before events leave MongoDB.
    assert await stores.archive.segments.register(late)
    with pytest.raises(Unavailable, match="removed as an orphan"):
        await archiver(stores, settings).run_once()
    assert await stores.archive.segments.starting(log, Seq(81)) is None
    assert (await stores.tiers.read(log)).archived_up_to == 80


async def test_leftovers_of_a_dead_restore_are_removed(stores: Stores, settings: Settings) -> None:
    """As of a server that was killed, if nobody begins another restore."""
    await begun(stores, EVENTS)
    for into, until in (("dead", datetime(2020, 1, 1, tzinfo=UTC)), ("alive", datetime(2120, 1, 1, tzinfo=UTC))):
        name = f"{into}.restoring-1234"
        await stores.data[name].insert_one({"_id": 1})
        await stores.log["restores"].insert_one({"_id": name, "into": into, "until": until})
    await compactor(stores, settings).run_once()
    listed = {name for name in await stores.data.list_collection_names() if "restoring" in name}
    assert listed == {"alive.restoring-1234"}
    assert await stores.log["restores"].distinct("into") == ["alive"]
