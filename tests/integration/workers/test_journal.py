"""Changes of writers that do not wait for the journal: MongoDB flushes it for the worker, which writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pymongo import WriteConcern
from pymongo.errors import OperationFailure

from eventsync.mongodb.change_stream import ChangeStream, watch
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing import journal_flusher
from support.replay import assert_complete, tracked
from support.systems import running_system
from support.waiting import patience, within

INTERVAL = "journalCommitInterval"


@asynccontextmanager
async def flushed_rarely(client: Client) -> AsyncIterator[None]:
    """MongoDB flushes its journal by itself as rarely as it can, while the block runs."""
    try:
        before = (await client.admin.command({"getParameter": 1, INTERVAL: 1}))[INTERVAL]
        await client.admin.command({"setParameter": 1, INTERVAL: 500})
    except OperationFailure:
        pytest.skip("this MongoDB does not let the interval be set")
    try:
        yield
    finally:
        await client.admin.command({"setParameter": 1, INTERVAL: before})


async def seen(stream: ChangeStream) -> list[Any]:
    batch = await stream.read(wait=0.02, limit=100)
    return [change["documentKey"]["_id"] for change in batch.changes]


async def test_a_flush_shows_the_changes_before_it_and_writes_nothing(client: Client, stores: Stores) -> None:
    docs = stores.data.get_collection("docs", write_concern=WriteConcern(1))
    async with flushed_rarely(client), watch(stores.data, []) as stream, stores.logs.journal() as flush:
        found: list[Any] = []
        for number in range(20):
            await docs.insert_one({"_id": number})
            await flush()
            found += await seen(stream)
        assert found == list(range(20))
    assert await stores.log["heads"].count_documents({}) == 0
    assert await client["local"]["oplog.rs"].count_documents({"ns": f"{stores.log.name}.heads"}) == 0


async def test_the_worker_flushes_while_changes_are_late_and_stops_when_they_are_not(
    client: Client, stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change counts as late at first, and none afterwards: how late they are depends on the machine."""
    monkeypatch.setattr(journal_flusher, "_HOLD", 1.0)
    monkeypatch.setattr(journal_flusher, "_LATE", -1.0)
    monkeypatch.setattr(journal_flusher, "_TIMES", -1.0)
    names = settings.model_copy(update={"collections": ("docs",), "checkpoint_interval": 0.1})
    hasty = stores.data.get_collection("docs", write_concern=WriteConcern(1))
    patient = stores.data.get_collection("docs", write_concern=WriteConcern("majority", j=True))
    async with (
        flushed_rarely(client),
        running_system(names) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as http,
    ):
        log = await tracked(stores, "docs")

        async def write_until(docs: Any, is_flushing: bool) -> None:
            while (await stores.logs.journal_delay(log) is not None) != is_flushing:
                await docs.update_one({"_id": 1}, {"$inc": {"n": 1}}, upsert=True)
                await asyncio.sleep(0.05)

        async with within(60):
            await write_until(hasty, is_flushing=True)
        ready = (await http.get("/readyz")).json()
        shown = (await http.get("/metrics")).text
        monkeypatch.setattr(journal_flusher, "_LATE", float("inf"))
        async with within(60):
            await write_until(patient, is_flushing=False)
        await assert_complete(stores, "docs")
    assert "eventsync_journal_delay_seconds" in shown
    assert ready["status"] == "ready"
