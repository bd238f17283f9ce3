"""The snapshotter's policy: when it makes a snapshot, which ones it removes, and requests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.encoded_state import decoded
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.job import YieldControl
from eventsync_workers.jobs.snapshot_need import SnapshotNeed
from eventsync_workers.jobs.snapshotter import Snapshotter
from support.logs_by_hand import append, begun, checkpoint

LATER = Timestamp(4_000_000_000, 1)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Conditions that are far away, for each test to bring its own near."""
    far = {"snapshot_events": 10**6, "snapshot_ratio": 1e9, "snapshot_period": 1e9, "snapshot_min_events": 10**6}
    return settings.model_copy(update=far | {"snapshots_kept": 100})


@pytest.fixture
async def log(stores: Stores) -> LogId:
    """A log with `docs` and `other`; `docs` has ten documents."""
    await stores.data["docs"].insert_many([{"_id": n, "t": "x" * 100} for n in range(10)])
    return await begun(stores, "docs", "other")


def snapshotter(stores: Stores, settings: Settings, **changes: Any) -> Snapshotter:
    return Snapshotter(stores, settings.model_copy(update=changes), "me", asyncio.Event())


async def seqs(stores: Stores, log: LogId, shape: str = "docs") -> list[int]:
    return [item.seq for item in await stores.snapshots.stored.listing(log) if item.shape == shape]


async def aged(stores: Stores, **ago: float) -> None:
    """All snapshots were made so long ago."""
    await stores.log["snapshots"].update_many({}, {"$set": {"at": datetime.now(UTC) - timedelta(**ago)}})


async def test_enough_events_make_the_next_one_due(log: LogId, stores: Stores, settings: Settings) -> None:
    maker = snapshotter(stores, settings, snapshot_events=10)
    await maker.run_once()
    await append(stores, log, "docs", 9)
    await append(stores, log, "other", 9)
    await maker.run_once()
    assert await seqs(stores, log) == [0]
    await append(stores, log, "docs", 1)
    await maker.run_once()
    await maker.run_once()
    assert await seqs(stores, log) == [0, 19]
    assert await seqs(stores, log, "other") == [0]
    for name in ("other", "docs"):
        await append(stores, log, name, 1)
        await maker.run_once()
        assert await seqs(stores, log) == [0, 19], "they are counted from the last one on"


async def test_enough_bytes_make_the_next_one_due_but_not_a_few_events(
    log: LogId, stores: Stores, settings: Settings
) -> None:
    maker = snapshotter(stores, settings, snapshot_ratio=2.0, snapshot_min_events=3)
    await maker.run_once()
    base = await stores.snapshots.stored.newest(log, "docs")
    assert base is not None
    assert base.raw_bytes > 10 * 100 > base.bytes, "before and after compression"
    await append(stores, log, "docs", 2, size=base.raw_bytes)
    await maker.run_once()
    assert await seqs(stores, log) == [0], "too few"
    await append(stores, log, "docs", 1)
    await maker.run_once()
    assert await seqs(stores, log) == [0, 3]
    await append(stores, log, "docs", 3, size=base.raw_bytes // 4)
    await maker.run_once()
    assert await seqs(stores, log) == [0, 3], "too small"


async def test_an_old_snapshot_is_replaced_if_there_were_events(log: LogId, stores: Stores, settings: Settings) -> None:
    maker = snapshotter(stores, settings, snapshot_period=3600.0)
    await maker.run_once()
    await append(stores, log, "docs", 1)
    await maker.run_once()
    assert await seqs(stores, log) == [0], "not yet"
    await aged(stores, minutes=61)
    await maker.run_once()
    assert await seqs(stores, log) == [0, 1]
    assert await seqs(stores, log, "other") == [0], "nothing has happened there"


async def test_one_changed_long_ago_does_not_keep_the_log_from_leaving_mongodb(
    log: LogId, stores: Stores, settings: Settings
) -> None:
    maker = snapshotter(stores, settings, hot_events=40_000)
    await maker.run_once()
    await append(stores, log, "other", 1)
    await append(stores, log, "docs", 19_998)
    await maker.run_once()
    assert await seqs(stores, log, "other") == [0]
    await append(stores, log, "docs", 10_002)
    await maker.run_once()
    assert await seqs(stores, log, "other") == [0, 30_001]


async def test_a_snapshot_before_the_horizon_is_replaced_without_events(
    log: LogId, stores: Stores, settings: Settings
) -> None:
    maker = snapshotter(stores, settings)
    await maker.run_once()
    await append(stores, log, "docs", 5)
    await stores.tiers.raise_archived_up_to(log, Seq(3))
    await stores.tiers.raise_horizon(log, Seq(3))
    await maker.run_once()
    assert 5 in await seqs(stores, log, "other")
    await maker.run_once()
    assert (await seqs(stores, log, "other")).count(5) == 1


async def test_nothing_is_due_again_at_the_same_checkpoint(log: LogId, stores: Stores, settings: Settings) -> None:
    """The events are there, and the checkpoint that would have them in a snapshot is not."""
    maker = snapshotter(stores, settings, snapshot_events=1)
    await maker.run_once()
    await append(stores, log, "docs", 1)
    await stores.log["heads"].update_one({"_id": log}, {"$set": {"seq": 0}})
    await maker.run_once()
    assert await seqs(stores, log) == [0]
    await checkpoint(stores, log, Seq(1))
    await maker.run_once()
    assert await seqs(stores, log) == [0, 1]


async def test_a_collection_that_can_not_be_read_does_not_keep_the_others_from_theirs(
    log: LogId, stores: Stores, settings: Settings
) -> None:
    await stores.data.create_collection("docs2", viewOn="docs", pipeline=[{"$project": {"x": {"$toInt": "nonsense"}}}])
    await stores.tracking.ask(["docs2"])
    await stores.tracking.activate(["docs2"], log, Seq(0))
    with pytest.raises(Unavailable, match="docs2"):
        await snapshotter(stores, settings).run_once()
    assert await seqs(stores, log) == await seqs(stores, log, "other") == [0]


async def test_two_snapshotters_know_what_the_other_has_counted(log: LogId, stores: Stores, settings: Settings) -> None:
    one, two = snapshotter(stores, settings, snapshot_events=10), snapshotter(stores, settings)
    await one.run_once()
    for maker in (one, two):
        await append(stores, log, "docs", 6)
        await maker.run_once()
    assert await seqs(stores, log) == [0], "the other waits for more"
    await one.run_once()
    assert await seqs(stores, log) == [0, 12], "it knows of the six that the other has tallied"


# --- on demand ------------------------------------------------------------------------------------------------------


async def test_one_snapshot_answers_all_requests_of_a_shape(log: LogId, stores: Stores, settings: Settings) -> None:
    maker = snapshotter(stores, settings)
    await maker.run_once()
    now = (await stores.data.command("ping"))["operationTime"]
    asked = [await stores.snapshots.requests.ask(Shape("docs"), now) for _ in range(2)]
    too_new = await stores.snapshots.requests.ask(Shape("docs"), LATER)
    await maker.run_once()
    assert len(await stores.snapshots.requests.unanswered()) == 3, "the checkpoint is from before it was asked for"
    await append(stores, log, "docs", 1)
    await maker.run_once()
    answers = [await stores.snapshots.requests.read(name) for name in asked]
    assert await seqs(stores, log) == [0, 1]
    newest = await stores.snapshots.stored.newest(log, "docs")
    assert newest is not None
    assert [answer and answer.snapshot for answer in answers] == [newest.id] * 2
    assert [request.id for request in await stores.snapshots.requests.unanswered()] == [too_new]


async def test_a_request_for_an_untracked_collection_is_refused(log: LogId, stores: Stores, settings: Settings) -> None:
    asked = await stores.snapshots.requests.ask(Shape("elsewhere"), Timestamp(1, 1))
    await snapshotter(stores, settings).run_once()
    answer = await stores.snapshots.requests.read(asked)
    assert answer is not None
    assert answer.refused == "the collection 'elsewhere' is not tracked"
    assert answer.snapshot is None


async def test_a_request_waits_for_a_collection_that_is_about_to_be_tracked(
    log: LogId, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be tracked, and a snapshot of it be asked for, while the snapshotter makes others."""
    maker, update = snapshotter(stores, settings), SnapshotNeed.update
    asked: list[str] = []
    for name in ("late", "later"):
        await stores.data.create_collection(name)
    await append(stores, log, "docs", 1)

    async def late(need: SnapshotNeed, log_id: LogId, yield_control: YieldControl) -> None:
        await update(need, log_id, yield_control)
        await stores.tracking.ask(["late", "later"])
        await stores.tracking.activate(["late"], log, Seq(0))
        asked.extend([await stores.snapshots.requests.ask(Shape(name), Timestamp(1, 1)) for name in ("late", "later")])

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotNeed, "update", late)
        await maker.run_once()
    made, waiting = [await stores.snapshots.requests.read(name) for name in asked]
    assert made is not None
    assert (made.refused, made.snapshot is None) == (None, False)
    assert waiting is not None
    assert (waiting.refused, waiting.snapshot) == (None, None)
    await stores.snapshots.requests.answer(made, refused="it comes late")
    assert await stores.snapshots.requests.read(asked[0]) == made
    await stores.tracking.activate(["later"], log, Seq(0))
    await maker.run_once()
    assert await stores.snapshots.requests.unanswered() == []


async def test_a_documents_snapshot_is_its_own_and_no_collections(
    log: LogId, stores: Stores, settings: Settings
) -> None:
    maker = snapshotter(stores, settings)
    await maker.run_once()
    await append(stores, log, "docs", 4)
    shape = Shape("docs", IdText("int:3"))
    for asked in (shape, Shape("docs", IdText("nobody"))):
        await stores.snapshots.requests.ask(asked, Timestamp(1, 1))
    await maker.run_once()
    assert await stores.snapshots.requests.unanswered() == []
    made = await stores.snapshots.stored.newest(log, str(shape))
    assert made is not None
    assert (made.documents, made.seq, made.collection) == (1, 4, "docs")
    rows = [row async for chunk in stores.snapshots.stored.rows(made) for row in chunk]
    assert rows == [("int:3", 0, {"_id": 3, "t": "x" * 100})]
    collection = await stores.snapshots.stored.newest(log, "docs")
    assert collection is not None
    assert collection.seq == 0
    assert await stores.snapshots.stored.nearest(log, shape, Seq(9)) == made
    assert await stores.snapshots.stored.nearest(log, shape, Seq(3)) == collection
    assert await stores.snapshots.stored.nearest(log, Shape("docs", IdText("int:4")), Seq(9)) == collection
    # The events up to 4 can't be read: the state comes from the document's own snapshot.
    assert decoded(await stores.history.state.document(log, "docs", shape.id or IdText(""), Seq(4))) == rows[0][1:]
    assert await stores.history.state.document(log, "docs", IdText("nobody"), Seq(4)) is None


# --- retirement -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def grown(log: LogId, stores: Stores, settings: Settings) -> LogId:
    """The log with snapshots of `docs` at 0 to 5, all made long ago."""
    maker = snapshotter(stores, settings, snapshot_events=1)
    await maker.run_once()
    for _ in range(5):
        await append(stores, log, "docs", 1)
        await maker.run_once()
    await aged(stores, days=100)
    assert await seqs(stores, log) == [0, 1, 2, 3, 4, 5]
    return log


async def raise_horizon(stores: Stores, log: LogId, seq: int) -> None:
    await stores.tiers.raise_archived_up_to(log, Seq(seq))
    await stores.tiers.raise_horizon(log, Seq(seq))


async def chunked(stores: Stores) -> set[str]:
    return set(await stores.log["snapshot_chunks"].distinct("_id.s"))


async def test_the_newest_and_what_the_log_begins_with_are_kept(
    grown: LogId, stores: Stores, settings: Settings
) -> None:
    maker = snapshotter(stores, settings, snapshots_kept=2)
    await maker.run_once()
    assert await seqs(stores, grown) == [0, 1, 4, 5]
    await raise_horizon(stores, grown, 3)
    await maker.run_once()
    assert await seqs(stores, grown) == [1, 4, 5], "nothing nearer to the horizon is left"
    await raise_horizon(stores, grown, 4)
    await maker.run_once()
    assert await seqs(stores, grown) == [4, 5]
    kept = {item.id for item in await stores.snapshots.stored.listing(grown) if item.documents}
    assert await chunked(stores) == kept
    assert await stores.snapshots.stored.hidden(grown) == []


async def test_one_of_each_day_is_kept(grown: LogId, stores: Stores, settings: Settings) -> None:
    today = datetime.now(UTC)
    for seq, days in ((1, 2), (2, 2), (3, 1), (4, 0), (5, 0)):
        await stores.log["snapshots"].update_many({"n": seq}, {"$set": {"at": today - timedelta(days=days)}})
    await raise_horizon(stores, grown, 4)
    await snapshotter(stores, settings, snapshots_kept=1, snapshot_days=3).run_once()
    assert await seqs(stores, grown) == [2, 3, 4, 5]


async def test_a_pinned_snapshot_is_kept(grown: LogId, stores: Stores, settings: Settings) -> None:
    maker = snapshotter(stores, settings, snapshots_kept=1)
    await raise_horizon(stores, grown, 5)
    second = await stores.snapshots.stored.newest(grown, "docs", Seq(2))
    assert second is not None
    async with stores.snapshots.pins.held(grown, second.seq, second.id):
        await maker.run_once()
        assert await seqs(stores, grown) == [2, 5]
        assert len([row async for chunk in stores.snapshots.stored.rows(second) for row in chunk]) == 10
    await maker.run_once()
    assert await seqs(stores, grown) == [5]


async def test_a_snapshot_pinned_just_before_it_is_hidden_is_shown_again(
    grown: LogId, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader comes between the first look at the pins and the hiding, as does a horizon."""
    maker = snapshotter(stores, settings, snapshots_kept=1)
    await raise_horizon(stores, grown, 1)
    third, hide = await stores.snapshots.stored.newest(grown, "docs", Seq(3)), stores.snapshots.stored.hide
    assert third is not None
    pin = stores.snapshots.pins.held(grown, third.seq, third.id)

    async def late(names: set[str]) -> None:
        await pin.__aenter__()
        await raise_horizon(stores, grown, 4)
        await hide(names)
        assert await stores.snapshots.stored.find(third.id) is None

    with monkeypatch.context() as patch:
        patch.setattr(stores.snapshots.stored, "hide", late)
        await maker.run_once()
    assert await seqs(stores, grown) == [1, 2, 3, 4, 5], "what was not hidden may be pinned"
    await maker.run_once()
    assert await seqs(stores, grown) == [3, 4, 5]
    await pin.__aexit__(None, None, None)


async def test_the_next_run_removes_or_shows_a_snapshot_left_hidden(
    grown: LogId, stores: Stores, settings: Settings
) -> None:
    """As after a kill between the hiding and the removing."""
    listed = {item.seq: item.id for item in await stores.snapshots.stored.listing(grown) if item.shape == "docs"}
    await raise_horizon(stores, grown, 3)
    await stores.snapshots.stored.hide([listed[Seq(1)], listed[Seq(5)]])
    await stores.log["snapshots"].update_many({"hidden": True}, {"$set": {"at": datetime(2020, 1, 1, tzinfo=UTC)}})
    await snapshotter(stores, settings, snapshots_kept=2).run_once()
    assert await seqs(stores, grown) == [3, 4, 5]
    assert listed[Seq(1)] not in await chunked(stores)


async def test_a_snapshot_that_another_worker_has_shown_again_is_kept(
    grown: LogId, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is paused between its decision and the removal; meanwhile the horizon has risen to the snapshot."""
    await raise_horizon(stores, grown, 4)
    third, show = await stores.snapshots.stored.newest(grown, "docs", Seq(3)), stores.snapshots.stored.show
    assert third is not None

    async def paused(names: set[str]) -> None:
        await show(names)
        await show([third.id])

    monkeypatch.setattr(stores.snapshots.stored, "show", paused)
    await snapshotter(stores, settings, snapshots_kept=1).run_once()
    assert await seqs(stores, grown) == [3, 4, 5]
    assert len([row async for chunk in stores.snapshots.stored.rows(third) for row in chunk]) == 10


async def test_a_paused_worker_removes_no_snapshot_of_a_log_that_has_begun_since(
    grown: LogId, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still takes its own log for the current one, and all others for former ones."""
    unanswered = stores.snapshots.requests.unanswered
    new: list[LogId] = []

    async def paused() -> Any:
        now = (await stores.data.command("ping"))["operationTime"]
        begun = await stores.logs.begin(await stores.logs.current(), cluster="c", reason="r", token="82AA", time=now)
        await stores.tracking.activate(["docs", "other"], begun.id, Seq(0), now)
        new.append(begun.id)
        monkeypatch.undo()
        await snapshotter(stores, settings).run_once()
        assert await seqs(stores, begun.id) == [0]
        return await unanswered()

    monkeypatch.setattr(stores.snapshots.requests, "unanswered", paused)
    await snapshotter(stores, settings).run_once()
    assert await seqs(stores, new[0]) == [0]


async def test_snapshots_from_before_the_collection_was_tracked_again_are_removed(
    grown: LogId, stores: Stores, settings: Settings
) -> None:
    await append(stores, grown, "docs", 1)
    await stores.tracking.activate(["docs"], grown, Seq(6))
    await snapshotter(stores, settings).run_once()
    assert await seqs(stores, grown) == [6]


async def test_a_reader_whose_snapshot_is_removed_takes_another(
    grown: LogId, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks gone, the snapshot would seem to be without the documents."""
    lines_of = stores.snapshots.stored.lines_of
    # Only the newest is there, and it is about something else: all comes from snapshots.
    await stores.log["events"].delete_many({"_id.n": {"$lt": 5}})
    await stores.log["events"].update_one({"_id.n": 5}, {"$set": {"c": "elsewhere"}})
    removed: list[str] = []

    def raced(snapshot: Any, ids: Any) -> Any:
        async def lines() -> Any:
            if not removed:
                removed.append(snapshot.id)
                await stores.snapshots.stored.remove(snapshot.id)
            async for line in lines_of(snapshot, ids):
                yield line

        return lines()

    monkeypatch.setattr(stores.snapshots.stored, "lines_of", raced)
    state = await stores.history.state.document(grown, "docs", IdText("int:1"), Seq(5))
    assert removed
    assert decoded(state) == (0, {"_id": 1, "t": "x" * 100})
