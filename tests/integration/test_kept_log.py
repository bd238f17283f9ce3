"""A log that version 0.1 made (`support.kept_log`), which this version reads and continues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from eventsync.cli.verify import prove
from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.formats import FORMATS
from eventsync.stores.stores import Stores
from support import kept_log
from support.clients import PEERS, following
from support.kept_log import CLIENT, COLLECTIONS, DOCUMENTS, PAID, SMALL, Kept
from support.replay import assert_complete, caught_up
from support.replica import to_tree
from support.systems import events_of, running_server, running_worker, tracked
from support.waiting import patience
from support.writers import documents_of

FILE = Path(__file__).parents[1] / "data" / "log-0.1.ndjson.gz"


@dataclass(frozen=True)
class System:
    """A worker and a server of this version on the kept log."""

    url: str
    kept: Kept
    stores: Stores
    client: httpx.AsyncClient


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    update = {"archive_url": str(tmp_path / "archive"), "collections": COLLECTIONS, **SMALL}
    return settings.model_copy(update=update)


@pytest.fixture
async def system(client: Client, settings: Settings, stores: Stores) -> AsyncIterator[System]:
    async with loaded(client, settings, stores) as found:
        yield found


@asynccontextmanager
async def loaded(client: Client, settings: Settings, stores: Stores) -> AsyncIterator[System]:
    kept, lines = kept_log.read(FILE)
    await kept_log.load(client, settings, lines)
    assert {step.before for step in await stores.formats.pending()} == {None}
    async with running_worker(settings), running_server(settings) as url:
        await tracked(url, COLLECTIONS)
        async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
            yield System(url, kept, stores, http)


async def test_the_log_continues_where_it_ended(system: System) -> None:
    log = await caught_up(system.stores)
    assert log == system.kept.log, "no new log begins"
    head = await system.stores.events.tail(log)
    assert head is not None
    assert head.seq == system.kept.head, "nothing is doubled, nothing is repaired"
    made = await system.client.put(f"{DOCUMENTS}/text", json={"state": "done"})
    assert made.status_code == 200, made.text
    await assert_complete_after(system, system.kept.head + 1)
    assert await system.stores.formats.pending() == []


async def assert_complete_after(system: System, seq: int) -> None:
    replay = await assert_complete(system.stores, *COLLECTIONS)
    assert replay.seq == seq


async def test_events_are_those_that_the_earlier_version_delivered(system: System) -> None:
    assert system.kept.archived_up_to >= 100, "most of them are in segments"
    replica, digest = await kept_log.events_of(system.url, system.kept.log)
    assert digest == system.kept.digest
    orders = await documents_of(system.stores.data.get_collection("orders", codec_options=CODEC))
    assert replica.documents == {text: to_tree(document) for text, document in orders.items()}


@pytest.mark.slow
@pytest.mark.parametrize("transport", PEERS)
async def test_a_new_client_gets_a_snapshot_and_what_follows(system: System, transport: str) -> None:
    async with following(system.url, "orders", transport) as follower:
        await system.client.put(f"{DOCUMENTS}/marker", json={})
        await follower.has("marker")
        orders = await documents_of(system.stores.data.get_collection("orders", codec_options=CODEC))
        assert follower.replica.documents == {text: to_tree(document) for text, document in orders.items()}
        assert (follower.replica.snapshots, follower.replica.resets) == (1, 0)


async def test_history_and_time_travel_reach_into_the_archive(system: System) -> None:
    found = await events_of(system.url, "orders/text", 14)
    assert [event["version"] for event in found] == list(range(1, 15))
    first = (await system.client.get(f"{DOCUMENTS}/text", params={"version": 1})).raise_for_status().json()
    assert first["doc"] == {"_id": "text", "state": "new", "lines": [{"sku": "a1", "qty": 1}]}


@pytest.mark.slow
async def test_the_log_gives_exactly_the_collections(system: System, settings: Settings) -> None:
    report = await prove(settings, [])
    assert report.whole, report.tree()
    assert {proof.name for proof in report.proofs} == set(COLLECTIONS)


async def test_vectors_idempotency_keys_service_keys_and_shapes_hold(system: System) -> None:
    vector = (await system.client.get(f"/v1/state-vectors/{CLIENT}")).raise_for_status().json()["vector"]
    assert vector == system.kept.vector
    again = await system.client.patch(f"{DOCUMENTS}/text", json={"state": "paid"}, headers=PAID)
    assert again.status_code == 200, again.text
    head = await system.stores.events.tail(await caught_up(system.stores))
    assert head is not None
    assert head.seq == system.kept.head, "an idempotency key of the earlier version still writes once"
    assert await system.stores.credentials.keys.find(system.kept.key) is not None
    shape = {"shape": "of_state?state=new"}
    snapshot = (await system.client.get("/v1/sync/snapshot", params=shape)).raise_for_status()
    assert '"state":"new"' in snapshot.text
    assert '"state":"sent"' not in snapshot.text


async def test_each_collection_of_the_log_belongs_to_a_format(system: System) -> None:
    await caught_up(system.stores)
    names = await system.stores.log.list_collection_names(filter={"name": {"$not": {"$regex": "^system"}}})
    known = [name for item in FORMATS.values() for name in item.collections]
    assert len(known) == len(set(known))
    assert set(names) <= set(known), "a collection without a version: add it to a format of `eventsync.stores.formats`"
    assert len(names) >= 18
