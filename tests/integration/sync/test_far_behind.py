"""Clients far behind, over the real transports, with a log whose past is archived or gone."""

from __future__ import annotations

import httpx
import pytest
from httpx_sse import aconnect_sse
from pymongo import UpdateOne

from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.answers import Past, compacted
from support.clients import PEERS, following
from support.replay import caught_up
from support.replica import Replica, log_of, seq_of, vector_text
from support.systems import head, running_server, running_system, running_worker, tracked
from support.waiting import patience

COUNT = 400


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",), "window_bytes": 64 * 1024, "frame_bytes": 2048})


async def changed(stores: Stores) -> None:
    """Many events about a few documents: far more than a window holds."""
    docs = stores.data["docs"]
    for round_ in range(3):
        await docs.bulk_write(
            [UpdateOne({"_id": n % 20}, {"$set": {"n": n, "round": round_, "text": "y" * 200}}) for n in range(500)]
        )
    await docs.delete_many({"_id": {"$in": [3, 300]}})
    await docs.insert_one({"_id": COUNT})
    await caught_up(stores)


async def begun(stores: Stores, url: str) -> Replica:
    """A client that has everything, and goes."""
    await stores.data["docs"].insert_many([{"_id": n, "text": "x" * 100} for n in range(COUNT)])
    log = await caught_up(stores)
    tail = await stores.events.tail(log)
    async with following(url, "docs", "websocket") as follower:
        await follower.reached(f"{log}:{tail.seq if tail else 0}")
    return follower.replica


@pytest.mark.slow
@pytest.mark.parametrize("transport", PEERS)
async def test_client_far_behind_ends_exact(stores: Stores, settings: Settings, transport: str) -> None:
    async with running_system(settings) as url:
        replica = await begun(stores, url)
        await changed(stores)
        past = await Past.of(stores, LogId(log_of(replica.position or "")))
        async with following(url, "docs", transport) as follower:
            follower.replica = replica
            await follower.reached(f"{past.log}:{past.head}")
        assert {key: row for (_, key), row in past.states[past.head].items()} == replica.rows
        assert (replica.snapshots, replica.resets) == (1, 0)
        assert replica.squashes == (0 if transport == "http" else 1), "the HTTP log has events only"


async def test_event_id_advances_with_the_last_part(stores: Stores, settings: Settings) -> None:
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        replica = await begun(stores, url)
        await changed(stores)
        query = {"shape": "docs", "vector": vector_text(replica.vector)}
        async with aconnect_sse(client, "GET", "/v1/sync/sse", params=query) as source:
            ids: list[str] = []
            async for event in source.aiter_sse():
                if event.event == "squashed":
                    message = event.json()
                    assert event.id == f"docs={message['to' if message['last'] else 'from']}"
                    ids.append(event.id)
                if event.event == "live":
                    break
    assert len(ids) > 2
    assert set(ids[:-1]) == {vector_text(replica.vector)}


@pytest.mark.slow
async def test_position_behind_the_horizon_resets_http_and_squashes_streams(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings), running_server(settings) as url:
        await tracked(url, ["docs"])
        replica = await begun(stores, url)
        await changed(stores)
        log = await caught_up(stores)
        past = await Past.of(stores, log)
        own = seq_of(replica.position or "")
        await compacted(stores, log, Seq(own + 100), squash_floor=Seq(own))
    # A server that has just started: the one before may remember for a moment how far the log reached.
    async with (
        running_worker(settings),
        running_server(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        await tracked(url, ["docs"])
        assert seq_of(await head(url)) >= past.head
        for position, status in [(own, 409), (own + 99, 409), (own + 100, 200)]:
            query = {"shape": "docs", "position": f"{log}:{position}"}
            answer = await client.get("/v1/sync/log", params=query)
            assert answer.status_code == status, answer.text
            assert status == 200 or answer.json()["reason"] == "before_horizon"
        async with following(url, "docs", "websocket") as follower:
            follower.replica = replica
            await follower.reached(f"{log}:{past.head}")
        assert {key: row for (_, key), row in past.states[past.head].items()} == replica.rows
        assert (replica.snapshots, replica.squashes, replica.resets) == (1, 1, 0)
