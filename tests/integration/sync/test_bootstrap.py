"""Bootstrap: shared, pinned snapshots, and the collection itself where they can't be read."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import httpx
import orjson
import pytest
from bson.int64 import Int64

from eventsync.access.access import UNRESTRICTED
from eventsync.domain.positions import Seq
from eventsync.domain.shapes import Shape
from eventsync.settings import Settings
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import Stores
from eventsync.sync.live.window import Subscribers
from eventsync.sync.sessions.subscription import Subscription
from support.answers import Past, brought_up, compacted, serving, subscription_to
from support.histories import based, newest_checkpoint, stored_at
from support.replay import caught_up, tracked
from support.replica import Replica
from support.systems import head, running_server, running_worker
from support.waiting import patience

DOCS = Shape("docs")
COUNT = 600


@pytest.fixture
def settings(settings: Settings) -> Settings:
    small = {"snapshot_chunk_bytes": 8 * 1024, "frame_bytes": 4 * 1024, "collections": ("docs", "other")}
    return settings.model_copy(update=small | {"snapshot_min_events": 10**6})


async def kept(stores: Stores, settings: Settings, *, touched: int = 5) -> tuple[Past, StoredSnapshot]:
    """A collection with a stored snapshot, and what has happened since."""
    docs = stores.data["docs"]
    async with running_worker(settings):
        log = await tracked(stores, "docs", "other")
        # The worker's own, of the empty collection: none is due afterwards, beside that of the test.
        await based(stores, log, "docs")
        await docs.insert_many([{"_id": n, "n": Int64(n), "text": "x" * 80} for n in range(COUNT)])
        await caught_up(stores)
        stored = await stored_at(stores, log, "docs", await newest_checkpoint(stores, log))
        for n in range(touched):
            await docs.update_one({"_id": n}, {"$set": {"text": "y"}})
            await stores.data["other"].insert_one({"_id": n})
        await caught_up(stores)
    return await Past.of(stores, log), stored


async def chunk_reads(stores: Stores) -> int:
    """Return the number of chunk lookups in MongoDB."""
    cursor = await stores.log["snapshot_chunks"].aggregate([{"$indexStats": {}}])
    return sum(row["accesses"]["ops"] for row in await cursor.to_list() if row["name"] == "_id_")


async def test_bootstrap_of_later_clients_reads_no_chunk_again(stores: Stores, settings: Settings) -> None:
    past, stored = await kept(stores, settings)
    service = await serving(stores, settings, past)
    before = await chunk_reads(stores)
    clients = [Replica("docs") for _ in range(10)]
    await asyncio.gather(*(brought_up(service, client) for client in clients))
    assert stored.chunks > 5
    assert await chunk_reads(stores) - before == stored.chunks
    for client in clients:
        assert client.rows == past.of_shape(DOCS, past.head)
        assert (client.snapshots, client.resets) == (1, 0)


async def first_parts(stores: Stores, settings: Settings, past: Past, count: int) -> tuple[Subscription, Any, Replica]:
    """A new client that has got a few parts of its snapshot."""
    service = await serving(stores, settings, past)
    client, subscription = Replica("docs"), subscription_to(service, DOCS, None)
    messages = subscription.messages()
    for _ in range(count):
        message = await anext(messages)
        assert message is not None
        assert b'"last":false' in message.data
        client.take(orjson.loads(message.data))
    return subscription, messages, client


async def rest(messages: Any, client: Replica) -> list[str]:
    kinds = []
    while not client.live:
        message = await anext(messages)
        kinds.append(message.kind)
        client.take(orjson.loads(message.data))
    return kinds


async def test_bootstrap_pins_its_snapshot(stores: Stores, settings: Settings) -> None:
    past, stored = await kept(stores, settings)
    _, messages, client = await first_parts(stores, settings, past, 2)
    pinned = await stores.snapshots.pins.pinned(past.log)
    assert (pinned.seq, pinned.snapshots) == (stored.seq, frozenset({stored.id}))
    await rest(messages, client)
    assert (await stores.snapshots.pins.pinned(past.log)).snapshots == frozenset()
    await messages.aclose()


@pytest.mark.parametrize("damage", ["flipped", "removed"])
async def test_damaged_chunk_resets_the_client_and_the_collection_is_read(
    stores: Stores, settings: Settings, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    past, stored = await kept(stores, settings)
    chunks, last = stores.log["snapshot_chunks"], {"_id": {"s": stored.id, "n": stored.chunks - 1, "p": 0}}
    if damage == "flipped":
        await chunks.update_one(last, {"$set": {"sha256": b"0" * 32}})
    else:
        await chunks.delete_one(last)
    subscription, messages, client = await first_parts(stores, settings, past, 2)
    kinds = await rest(messages, client)
    await messages.aclose()
    assert client.resets == 1
    assert kinds.count("reset") == 1
    assert client.rows == past.of_shape(DOCS, past.head)
    assert stored.id in caplog.text
    # It is not offered again, by this server.
    again = Replica("docs")
    other = Subscription(
        subscription._source, Subscribers(subscription._source.window), DOCS, None, lambda: UNRESTRICTED
    )
    async with aclosing(other.messages()) as messages:
        await rest(messages, again)
    assert (again.resets, again.rows) == (0, client.rows)


async def test_snapshot_deleted_before_its_pin_is_not_used(stores: Stores, settings: Settings) -> None:
    past, stored = await kept(stores, settings)
    service = await serving(stores, settings, past)
    await brought_up(service, Replica("docs"))
    await stores.snapshots.stored.hide([stored.id])
    client = Replica("docs")
    await brought_up(service, client)
    assert client.rows == past.of_shape(DOCS, past.head)
    assert client.resets == 0
    assert client.events == 0, "it was read from the collection"


async def test_snapshot_of_an_unchanged_collection_is_used_behind_the_horizon(
    stores: Stores, settings: Settings
) -> None:
    """Its snapshot is older than the horizon, and still says what it is."""
    past, stored = await kept(stores, settings, touched=0)
    async with running_worker(settings):
        await stores.data["other"].insert_many([{"_id": n} for n in range(100, 120)])
        await caught_up(stores)
    past = await Past.of(stores, past.log)
    await stores.stats.counters.add(past.log, past.head)
    await compacted(stores, past.log, Seq(past.head - 3), squash_floor=Seq(past.head - 3))
    assert stored.seq < past.head - 3
    service = await serving(stores, settings, past)
    client, before = Replica("docs"), await chunk_reads(stores)
    await brought_up(service, client)
    assert await chunk_reads(stores) - before == stored.chunks
    assert client.rows == past.of_shape(DOCS, past.head)
    assert client.resets == 0


async def test_server_requests_a_missing_snapshot_once(stores: Stores, settings: Settings) -> None:
    past, _ = await kept(stores, settings)
    await stores.snapshots.stored.hide([item.id for item in await stores.snapshots.stored.listing(past.log)])
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": n, "text": "x" * 100} for n in range(COUNT, 2500)])
    service = await serving(stores, settings, past)
    for _ in range(3):
        async with service.snapshot(DOCS, UNRESTRICTED) as bootstrap:
            assert str(bootstrap.position) == f"{past.log}:{past.head}"
        async with service.snapshot(Shape("other"), UNRESTRICTED):
            pass
    assert [str(request.shape) for request in await stores.snapshots.requests.unanswered()] == ["docs"]


async def test_http_snapshot_is_the_stored_one(stores: Stores, settings: Settings) -> None:
    past, stored = await kept(stores, settings)
    async with (
        running_worker(settings),
        running_server(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        while await head(url) != f"{past.log}:{past.head}":  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.02)
        first, *rows = (await client.get("/v1/sync/snapshot", params={"shape": "docs"})).text.splitlines()
        assert orjson.loads(first) == {"shape": "docs", "position": f"{past.log}:{stored.seq}"}
        found = {row["id"]: (row["version"], row["doc"]) for row in map(orjson.loads, rows)}
        assert all(set(orjson.loads(row)) == {"id", "version", "doc"} for row in rows)
        assert found == past.of_shape(DOCS, stored.seq)


async def test_http_snapshot_replaces_a_damaged_one_before_the_first_byte(stores: Stores, settings: Settings) -> None:
    past, stored = await kept(stores, settings)
    await stores.log["snapshot_chunks"].delete_one({"_id": {"s": stored.id, "n": 0, "p": 0}})
    async with (
        running_worker(settings),
        running_server(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        while await head(url) != f"{past.log}:{past.head}":  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.02)
        answer = await client.get("/v1/sync/snapshot", params={"shape": "docs"})
        first, *rows = answer.text.splitlines()
        assert orjson.loads(first)["position"] == f"{past.log}:{past.head}"
        assert len(rows) == COUNT
