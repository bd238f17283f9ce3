"""Many clients return at once, all behind the window: reads are bounded, and all clients end exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.clients import Follower
from support.replica import log_of
from support.systems import events_of, head, running_server, running_worker, tracked
from support.waiting import patience

CLIENTS = 16


async def written(url: str, count: int) -> str:
    """Wait until the log has this many events."""
    events = await events_of(url, "docs", count, seconds=30)
    return f"{log_of(await head(url))}:{events[-1]['seq']}"


async def all_at(followers: list[Follower], position: str) -> None:
    await asyncio.gather(*(follower.reached(position, seconds=60) for follower in followers))


async def refused(url: str) -> float:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        text = (await client.get("/metrics")).text
    (family,) = (one for one in text_string_to_metric_families(text) if one.name == "eventsync_refused")
    return {sample.labels["for"]: sample.value for sample in family.samples}["read"]


@asynccontextmanager
async def following(url: str, known: list[Follower]) -> AsyncIterator[list[Follower]]:
    """All clients follow while the block runs, each a document of its own; they continue where `known` ended."""
    followers = [
        Follower([url], f"docs/int:{number}", ("websocket", "sse")[number % 2], seed=number)
        for number in range(CLIENTS)
    ]
    for follower, before in zip(followers, known, strict=False):
        follower.replica = before.replica
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follower.run()) for follower in followers]
        try:
            yield followers
        finally:
            for task in tasks:
                task.cancel()


@pytest.mark.slow
async def test_returning_clients_all_end_exact(client: Client, settings: Settings) -> None:
    # Of a window this small, nothing of what was missed is left; and no two of them read the same.
    changed: dict[str, Any] = {"window_bytes": 64 * 1024, "max_reads": 1, "max_waiting": 5, "frame_cache_bytes": 0}
    settings = settings.model_copy(update={"collections": ("docs",)} | changed)
    docs = client[settings.database]["docs"]
    async with running_worker(settings):
        async with running_server(settings) as url:
            await tracked(url, ["docs"])
            await docs.insert_many([{"_id": number, "n": 0} for number in range(CLIENTS)])
            async with following(url, []) as before:
                await all_at(before, await written(url, CLIENTS))
        for n in range(1, 7):
            await docs.update_many({}, {"$set": {"n": n, "text": "x" * 1000}})
        async with running_server(settings) as url:
            await tracked(url, ["docs"])
            position = await written(url, 7 * CLIENTS)
            async with following(url, before) as after:
                await all_at(after, position)
            assert await refused(url) > 0
    for number, follower in enumerate(after):
        assert {key: row["n"] for key, row in follower.replica.documents.items()} == {f"int:{number}": 6}
        assert (follower.replica.snapshots, follower.replica.resets) == (1, 0), "nothing was fetched again"


async def test_polls_behind_the_window_need_admission(client: Client, settings: Settings) -> None:
    changed: dict[str, Any] = {"window_bytes": 64 * 1024, "max_reads": 1, "max_waiting": 0}
    settings = settings.model_copy(update={"collections": ("docs",)} | changed)
    docs = client[settings.database]["docs"]
    async with running_worker(settings), running_server(settings) as url:
        await tracked(url, ["docs"])
        await docs.insert_many([{"_id": number, "text": "x" * 20_000} for number in range(300)])
        end = await written(url, 300)
        # Each from another position: the same page is read once for all who ask for it.
        queries = [{"shape": "docs", "position": f"{log_of(end)}:{seq}", "limit": "200"} for seq in range(8)]
        async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
            answers = await asyncio.gather(*(http.get("/v1/sync/log", params=query) for query in queries))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    for seq, answer in enumerate(answers):
        if answer.status_code == 503:
            assert answer.json()["code"] == "unavailable"
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert answer.json()["events"][0]["seq"] == seq + 1
