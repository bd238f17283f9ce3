"""`/metrics` against the list in `docs/reference/metrics.md`."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from contract.conftest import COLLECTION, Served
from support.peers.python import connect
from support.waiting import within

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


async def scraped(root: httpx.AsyncClient) -> dict[str, dict[str, float]]:
    """Metric → its labels' values, joined → value."""
    answer = await root.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        family.name: {"/".join(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(answer.text)
    }


async def test_metrics_and_their_documentation_are_the_same(root: httpx.AsyncClient, served: Served) -> None:
    async with connect(f"ws{served.url[4:]}/v1/sync", subprotocols=["eventsync.v1"]) as socket:
        await socket.send(json.dumps({"type": "hello", "shapes": [COLLECTION]}))
        async with within(10):
            while json.loads(await socket.recv())["type"] != "live":
                pass
        found = await scraped(root)
        assert found["eventsync_connections"][""] >= 1
    # A counter's name ends with `_total`, which is no part of its family's.
    named = re.findall(r"`(eventsync_[a-z_]+)(?:\{[a-z]+\})?`", PAGE.read_text())
    documented = {name.removesuffix("_total") for name in named}
    assert documented == set(found)


async def test_metrics_are_those_of_the_log(root: httpx.AsyncClient) -> None:
    made = await root.post(f"/v1/collections/{COLLECTION}/documents", json={"n": 1})
    assert made.status_code == 201, made.text
    async with within(20):
        while not (found := await scraped(root))["eventsync_log_head"][""]:  # noqa: ASYNC110 - they may be seconds old
            await asyncio.sleep(0.2)
    assert found["eventsync_mongodb_up"] == {"": 1}
    assert found["eventsync_feed_live"] == {"": 1}
    assert found["eventsync_job_held"]["sequencing"] == 1
    assert found["eventsync_tier_events"] == {"hot": found["eventsync_log_head"][""], "cold": 0}
    # Other tests of this system track collections of their own.
    tracked = {item["name"] for item in (await root.get("/v1/collections")).json()["collections"]}
    assert {COLLECTION, "others"} <= tracked
    named = {name for name in found["eventsync_snapshot_age_seconds"] if not name.startswith("folded_")}
    assert named <= tracked
