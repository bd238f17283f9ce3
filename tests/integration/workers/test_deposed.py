"""Workers that do not know that another one has taken over: nothing that they store contradicts its successor."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from unittest.mock import AsyncMock

import pytest
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import ChangeStream, watch
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.log.logs import Fenced
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.activation import Activation, ActiveCollections, change_pipeline
from eventsync_workers.sequencing.checkpoint import CheckpointRecorder
from eventsync_workers.sequencing.faults import Faults
from eventsync_workers.sequencing.log_writer import LogWriter, NewCheckpoint
from eventsync_workers.sequencing.missing_images import ImageReader
from support.replay import (
    assert_complete,
    began,
    caught_up,
    current_log,
    eventually,
    logged,
    snapshot,
)
from support.systems import running_worker


async def _asked_for_late(stores: Stores, settings: Settings) -> LogId:
    """Begin a log with an event of `docs`, and ask for `late` once its worker has ended."""
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await caught_up(stores)
    await stores.data.create_collection("late", changeStreamPreAndPostImages={"enabled": True})
    await stores.tracking.ask(["late"])
    return log


async def test_the_event_of_a_deposed_worker_makes_a_first_activation_void(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was read from a stream without the collection, so a change of that may be missing before it."""
    caplog.set_level(logging.INFO)
    log = await _asked_for_late(stores, settings)
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    with monkeypatch.context() as deposed:
        deposed.setattr(ActiveCollections, "check_registry", AsyncMock())
        async with running_worker(settings):
            await logged(caplog, stores, f"log {log}: sequencing docs from 1")
            # Its successor activates the collection behind event 1; then a change of each collection is committed.
            await stores.tracking.mark(log, ["late"])
            await stores.tracking.activate(["late"], log, checkpoint.seq, checkpoint.time)
            await stores.data["late"].insert_one({"_id": "missed"})
            await stores.data["docs"].insert_one({"_id": 2})
            await caught_up(stores)
    assert [row["i"] async for row in stores.log["events"].find({"_id.l": log}).sort("_id.n", 1)] == ["int:1", "int:2"]
    async with running_worker(settings):
        base = await eventually(stores, "collections", lambda: _base(stores, "late", other_than=1))
        await stores.data["late"].insert_one({"_id": "seen"})
        replay = await assert_complete(stores, "docs")
        late = await snapshot(stores, log, "late")
    assert f"log {log}: late is no longer tracked: a deposed worker has not followed it" in caplog.text
    assert base > 2, "clients that have event 2 are reset"
    assert [event["id"] for event in replay.events if event["seq"] > base] == ["seen"]
    assert {document["_id"] for _, document in late.of("late").values()} == {"missed", "seen"}


async def test_a_deposed_worker_records_no_checkpoint_that_its_successor_contradicts(
    stores: Stores,
    settings: Settings,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else a snapshot there would have a change whose event comes behind it once more."""
    caplog.set_level(logging.INFO)
    record, going = CheckpointRecorder.record, asyncio.Event()

    async def held(recorder: CheckpointRecorder) -> NewCheckpoint:
        await going.wait()
        return await record(recorder)

    log = await _asked_for_late(stores, settings)
    with monkeypatch.context() as deposed:
        deposed.setattr(ActiveCollections, "check_registry", AsyncMock())
        deposed.setattr(CheckpointRecorder, "record", held)
        async with watch(stores.log, [{"$match": {"ns.coll": "heads"}}]) as recorded:
            async with running_worker(settings):
                await logged(caplog, stores, f"log {log}: sequencing docs from 1")
                change = await _activated_by_a_successor(stores.written_by(client, "successor"), log)
                going.set()
                await eventually(stores, "heads", lambda: _checkpoint_of(stores, log, Seq(2)))
                await stores.data["late"].insert_one({"_id": "more"})
                replay = await assert_complete(stores, "docs", "late")
            # A worker that runs records ever more.
            heads = await _recorded(recorded)
    assert f"another worker has taken over log {log}" in caplog.text
    assert [event["id"] for event in replay.events] == ["int:1", "once", "more"]
    assert heads
    assert [head for head in heads if head["seq"] < 2 and head["time"] >= change["clusterTime"]] == []


async def test_a_deposed_worker_neither_marks_nor_deactivates(stores: Stores, client: Client) -> None:
    """By the mark, the new log knows which collections have to begin behind its head when they are tracked again."""
    await stores.ensure_indexes()
    now = (await stores.data.command("ping"))["operationTime"]
    former = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=now)
    deposed, successor = (stores.written_by(client, name) for name in ("deposed", "successor"))
    await deposed.logs.take_over(former.id)
    followed = ActiveCollections(deposed, former, Faults(), images=True)
    await stores.tracking.ask(["docs", "late"])
    await stores.tracking.activate(["docs"], former.id, Seq(0), now)
    writer = LogWriter(former.id, deposed.events, ImageReader(deposed.snapshots.live), None, now)
    await followed.load(writer)
    followed.pending = Activation(("late",), now, has_dropped=False)
    new = await stores.logs.begin(former, cluster="c", reason="r", token="82AA", time=now)
    await successor.logs.take_over(new.id)
    await successor.tracking.mark(new.id, ["docs", "gone"])
    await successor.tracking.activate(["docs"], new.id, Seq(0), now)
    known = await stores.tracking.read()
    with pytest.raises(Fenced):
        await followed.activate(Seq(0), now)
    with pytest.raises(Fenced):
        await followed.restart("docs")
    assert followed.names == ("docs",)
    assert await stores.tracking.read() == known
    await stores.tracking.activate(["docs"], former.id, Seq(0), now)
    with pytest.raises(Fenced):
        await followed.load(writer)
    assert await stores.tracking.once_active(new.id, ["docs", "gone", "late"]) == ["docs", "gone"]


async def test_an_activation_by_a_deposed_worker_is_replaced(stores: Stores, settings: Settings) -> None:
    """Nobody follows the collection from there."""
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        checkpoint = await stores.logs.read_checkpoint(await caught_up(stores))
        assert checkpoint is not None
        await stores.data["docs"].insert_one({"_id": 2})
        await caught_up(stores)
        await stores.log["collections"].insert_one(
            {"_id": "late", "log": log, "base": Int64(1), "time": checkpoint.time, "fenced": True}
        )
        assert await eventually(stores, "collections", lambda: _base(stores, "late", other_than=1)) >= 2
        await stores.data["late"].insert_one({"_id": 1})
        await assert_complete(stores, "docs", "late")


async def _activated_by_a_successor(successor: Stores, log: LogId) -> RawBSONDocument:
    """Take the log over, activate `late`, and append its first change as event 2; return that change."""
    await successor.logs.take_over(log)
    checkpoint = await successor.logs.read_checkpoint(log)
    assert checkpoint is not None
    await successor.tracking.mark(log, ["late"])
    async with successor.logs.leading(log) as session:
        await successor.tracking.activate(["late"], log, checkpoint.seq, checkpoint.time, session)
    async with watch(successor.data, change_pipeline(["late"])) as stream:
        await successor.data["late"].insert_one({"_id": "once"})
        while not (changes := (await stream.read(wait=0.5, limit=1)).changes):
            pass
    writer = LogWriter(
        log, successor.events, ImageReader(successor.snapshots.live), await successor.events.tail(log), checkpoint.time
    )
    writer.follow(["late"])
    await writer.append([await writer.convert([[changes[0]]])])
    return changes[0]


async def _recorded(stream: ChangeStream) -> list[dict[str, Any]]:
    """Return the seqs and times of the checkpoints that were recorded behind event 1 since the stream was opened."""
    heads: list[dict[str, Any]] = [{"seq": 1, "time": Timestamp(0, 0)}]
    while changes := (await stream.read(wait=0.5, limit=100)).changes:
        for change in changes:
            fields = change.get("updateDescription", {}).get("updatedFields", {})
            heads.append(heads[-1] | {name: fields[name] for name in ("seq", "time") if name in fields})
    return heads[1:]


async def _checkpoint_of(stores: Stores, log: LogId, seq: Seq) -> bool | None:
    checkpoint = await stores.logs.read_checkpoint(log)
    return (checkpoint is not None and checkpoint.seq >= seq) or None


async def _base(stores: Stores, name: str, *, other_than: int) -> int | None:
    """Return the seq from which on a collection is tracked, once that is another one."""
    log = await current_log(stores)
    bases = [item.tracked_from for item in await stores.tracking.active(log) if item.name == name]
    return next((base for base in bases if base != other_than), None)
