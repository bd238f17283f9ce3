"""`/metrics` of a running server: every declared metric, and what it counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from contract.conftest import COLLECTION, Served
from eventsync.metrics.catalogue import ALL, ARCHIVE_UP
from support.peers.python import connect
from support.waiting import eventually, patience, within

DOCUMENTS = f"/v1/collections/{COLLECTION}/documents"
ROUTE = "/v1/collections/{collection}/documents"


async def scraped(root: httpx.AsyncClient) -> dict[str, dict[str, float]]:
    """Sample → its labels' values, joined in the order of the labels' names → value."""
    answer = await root.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(answer.text):
        found.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, {})
        for sample in family.samples:
            found.setdefault(sample.name, {})["|".join(text for _, text in sorted(sample.labels.items()))] = (
                sample.value
            )
    return found


def grown(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], name: str, labels: str = ""
) -> float:
    return after[name].get(labels, 0) - before[name].get(labels, 0)


async def test_every_declared_metric_is_there_and_no_other(root: httpx.AsyncClient, served: Served) -> None:
    async with connect(f"ws{served.url[4:]}/v1/sync", subprotocols=["eventsync.v1"]) as socket:
        await socket.send(json.dumps({"type": "hello", "shapes": [COLLECTION]}))
        async with within(10):
            while json.loads(await socket.recv())["type"] != "live":
                pass
        # The overview may be one of before the collection was tracked.
        await eventually(lambda: _overview(root), patience(20))
        found = await scraped(root)
        assert found["eventsync_connections"]["websocket"] >= 1
    # This system has no archive.
    declared = {name for name in ALL if not name.startswith("eventsync_worker_")} - {ARCHIVE_UP.name}
    of_histograms = {f"{name}{end}" for name in declared for end in ("_bucket", "_count", "_sum")}
    assert declared <= found.keys()
    assert found.keys() - declared - of_histograms == set()
    assert sum(found["eventsync_build_info"].values()) == 1
    assert found["process_resident_memory_bytes"][""] > 10**6


async def _overview(root: httpx.AsyncClient) -> bool:
    return "eventsync_log_head" in await scraped(root)


async def test_metrics_are_those_of_the_log(root: httpx.AsyncClient) -> None:
    made = await root.post(DOCUMENTS, json={"n": 1})
    assert made.status_code == 201, made.text
    async with within(20):
        while not (found := await scraped(root))["eventsync_log_head"][""]:  # noqa: ASYNC110 - they may be seconds old
            await asyncio.sleep(0.2)
    assert found["eventsync_mongodb_up"] == {"": 1}
    assert found["eventsync_feed_live"] == {"": 1}
    assert found["eventsync_processes"] == {"": 1}
    assert found["eventsync_job_held"]["sequencing"] == 1
    assert found["eventsync_tier_events"] == {"hot": found["eventsync_log_head"][""], "cold": 0}
    # Other tests of this system track collections of their own, and untrack them.
    await eventually(lambda: _only_tracked_ones_have_an_age(root), patience(20))


async def _only_tracked_ones_have_an_age(root: httpx.AsyncClient) -> bool:
    aged, tracked = await _aged(root), await _tracked(root)
    return bool(aged) and aged <= tracked and {COLLECTION, "others"} <= tracked


async def _aged(root: httpx.AsyncClient) -> set[str]:
    """The collections whose newest snapshot has an age, as the figures of some seconds ago have it."""
    ages = (await scraped(root))["eventsync_snapshot_age_seconds"]
    return {name for name in ages if not name.startswith("folded_")}


async def _tracked(root: httpx.AsyncClient) -> set[str]:
    return {item["name"] for item in (await root.get("/v1/collections")).json()["collections"]}


async def test_requests_are_counted_by_the_template_of_their_path(
    root: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    before, name = await scraped(root), new_id()
    assert (await root.get(f"{DOCUMENTS}/{name}")).status_code == 404
    assert (await root.get(f"/nothing/{name}")).status_code == 404
    assert (await root.request("PROPFIND", "/healthz")).status_code == 405
    assert (await root.get("/healthz", headers={"Host": "evil.example.org"})).status_code == 200
    assert (await root.get("/v1/collections", headers={"Host": "evil.example.org"})).status_code == 403
    after = await scraped(root)
    for labels in (f"GET|{ROUTE}/{{id}}|404", "GET|none|404", "other|/healthz|405", "GET|/healthz|200", "GET|none|403"):
        assert grown(before, after, "eventsync_http_requests_total", labels) >= 1, labels
    assert grown(before, after, "eventsync_http_request_duration_seconds_count", f"GET|{ROUTE}/{{id}}") >= 1
    assert name not in str(after)


async def test_writes_and_deliveries_are_counted(
    root: httpx.AsyncClient, served: Served, new_id: Callable[[], str]
) -> None:
    before, name = await scraped(root), new_id()
    async with connect(f"ws{served.url[4:]}/v1/sync", subprotocols=["eventsync.v1"]) as socket:
        await socket.send(json.dumps({"type": "hello", "shapes": [f"{COLLECTION}/{name}"]}))
        async with within(10):
            while json.loads(await socket.recv())["type"] != "live":
                pass
        assert (await root.put(f"{DOCUMENTS}/{name}", json={"n": 1})).status_code == 201
        refused = await root.put(f"{DOCUMENTS}/{name}", json={"n": 2}, headers={"If-None-Match": "*"})
        assert refused.status_code == 412
        async with within(10):
            while json.loads(await socket.recv())["type"] != "events":
                pass
        after = await scraped(root)
    assert grown(before, after, "eventsync_writes_total", "ok") >= 1
    assert grown(before, after, "eventsync_writes_total", "version_mismatch") >= 1
    assert grown(before, after, "eventsync_write_duration_seconds_count") >= 2
    assert grown(before, after, "eventsync_published_events_total") >= 1
    assert sum(grown(before, after, "eventsync_deliveries_total", way) for way in ("direct", "session")) >= 1
    assert grown(before, after, "eventsync_delivery_delay_seconds_count") >= 1
    assert grown(before, after, "eventsync_answers_total", "snapshot") >= 1
    assert grown(before, after, "eventsync_sessions_total", "websocket") >= 1
    # A position of a log that never was: both transports count the reset.
    async with connect(f"ws{served.url[4:]}/v1/sync", subprotocols=["eventsync.v1"]) as socket:
        await socket.send(json.dumps({"type": "hello", "shapes": [COLLECTION], "vector": {COLLECTION: "nolog:1"}}))
        async with within(10):
            while json.loads(await socket.recv())["type"] != "reset":
                pass
    page = await root.get("/v1/sync/log", params={"shape": COLLECTION, "position": "nolog:1"})
    assert page.status_code == 409
    assert grown(after, await scraped(root), "eventsync_resets_total", "unknown_log") >= 2
