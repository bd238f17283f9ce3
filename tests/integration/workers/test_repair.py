"""Repair of lost history by events: the same log continues, and replays to the collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from eventsync.domain.events import Event
from eventsync.domain.positions import LogId
from eventsync.domain.stamp import Stamp
from eventsync.mongodb.change_stream import token_time, watch
from eventsync.mongodb.client import Client, app_name, connect_pinned
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing import converter, log_writer
from eventsync_workers.sequencing.evidence import Evidence
from eventsync_workers.sequencing.faults import Faults
from eventsync_workers.sequencing.leader import Leader
from eventsync_workers.sequencing.repair import Repair
from support.failpoints import failing
from support.replay import (
    Replay,
    assert_complete,
    caught_up,
    current_log,
    eventually,
    new_log,
    replayed,
    snapshot,
    tracked,
)
from support.systems import running_worker


async def based(stores: Stores, settings: Settings, *names: str) -> LogId:
    """Track, and wait until a repair would have something to start from."""
    await stores.tracking.ask(names)
    log = await tracked(stores, *names)

    async def check() -> bool | None:
        positions = await stores.snapshots.stored.positions(log)
        return True if set(names) <= set(positions) else None

    await eventually(stores, "snapshots", check)
    return log


def brief(replay: Replay, since: int) -> list[tuple[Any, ...]]:
    return [(e["op"], e["id"], e["base"], e["version"]) for e in replay.events if e["seq"] > since]


async def change_everything(stores: Stores) -> None:
    """One document of each fate: untouched, updated, stamped, retyped, replaced, deleted, made, made and deleted."""
    docs = stores.data["docs"]
    await docs.update_one({"_id": 1}, {"$inc": {"n": 1}})
    await docs.update_one({"_id": 2}, {"$set": {"n": 5, "_sync": Stamp(8, "op8", "by").stored()}})
    await docs.update_one({"_id": 3}, {"$set": {"n": 0.0}})
    await docs.replace_one({"_id": 4}, {"r": [1, {"a": 2}]})
    await docs.delete_one({"_id": 5})
    await docs.insert_one({"_id": 6, "new": True})
    await docs.insert_one({"_id": 7})
    await docs.delete_one({"_id": 7})


CHANGED = [
    ("replace", "int:1", 0, 0),
    ("replace", "int:2", 7, 8),
    ("replace", "int:3", 0, 0),
    ("replace", "int:4", 0, 0),
    ("create", "int:6", 0, 0),
    ("delete", "int:5", 0, 0),
]


async def prepared(stores: Stores) -> None:
    await stores.data["docs"].insert_many([{"_id": n, "n": 0} for n in range(6) if n != 2])
    await stores.data["docs"].insert_one({"_id": 2, "n": 0, "_sync": Stamp(7, "op7", "by").stored()})


@pytest.mark.parametrize("code", [136, 280, 286])
async def test_a_repair_appends_what_lost_changes_have_made(
    client: Client, stores: Stores, settings: Settings, code: int
) -> None:
    async with running_worker(settings):
        log = await based(stores, settings, "docs")
        await prepared(stores)
        await caught_up(stores)
        before = (await assert_complete(stores, "docs")).seq
    await change_everything(stores)
    async with failing(client, "getMore", code, app=app_name(settings, "worker"), times=1), running_worker(settings):
        replay = await assert_complete(stores, "docs")
        assert sorted(brief(replay, before)) == sorted(CHANGED)
        assert all(event["external"] for event in replay.events if event["seq"] > before)
        await stores.data["docs"].update_one({"_id": 6}, {"$set": {"new": False}})
        replay = await assert_complete(stores, "docs")
    assert replay.events[-1]["op"] == "update"
    assert await current_log(stores) == log
    (repair,) = await stores.repairs.newest()
    assert (repair.log, repair.kind, repair.after, repair.up_to) == (log, "history", before, before + len(CHANGED))
    assert (repair.events, repair.collections) == (len(CHANGED), {"docs": len(CHANGED)})
    assert repair.ended is not None
    assert repair.ended >= repair.began
    assert str(code) in repair.reason or "history" in repair.reason


async def test_an_interrupted_repair_is_repeated(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await based(stores, settings, "docs")
        await prepared(stores)
        before = (await assert_complete(stores, "docs")).seq
    await change_everything(stores)
    # As after a crash in the middle: the checkpoint is already behind the changes, and only the mark tells.
    async with watch(stores.data, []) as stream:
        token = stream.token
    row = {"token": token, "time": token_time(token), "repair": "it was broken off"}
    await stores.log["heads"].update_one({"_id": log}, {"$set": row})
    # The stream's time is that of the next write, which so must not be the one that the test waits for.
    await stores.data["elsewhere"].insert_one({})
    async with running_worker(settings):
        replay = await assert_complete(stores, "docs")
        assert sorted(brief(replay, before)) == sorted(CHANGED)
        await eventually(stores, "heads", lambda: unmarked(stores, log))
        await eventually(stores, "repairs", lambda: recorded(stores))
    (repair,) = await stores.repairs.newest()
    assert (repair.kind, repair.reason, repair.events) == ("interrupted", "it was broken off", len(CHANGED))


async def recorded(stores: Stores) -> bool | None:
    return True if all(repair.ended for repair in await stores.repairs.newest()) else None


async def test_repair_is_made_although_its_history_can_not_be_written(stores: Stores, settings: Settings) -> None:
    """A view takes no writes."""
    await stores.log.create_collection("repairs", viewOn="nothing", pipeline=[])
    async with running_worker(settings):
        log = await based(stores, settings, "docs")
        await prepared(stores)
        before = (await assert_complete(stores, "docs")).seq
    await change_everything(stores)
    await stores.log["heads"].update_one({"_id": log}, {"$set": {"repair": "it was broken off"}})
    async with running_worker(settings):
        await eventually(stores, "heads", lambda: unmarked(stores, log))
        replay = await assert_complete(stores, "docs")
    assert sorted(brief(replay, before)) == sorted(CHANGED)


async def unmarked(stores: Stores, log: LogId) -> bool | None:
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    return True if checkpoint.repair is None else None


async def test_after_an_interrupted_drop_the_repair_comes_first(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease runs out in the middle, and is renewed: what followed on the drop must wait for the rest of it."""
    docs = stores.data["docs"]
    await docs.insert_one({"_id": 1})
    async with running_worker(settings):
        log = await based(stores, settings, "docs")
        replay = await snapshot(stores, log, "docs")
        await docs.insert_one({"_id": 2})
        before = (await replayed(stores, await caught_up(stores), replay)).seq
    await docs.drop()
    await docs.insert_one({"_id": 2, "again": True})
    asked = 0
    append = Repair._append

    async def appending(self: Repair, *args: Any) -> None:
        nonlocal asked
        await append(self, *args)
        asked = 1

    def stopping() -> bool:
        nonlocal asked
        asked += asked > 0
        return asked == 2 or asked > 20

    monkeypatch.setattr(Repair, "_append", appending)
    current = await stores.logs.current()
    assert current is not None
    async with connect_pinned(settings, "worker") as client:
        evidence, faults = Evidence(stores), Faults()
        await Leader(stores, settings, current, stopping, client=client, evidence=evidence, faults=faults).run()
    monkeypatch.undo()
    tail = await stores.events.tail(log)
    assert tail is not None
    assert tail.seq == before + 1
    async with running_worker(settings):
        await replayed(stores, await caught_up(stores), replay)
    assert replay.of("docs") == {"int:2": (0, {"_id": 2, "again": True})}
    assert [row[:2] for row in brief(replay, before)] == [("delete", "int:1"), ("replace", "int:2")]


async def drop_collection(stores: Stores) -> None:
    await stores.data["docs"].drop()


async def drop_database(stores: Stores) -> None:
    await stores.data.client.drop_database(stores.data.name)


async def rename_away(stores: Stores) -> None:
    await stores.data["docs"].rename("elsewhere")


async def rename_onto(stores: Stores) -> None:
    await stores.data["elsewhere"].insert_many([{"_id": 2, "n": 9}, {"_id": 9}])
    await stores.data["elsewhere"].rename("docs", dropTarget=True)


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
@pytest.mark.parametrize("lose", [drop_collection, drop_database, rename_away, rename_onto])
async def test_dropped_and_new_collections_are_repaired(
    stores: Stores, settings: Settings, lose: Any, running: bool
) -> None:
    async with running_worker(settings):
        log = await based(stores, settings, "docs", "other")
        await prepared(stores)
        await stores.data["other"].insert_one({"_id": "stays", "n": 1})
        before = (await assert_complete(stores, "docs", "other")).seq
        if running:
            await lose(stores)
            await assert_complete(stores, "docs", "other")
    if not running:
        await lose(stores)
    async with running_worker(settings):
        await assert_complete(stores, "docs", "other")
        await stores.data["docs"].insert_one({"_id": 3, "again": True})
        await stores.data["docs"].update_one({"_id": 3}, {"$set": {"n": 1}})
        replay = await assert_complete(stores, "docs", "other")
    assert await current_log(stores) == log
    told = brief(replay, before)
    gone = {row[1] for row in told if row[0] in {"delete", "replace"}}
    assert gone >= {f"int:{n}" for n in range(6)}
    assert [row[:2] for row in told][-2:] == [("create", "int:3"), ("update", "int:3")]


async def test_a_transaction_over_group_bytes_is_repaired(client: Client, stores: Stores, settings: Settings) -> None:
    small = settings.model_copy(update={"group_bytes": 1024 * 1024})
    async with running_worker(small):
        log = await based(stores, settings, "docs")
        async with client.start_session() as session, await session.start_transaction():
            for number in range(3):
                await stores.data["docs"].insert_one({"_id": number, "a": "x" * 500_000}, session=session)
        await assert_complete(stores, "docs")
    assert await current_log(stores) == log


async def test_a_change_that_can_not_be_converted_replaces_its_document(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = converter.convert

    def poisoned(change: Mapping[str, Any], raw: bytes | None = None) -> Event | None:
        if change["operationType"] == "update" and change["fullDocument"].get("n") == 2:
            raise ZeroDivisionError("poison")
        return real(change, raw)

    monkeypatch.setattr(log_writer, "convert", poisoned)
    async with running_worker(settings):
        await based(stores, settings, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "n": 0})
        for _ in range(3):
            await stores.data["docs"].update_one({"_id": 1}, {"$inc": {"n": 1}})
        replay = await assert_complete(stores, "docs")
    assert [event["op"] for event in replay.events] == ["create", "update", "replace", "update"]
    assert "ALARM" in caplog.text


@pytest.mark.parametrize("tamper", [{"$set": {"data": b"not what was written"}}, None], ids=["damaged", "missing"])
async def test_without_a_base_a_new_log_begins(client: Client, stores: Stores, settings: Settings, tamper: Any) -> None:
    await stores.data["docs"].insert_many([{"_id": n} for n in range(3)])
    async with running_worker(settings):
        log = await based(stores, settings, "docs")
    if tamper is None:
        await stores.log["snapshot_chunks"].delete_many({})
    else:
        await stores.log["snapshot_chunks"].update_many({}, tamper)
    async with failing(client, "getMore", 286, app=app_name(settings, "worker"), times=1), running_worker(settings):
        assert await new_log(stores, log) != log
        new = await tracked(stores, "docs")
    assert new != log
