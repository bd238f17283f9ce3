"""Scheduling: a subscription that waits for admission delays no other of its session."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.peers.python import connect
from support.systems import running_system
from support.waiting import patience, within


async def received(connection: Any, kind: str, shape: str) -> dict[str, Any]:
    async with within(20):
        async for text in connection:
            message: dict[str, Any] = json.loads(text)
            if message["type"] == kind and message.get("shape", shape) == shape:
                return message
    raise AssertionError("the connection ended")


@pytest.mark.slow
async def test_subscription_that_waits_for_admission_delays_no_other(client: Client, settings: Settings) -> None:
    changed: dict[str, Any] = {"collections": ("docs",), "max_bootstraps": 1, "heartbeat": 1.0, "send_timeout": 600.0}
    settings = settings.model_copy(update=changed)
    docs = client[settings.database]["docs"]
    await docs.insert_many([{"_id": number, "text": "x" * 100_000} for number in range(200)])
    async with running_system(settings) as url, connect(url.replace("http", "ws") + "/v1/sync") as connection:
        await connection.send(json.dumps({"type": "hello", "shapes": ["docs/int:1"]}))
        await received(connection, "live", "docs/int:1")
        # An event stream has no pings, so only the send timeout ends one that does not read.
        async with (
            httpx.AsyncClient(timeout=patience(20)) as api,
            api.stream("GET", f"{url}/v1/sync/sse?shape=docs") as slow,
        ):
            lines = slow.aiter_lines()
            while await anext(lines) != "event: snapshot":
                continue
            # The only place is taken by a client that makes no progress.
            await connection.send(json.dumps({"type": "subscribe", "shape": "docs"}))
            for number in range(3):
                await docs.update_one({"_id": 1}, {"$set": {"n": number}})
                event = (await received(connection, "events", "docs/int:1"))["events"][0]
                assert event["patch"][0]["value"] == number
            assert set((await received(connection, "progress", ""))["vector"]) == {"docs/int:1"}
        snapshot = await received(connection, "snapshot", "docs")
        assert snapshot["part"] == 0
        await received(connection, "live", "docs")
