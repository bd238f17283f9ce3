"""Time travel against a model: the collection itself at its checkpoints, and the log replayed for all other points."""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.domain.ids import IdText
from eventsync.domain.points import Version
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.replay import DamagedEvents, State
from eventsync.domain.shapes import Shape
from eventsync.errors import BehindRetention, Malformed, NotFound, NotTracked, ResetRequired, Unavailable
from eventsync.settings import Settings
from eventsync.stores.history.differing import same_state
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.log.logs import Checkpoint
from eventsync.stores.stores import Stores
from support.archives import archiver
from support.histories import History, based, collection_at, newest_checkpoint, stored_at
from support.replay import Replay, caught_up, eventually, tracked
from support.replica import to_tree
from support.systems import running_worker

NOBODY = IdText("nobody")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Small chunks: a history of a few documents fills several."""
    update = {"snapshot_chunk_bytes": 1024, "archive_url": str(tmp_path), "segment_events": 15}
    return settings.model_copy(update=update)


async def archived(stores: Stores, settings: Settings, log: LogId) -> None:
    """Move nearly all events into segments."""
    await stored_at(stores, log, "docs", await newest_checkpoint(stores, log))
    await archiver(stores, settings.model_copy(update={"hot_events": 1, "hot_age": 0.0})).run_once()
    assert (await stores.tiers.read(log)).archived_up_to > 0


async def clock(stores: Stores) -> datetime:
    """The time by MongoDB's clock, once that millisecond is over."""
    admin = stores.data.client["admin"]
    at = now = (await admin.command("hello"))["localTime"]
    while now <= at:  # each look takes a good part of that millisecond
        now = (await admin.command("hello"))["localTime"]
    assert isinstance(at, datetime)
    return at


async def over(stores: Stores, log: LogId, at: datetime) -> None:
    """Wait until the worker has read the changes past the second of this instant."""

    async def check() -> bool | None:
        checkpoint = await stores.logs.read_checkpoint(log)
        return True if checkpoint and checkpoint.time.time > at.timestamp() else None

    await eventually(stores, "heads", check)


async def newest(stores: Stores, log: LogId) -> Seq:
    tail = await stores.events.tail(log)
    assert tail is not None
    return tail.seq


async def before_it_was(past: TimeTravel, shape: Shape, at: datetime) -> None:
    with pytest.raises(BehindRetention):
        await past.document(shape, at)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_at_every_checkpoint_and_instant_it_is_the_collection(
    stores: Stores, settings: Settings, seed: int
) -> None:
    history, choose, past = History.of(stores, "docs", seed), random.Random(seed), TimeTravel(stores)
    started = await clock(stores)
    for _ in range(25):
        await history.write()  # before it is tracked: only the base has it
    models: list[tuple[Checkpoint, datetime, dict[IdText, State]]] = []
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await over(stores, log, datetime.fromtimestamp((await based(stores, log, "docs")).time.time, UTC))
        for _ in range(8):
            for _ in range(choose.randrange(1, 25)):
                await history.write()
            at = await clock(stores)
            await caught_up(stores)
            checkpoint = await newest_checkpoint(stores, log)
            models.append((checkpoint, at, await collection_at(stores, "docs", checkpoint)))
            if choose.random() < 0.4:
                await stored_at(stores, log, "docs", checkpoint)
        await over(stores, log, models[-1][1])
    if seed == 2:
        await archived(stores, settings, log)
    for checkpoint, at, model in models:
        for text in [*model, NOBODY]:
            for point in (Position(log, checkpoint.seq), at):
                reading = await past.document(Shape("docs", text), point)
                assert same_state(reading.state, model.get(text)), (text, point, reading)
                assert reading.position == Position(log, checkpoint.seq)
    await before_it_was(past, Shape("docs", NOBODY), started)


@pytest.mark.slow
@pytest.mark.parametrize("cold", [False, True])
async def test_at_every_position_and_version_it_is_the_log_replayed(
    stores: Stores, settings: Settings, cold: bool
) -> None:
    past, history = TimeTravel(stores), History.of(stores, "docs", 11)
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
        for number in range(90):
            await history.write()
            if number % 30 == 20:
                await caught_up(stores)
                await stored_at(stores, log, "docs", await newest_checkpoint(stores, log))
        await caught_up(stores)
    replay, versions = Replay(), dict[tuple[str, int], Any]()
    ids = [IdText(text) for text in await stores.log["events"].distinct("i", {"_id.l": log})]
    if cold:
        await archived(stores, settings, log)
    async for stored in stores.events.read(log, Seq(0), await newest(stores, log)):
        replay.take(stored)
        rows = copy.deepcopy(replay.of("docs"))
        for text, (version, document) in rows.items():
            versions[text, version] = document
        for text in ids if stored.seq % 9 == 0 else [stored.id]:
            reading = await past.document(Shape("docs", text), Position(log, stored.seq))
            tree = (reading.state[0], to_tree(reading.state[1])) if reading.state else None
            assert tree == rows.get(text), (text, stored.seq)
    assert len(versions) > len(ids) + 20
    for (text, version), document in versions.items():
        reading = await past.document(Shape("docs", IdText(text)), Version(version))
        assert reading.state is not None
        assert (reading.state[0], to_tree(reading.state[1])) == (version, document), (text, version)
        again = await past.document(Shape("docs", IdText(text)), reading.position)
        assert same_state(again.state, reading.state)


# --- a log made by hand -----------------------------------------------------------------------------------------


@pytest.fixture
async def log(stores: Stores) -> LogId:
    """`docs` is tracked since 10, its snapshots are at 20 and 30, its events are 1, 12, 15, 25, 35 (a deletion), 36.

    Event n has cluster time 1000 + n; the worker has read up to 1040.
    """
    await stores.ensure_indexes()
    begun = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=Timestamp(1000, 1))
    for seq in range(1, 41):
        await _event(stores, begun.id, seq, "c" if seq not in {1, 12, 15, 25, 35, 36} else "docs")
    await stores.logs.checkpoint(begun.id, Seq(40), "82AB", Timestamp(1040, 2))
    await stores.tracking.ask(["docs", "later"])
    await stores.tracking.activate(["docs"], begun.id, Seq(10))
    await _snapshot(stores, begun.id, 20, 2, {"_id": "a", "n": Int64(15)})
    await _snapshot(stores, begun.id, 30, 3, {"_id": "a", "n": Int64(25)})
    return begun.id


async def _snapshot(stores: Stores, log: LogId, seq: int, version: int, document: dict[str, Any]) -> None:
    async def documents() -> Any:
        yield version, document

    await stores.snapshots.stored.write(log, "docs", Seq(seq), Timestamp(1000 + seq, 1), documents())


VERSIONS = {1: (8, 9), 12: (0, 1), 15: (1, 2), 25: (2, 3), 35: (3, 4), 36: (0, 1)}


async def _event(stores: Stores, log: LogId, seq: int, collection: str) -> None:
    base, version = VERSIONS.get(seq, (0, 1))
    at = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1000 + seq)).isoformat("T", "milliseconds")[:-6] + "Z"
    head = f'{{"seq":{seq},"collection":"{collection}","id":"a","op":'
    what = f'"create","base":{base},"version":{version},"doc":{{"_id":"a","n":{seq}}}'
    if base:
        what = f'"update","base":{base},"version":{version},"patch":[{{"op":"replace","path":"/n","value":{seq}}}]'
    if seq == 35:
        what = f'"delete","base":{base},"version":{version}'
    row = {"_id": {"l": log, "n": Int64(seq)}, "t": "82AA", "s": Timestamp(1000 + seq, 1), "c": collection, "i": "a"}
    marks = {"w": ["/n" if seq in {12, 36} else "/0/value"]} if seq in VERSIONS and seq != 35 else {}
    row |= {"v": Int64(version), "b": f'{head}{what},"at":"{at}","external":true}}'} | marks
    await stores.log["events"].insert_one(row)


A = Shape("docs", IdText("a"))


def instant(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


async def number_at(stores: Stores, point: Any) -> tuple[int, int, Any] | None:
    """Return seq, version and field `n` of the document `a` at a point."""
    reading = await TimeTravel(stores).document(A, point)
    return (reading.position.seq, reading.state[0], reading.state[1]["n"]) if reading.state else None


async def test_between_two_snapshots_and_after_them(stores: Stores, log: LogId) -> None:
    assert await number_at(stores, Position(log, Seq(20))) == (20, 2, 15)
    assert await number_at(stores, Position(log, Seq(24))) == (24, 2, 15)
    assert await number_at(stores, Position(log, Seq(25))) == (25, 3, 25)
    assert await number_at(stores, Position(log, Seq(34))) == (34, 3, 25)
    assert await number_at(stores, Position(log, Seq(35))) is None
    assert await number_at(stores, None) == (40, 1, 36)


async def test_before_the_first_snapshot_what_its_own_events_tell(stores: Stores, log: LogId) -> None:
    """From where a document was created it is known; what was before, and what is of others, is not."""
    assert await number_at(stores, Position(log, Seq(12))) == (12, 1, 12)
    assert await number_at(stores, Position(log, Seq(19))) == (19, 2, 15)
    for point in (Position(log, Seq(11)), Position(log, Seq(0)), instant(1011), instant(1), instant(-1)):
        with pytest.raises(BehindRetention, match=f"are known from {log}:20 on") as raised:
            await number_at(stores, point)
        assert raised.value.since == f"{log}:20"
    with pytest.raises(BehindRetention):
        await TimeTravel(stores).document(Shape("docs", IdText("b")), Position(log, Seq(19)))
    await stores.log["events"].delete_one({"_id.n": 12})
    with pytest.raises(DamagedEvents, match="event 12 is missing"):
        await number_at(stores, Position(log, Seq(19)))


async def test_a_point_before_the_horizon_is_gone(stores: Stores, log: LogId) -> None:
    await stores.tiers.raise_archived_up_to(log, Seq(28))
    await stores.tiers.raise_horizon(log, Seq(28))
    await stores.log["snapshots"].delete_one({"n": 20})
    await stores.log["events"].delete_many({"_id.n": {"$lte": 28}})
    for point in (Position(log, Seq(25)), instant(1025), Version(2)):
        with pytest.raises(BehindRetention, match=f"are known from {log}:30 on"):
            await number_at(stores, point)
    assert await number_at(stores, Position(log, Seq(30))) == (30, 3, 25)
    assert await number_at(stores, Version(3)) == (30, 3, 25)
    assert await number_at(stores, instant(1030)) == (30, 3, 25)


async def test_a_point_before_a_horizon_past_the_snapshot_is_gone(stores: Stores, log: LogId) -> None:
    """A snapshot is the state up to where its collection has no event."""
    await stores.tiers.raise_archived_up_to(log, Seq(33))
    await stores.tiers.raise_horizon(log, Seq(33))
    await stores.log["events"].delete_many({"_id.n": {"$lte": 33}})
    with pytest.raises(BehindRetention, match=f"are known from {log}:33 on"):
        await number_at(stores, Position(log, Seq(32)))
    assert await number_at(stores, Position(log, Seq(33))) == (33, 3, 25)
    assert await number_at(stores, Position(log, Seq(36))) == (36, 1, 36)


async def test_a_version_is_the_newest_state_that_had_it(stores: Stores, log: LogId) -> None:
    assert await number_at(stores, Version(2)) == (15, 2, 15)
    assert await number_at(stores, Version(3)) == (25, 3, 25)
    assert await number_at(stores, Version(1)) == (36, 1, 36)
    # Only its deletion had the one, and the other was before it was tracked.
    for version in (4, 9):
        with pytest.raises(NotFound, match=f"docs/a ha[ds] no version {version}"):
            await number_at(stores, Version(version))


async def test_a_version_that_was_there_before_the_first_event(stores: Stores, log: LogId) -> None:
    await stores.log["events"].delete_many({"_id.n": {"$lt": 20}})
    assert await number_at(stores, Version(2)) == (20, 2, 15)


async def test_an_instant_is_behind_all_that_was_committed_by_then(stores: Stores, log: LogId) -> None:
    for seq in range(20, 40):
        for part in (0, 0.5, 0.9999):
            reading = await TimeTravel(stores).document(A, instant(1000 + seq + part))
            assert reading.position.seq == seq


async def test_within_a_second_the_commit_times_decide(stores: Stores, log: LogId) -> None:
    """Cluster time counts seconds. And an event with a clock that was ahead does not hide those before it."""
    rows = stores.log["events"]
    for seq, at in ((31, "16.100"), (32, "16.900"), (33, "16.300")):
        body = (await rows.find_one({"_id.n": seq}) or {})["b"]
        body = body[: body.index('"at"')] + f'"at":"1970-01-01T00:17:{at}Z"}}'
        await rows.update_one({"_id.n": seq}, {"$set": {"b": body, "s": Timestamp(1036, seq)}})
    for seq in (34, 35, 36):
        await rows.update_one({"_id.n": seq}, {"$set": {"s": Timestamp(1037, seq)}})
    past = TimeTravel(stores)
    found = [(await past.document(A, instant(1036 + part))).position.seq for part in (0, 0.1, 0.2, 0.3, 0.95)]
    assert found == [30, 31, 31, 33, 33]


async def test_an_instant_that_may_still_change_is_refused(stores: Stores, log: LogId) -> None:
    assert await number_at(stores, instant(1039.9)) == (39, 1, 36)
    with pytest.raises(Unavailable, match="has read the changes up to 1970-01-01T00:17:20") as raised:
        await number_at(stores, instant(1040))
    assert raised.value.retry_after >= 1
    with pytest.raises(Malformed, match="is in the future"):
        await number_at(stores, datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(Malformed, match="is in the future"):
        await number_at(stores, Position(log, Seq(41)))


async def test_positions_of_another_log(stores: Stores, log: LogId) -> None:
    with pytest.raises(ResetRequired) as raised:
        await number_at(stores, Position(LogId("another"), Seq(3)))
    assert raised.value.reason == "unknown_log"


async def test_now_is_no_half_transaction(stores: Stores, log: LogId) -> None:
    assert await number_at(stores, None) == (40, 1, 36)
    for seq, n in ((39, 1), (40, 2)):
        await stores.log["events"].update_one({"_id.n": seq}, {"$set": {"g": {"id": "t", "n": n, "of": 3}}})
    assert await number_at(stores, None) == (38, 1, 36)


async def test_collections_that_are_not_tracked_or_not_yet(stores: Stores, log: LogId) -> None:
    past = TimeTravel(stores)
    with pytest.raises(NotTracked, match="'other' is not tracked"):
        await past.document(Shape("other", IdText("a")), None)
    with pytest.raises(Unavailable, match="about to be tracked"):
        await past.document(Shape("later", IdText("a")), None)
    await stores.log["snapshots"].delete_many({})
    with pytest.raises(NoBase):
        await past.document(Shape("docs", IdText("b")), Position(log, Seq(30)))
    with pytest.raises(Malformed, match="is a collection"):
        await past.document(Shape("docs"), None)


async def test_without_a_log(stores: Stores) -> None:
    with pytest.raises(Unavailable, match="no event log yet"):
        await TimeTravel(stores).document(A, None)


async def test_a_collection_is_known_between_its_base_and_the_head(stores: Stores, log: LogId) -> None:
    past = TimeTravel(stores)
    assert await past.position("docs", instant(1025.5)) == Position(log, Seq(25))
    for point in (Position(log, Seq(19)), instant(1019)):
        with pytest.raises(BehindRetention):
            await past.position("docs", point)
    with pytest.raises(Malformed, match="a collection has no version"):
        await past.position("docs", Version(3))
