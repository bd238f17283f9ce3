"""A worker without progress: `progress` tells clients, `/readyz` tells operators."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from bson.timestamp import Timestamp
from websockets.asyncio.client import ClientConnection

from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.stores import SEQUENCING, Stores
from eventsync.sync.service import SyncService
from support.peers.python import connect
from support.systems import running_server, running_worker, tracked
from support.waiting import patience, scaled, within


async def progress(connection: ClientConnection, *, stale: bool) -> dict[str, Any]:
    """The next `progress` that says so."""
    async with within(20):
        async for text in connection:
            message: dict[str, Any] = json.loads(text)
            if message["type"] == "progress" and message.get("stale", False) is stale:
                return message
    raise AssertionError("the connection ended")


async def test_health_before_the_first_checkpoint_has_no_lag(settings: Settings, stores: Stores) -> None:
    service = SyncService(stores, settings, tailing=stores)
    service.window.start(LogId("abcd2345"), Seq(0))
    service.feed.state.heard, service.feed.state.live = time.monotonic(), True
    assert await stores.leases.acquire(SEQUENCING, "a worker", 60.0)
    health = await service.health()
    assert (health.leader, health.sequencer_live, health.lag_seconds) == ("a worker", False, None)
    assert health.detail == "a worker leads, but has made no progress since this server started"


async def test_health_says_that_the_journal_is_flushed(settings: Settings, stores: Stores) -> None:
    log = LogId("abcd2345")
    service = SyncService(stores, settings, tailing=stores)
    service.window.start(log, Seq(0))
    service.feed.state.heard = service.feed.state.sequenced = time.monotonic()
    service.feed.state.live = True
    assert await stores.leases.acquire(SEQUENCING, "a worker", 60.0)
    await stores.logs.checkpoint(log, Seq(0), "82AA", Timestamp(5, 1), 0.052)
    health = await service.health()
    assert (health.status, health.journal_delay) == ("ready", 0.052)
    assert health.detail == "the worker flushes MongoDB's journal for writers with w: 1 (a delay of 0.052 s)"


@pytest.mark.slow
async def test_clients_and_operators_see_that_no_worker_makes_progress(settings: Settings) -> None:
    changed = {"collections": ("docs",), "stale_after": 0.5, "heartbeat": scaled(1.0)}
    settings = settings.model_copy(update=changed)
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        async with running_worker(settings):
            await tracked(url, ["docs"])
            async with connect(url.replace("http", "ws") + "/v1/sync") as connection:
                await connection.send(json.dumps({"type": "hello", "shapes": ["docs"]}))
                await progress(connection, stale=False)
        async with connect(url.replace("http", "ws") + "/v1/sync") as connection:
            await connection.send(json.dumps({"type": "hello", "shapes": ["docs"]}))
            told = await progress(connection, stale=True)
            assert set(told["vector"]) == {"docs"}
            answer = await client.get("/readyz")
            # No reason to take the server out: it serves what there is.
            assert (answer.status_code, answer.json()["status"]) == (200, "ready")
            assert answer.json()["sequencer_live"] is False
            assert "worker" in answer.json()["detail"]
            assert answer.json()["lag_seconds"] > 0.5
            async with running_worker(settings):
                await progress(connection, stale=False)
                await tracked(url, ["docs"])
