"""All parts together: a worker archives what is written, and a server serves it from the first event on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.mongodb.change_stream import watch
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.replay import caught_up
from support.replica import Replica
from support.systems import running_system
from support.waiting import patience, within

DOCUMENTS = 40
ROUNDS = 10


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Everything happens soon: 20 events stay hot, segments have 50, a snapshot is due every 50."""
    update: dict[str, Any] = {
        "archive_url": str(tmp_path / "archive"),
        "collections": ("docs",),
        "hot_events": 20,
        "segment_events": 50,
        "snapshot_events": 50,
        "snapshot_min_events": 1,
    }
    return settings.model_copy(update=update)


async def test_a_client_reads_everything_through_the_seam(stores: Stores, settings: Settings) -> None:
    docs = stores.data["docs"]
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(15)) as client:
        await docs.insert_many([{"_id": n, "n": 0} for n in range(DOCUMENTS)])
        for _ in range(ROUNDS):
            await docs.update_many({}, {"$inc": {"n": 1}})
        log = await caught_up(stores)
        async with within(30), watch(stores.log, [{"$match": {"ns.coll": "tiers"}}]) as stream:
            while (await stores.tiers.read(log)).archived_up_to < 150:
                await stream.read(wait=1, limit=1)
        replica, live = Replica("docs", f"{log}:0"), False
        while not live:
            query: dict[str, Any] = {"shape": "docs", "position": replica.position, "limit": 100}
            answer = await client.get("/v1/sync/log", params=query)
            page = answer.json()
            replica.take_events(page["from"], page["to"], page["events"])
            live = page["live"]
            assert live or "immutable" in answer.headers["cache-control"]
        assert replica.events == DOCUMENTS * (ROUNDS + 1)
        assert replica.documents == {f"int:{n}": {"_id": n, "n": ROUNDS} for n in range(DOCUMENTS)}
