"""`eventsync verify` against a real replica set: it proves what is right, and names what is not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.cli.verify import prove
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.values.extended_json import Document
from eventsync.errors import NotTracked, Unavailable
from eventsync.settings import Settings
from eventsync.stores.history import proof
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.history.proof import Wrong
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from eventsync.sync.tasks import Cancelled, Task
from support.environment import command_environment
from support.histories import History, based
from support.load import under_load
from support.program import finished
from support.replay import caught_up, tracked
from support.systems import running_worker
from support.waiting import patience


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"snapshot_chunk_bytes": 1024})


async def run(settings: Settings, *words: str) -> tuple[int, str]:
    """The command as a process of its own: exit code and output."""
    done = await finished("verify", *words, environment=command_environment(settings), seconds=patience(20))
    return done.exit_code, done.stdout + done.stderr


async def wrong(settings: Settings) -> Wrong:
    """Return the fault that a proof finds in `docs`."""
    report = await prove(settings, ["docs"])
    assert not report.whole
    (proof,) = report.proofs
    assert proof.wrong is not None
    return proof.wrong


@pytest.fixture
async def base(stores: Stores, settings: Settings) -> AsyncIterator[StoredSnapshot]:
    """A tracked collection `docs` with a base of some documents and a history after it, while a worker runs."""
    history = History.of(stores, "docs", 3)
    await stores.data["docs"].insert_many([{"_id": f"old-{n:03}", "n": Int64(n), "t": "x" * 50} for n in range(60)])
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        stored = await based(stores, log, "docs")
        for _ in range(80):
            await history.write()
        await caught_up(stores)
        yield stored


async def test_at_rest_it_proves_the_log(base: StoredSnapshot, settings: Settings) -> None:
    code, text = await run(settings, "--json")
    report = json.loads(text)
    assert code == 0
    assert report["whole"] is True
    assert [(item["name"], item["wrong"]) for item in report["collections"]] == [("docs", None)]
    assert base.chunks > 3


@pytest.mark.slow
async def test_it_proves_the_log_while_everything_changes(
    base: StoredSnapshot, stores: Stores, settings: Settings
) -> None:
    history = History.of(stores, "docs", 4)
    async with under_load(history.write):
        for _ in range(4):
            report = await prove(settings, [])
            assert report.whole, report.tree()
            assert report.head > base.seq


async def test_without_a_worker_it_compares_with_the_collection_as_it_is(stores: Stores, settings: Settings) -> None:
    """MongoDB no longer keeps the time of the last checkpoint: what no worker has read is a difference."""
    log = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=Timestamp(1, 1))
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], log.id, Seq(0))
    await stores.log["heads"].update_one({"_id": log.id}, {"$set": {"at": datetime(2020, 1, 1, tzinfo=UTC)}})
    await stores.data.create_collection("docs")
    with pytest.raises(NoBase):
        await prove(settings, [])
    await stores.snapshots.stored.write(log.id, "docs", Seq(0), Timestamp(1, 1), _one(3, {"_id": "a", "n": Int64(1)}))
    assert (await wrong(settings)).text.startswith("docs/a is only in the log")
    await stores.data["docs"].insert_one({"_id": "a", "n": Int64(1), "_sync": {"v": Int64(3)}})
    assert (await prove(settings, [])).whole
    await stores.data["docs"].update_one({"_id": "a"}, {"$set": {"_sync.v": Int64(4)}})
    assert (await wrong(settings)).text == "docs/a differs: the log has version 3, the collection version 4"


async def _one(version: int, document: Document) -> AsyncIterator[tuple[int, Document]]:
    yield version, document


async def test_it_says_what_is_wrong_and_exits_with_1(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    await stores.data["docs"].insert_one({"_id": "new", "n": 1})
    await stores.data["docs"].update_one({"_id": "old-009"}, {"$set": {"n": 9}})  # of the newest the worker takes care
    await caught_up(stores)
    await stores.log["events"].update_one({"i": "new"}, {"$set": {"c": "elsewhere"}})
    code, text = await run(settings)
    assert code == 1
    assert 'WRONG docs: docs/new is only in the collection: {"_id": "new", "n": {"$numberInt": "1"}}' in text


async def test_cancelled_proof_ends_at_its_next_batch(base: StoredSnapshot, stores: Stores) -> None:
    class Cancelling(Task):
        def begin_step(self, name: str, total: int | None) -> None:
            super().begin_step(name, total)
            self.is_cancelled = name == "docs: documents"

    task = Cancelling("verify", "docs", "paul")
    with pytest.raises(Cancelled):
        await proof.prove(stores, ["docs"], task)
    # One batch has all documents of the collection; those of the log would follow.
    documents = await stores.data["docs"].count_documents({})
    assert (task.step, task.done, task.total) == ("docs: documents", documents, 2 * documents)


async def test_a_log_without_events(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
        code, text = await run(settings)
    assert (code, text.splitlines()[0]) == (0, f"ok    log {log}: it has no events yet")


async def test_without_a_log_it_says_so(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="no event log yet"):
        await prove(settings, [])


async def test_a_collection_that_is_not_tracked(base: StoredSnapshot, settings: Settings) -> None:
    with pytest.raises(NotTracked, match="'other' is not tracked"):
        await prove(settings, ["docs", "other"])


async def test_a_document_that_differs_in_a_type_only(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    await stores.data["docs"].insert_one({"_id": "new", "n": Int64(7)})
    await caught_up(stores)
    await stores.log["events"].update_one({"i": "new"}, {"$unset": {"w": ""}})
    found = await wrong(settings)
    assert found.shape == "docs/new"
    assert found.patch == [{"op": "replace", "path": "/n", "value": {"$numberLong": "7"}}]


async def test_a_document_that_only_the_log_has(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    await stores.data["docs"].delete_one({"_id": "old-007"})
    await stores.data["docs"].update_one({"_id": "old-008"}, {"$set": {"n": 8}})  # of the newest the worker takes care
    await caught_up(stores)
    await _forge(stores, base.log, {"i": "old-007"}, '"op":"delete"', '"op":"update","patch":[]')
    assert (await wrong(settings)).text.startswith('docs/old-007 is only in the log: {"_id": "old-007"')


async def test_a_log_that_spells_an_id_as_an_older_version_did(
    base: StoredSnapshot, stores: Stores, settings: Settings
) -> None:
    undefined = b"\x03_id\x00\x08\x00\x00\x00\x06a\x00\x00"  # an id {a: undefined}, which the driver reads as {a: null}
    raw = RawBSONDocument((len(undefined) + 5).to_bytes(4, "little") + undefined + b"\x00")
    await stores.data["docs"].insert_one(raw)
    await caught_up(stores)
    seq = await stores.events.head(base.log)
    await stores.data["docs"].update_one({"_id": "old-008"}, {"$set": {"n": 8}})  # of the newest the worker takes care
    await caught_up(stores)
    now = (await stores.log["events"].find_one({"_id.n": seq}) or {})["i"]
    before = 'ejson:{"a":null}'
    assert now != before
    await stores.log["events"].update_one({"_id.n": seq}, {"$set": {"i": before}})
    await _forge(stores, base.log, {"_id.n": seq}, json.dumps(now), json.dumps(before))
    assert (await wrong(settings)).text.startswith(f"docs/{now} is only in the collection")


async def test_an_event_that_is_missing(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    await stores.log["events"].delete_one({"_id": {"l": base.log, "n": Int64(5)}})
    report = await prove(settings, [])
    assert report.wrong is not None
    assert report.wrong.text == "event 5 is missing"


async def test_a_transaction_that_is_not_whole(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    last = await stores.log["events"].find_one({"g.n": {"$gt": 1}}, sort=[("_id", -1)])
    assert last is not None
    await stores.log["events"].update_one({"_id": last["_id"]}, {"$unset": {"g": ""}})
    report = await prove(settings, [])
    assert report.wrong is not None
    assert f"event {last['_id']['n']} is not {last['g']['n']} of {last['g']['of']}" in report.wrong.text


async def test_a_version_that_does_not_follow(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    for n in (1, 2):
        await stores.data["docs"].update_one({"_id": "old-009"}, {"$set": {"n": n}})
    await caught_up(stores)
    seq = await stores.events.head(base.log)
    await stores.data["docs"].update_one({"_id": "old-008"}, {"$set": {"n": 8}})  # of the newest the worker takes care
    await caught_up(stores)
    await _forge(stores, base.log, {"_id.n": seq}, '"base":0', '"base":4')
    assert (await wrong(settings)).text == (
        f"event {seq} (update of docs/old-009): its base is 4, but event {seq - 1} left version 0"
    )


async def test_an_event_that_can_not_be_read(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    await stores.log["events"].update_one({"_id": {"l": base.log, "n": Int64(9)}}, {"$set": {"b": "{"}})
    assert (await wrong(settings)).text.startswith(f"event {base.log}:9 can't be read")


async def test_a_chunk_that_was_changed(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    chunk = {"_id": {"s": base.id, "n": 2, "p": 0}}
    row = await stores.log["snapshot_chunks"].find_one(chunk)
    assert row is not None
    data = bytearray(row["data"])
    data[len(data) // 2] ^= 1
    await stores.log["snapshot_chunks"].update_one(chunk, {"$set": {"data": bytes(data)}})
    assert (await wrong(settings)).text.startswith(f"chunk 2 of snapshot {base.id} ")


async def test_a_chunk_that_is_missing(base: StoredSnapshot, stores: Stores, settings: Settings) -> None:
    await stores.log["snapshot_chunks"].delete_one({"_id": {"s": base.id, "n": 1, "p": 0}})
    assert (await wrong(settings)).text == f"chunk 1 of snapshot {base.id} is missing, or a part of it"


async def _forge(stores: Stores, log: LogId, query: dict[str, Any], was: str, now: str) -> None:
    """Rewrite the newest event that matches."""
    row = await stores.log["events"].find_one({"_id.l": log} | query, sort=[("_id", -1)])
    assert row is not None
    assert was in row["b"]
    await stores.log["events"].update_one({"_id": row["_id"]}, {"$set": {"b": row["b"].replace(was, now)}})
