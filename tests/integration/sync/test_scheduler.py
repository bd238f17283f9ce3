"""Scheduling: a subscription that waits for admission delays no other of its session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.connections import connect
from support.raw_websocket import TEXT, frame, raw_websocket
from support.systems import running_system
from support.waiting import within


async def received(connection: Any, kind: str, shape: str) -> dict[str, Any]:
    async with within(20):
        async for text in connection:
            message: dict[str, Any] = json.loads(text)
            if message["type"] == kind and message.get("shape", shape) == shape:
                return message
    raise AssertionError("the connection ended")


@pytest.mark.slow
async def test_subscription_that_waits_for_admission_delays_no_other(client: Client, settings: Settings) -> None:
    # A client that answers no ping is closed after two heartbeats: the slow one has to outlast the first progress.
    changed: dict[str, Any] = {"collections": ("docs",), "max_bootstraps": 1, "heartbeat": 3.0, "send_timeout": 60.0}
    settings = settings.model_copy(update=changed)
    docs = client[settings.database]["docs"]
    await docs.insert_many([{"_id": number, "text": "x" * 100_000} for number in range(200)])
    async with running_system(settings) as url, connect(url.replace("http", "ws") + "/v1/sync") as connection:
        await connection.send(json.dumps({"type": "hello", "shapes": ["docs/int:1"]}))
        await received(connection, "live", "docs/int:1")
        hello = frame(TEXT, json.dumps({"type": "hello", "shapes": ["docs"]}).encode())
        async with raw_websocket(url, receive_buffer=4096) as slow:
            await slow.send(hello)
            assert b"welcome" in (await slow.receive())[1]
            while b'"snapshot"' not in (await slow.receive())[1][:30]:
                continue
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
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
