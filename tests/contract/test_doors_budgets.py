"""Budgets of principals at the doors: a busy one waits for itself, and delays no other."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from eventsync.domain.access.principal import scope_of
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.ruled import MERGE, Ruled, ruled_system
from support.waiting import patience, time_limits

NOW = datetime.now(UTC)
OPEN = "/v1/collections/open/documents"


@pytest.fixture(scope="module")
async def budgeted(mongodb_uri: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ruled]:
    name = f"budgets_{secrets.token_hex(6)}"
    # What a busy machine delays is no overload here.
    limits: Any = time_limits(write_queue_delay=30.0)
    settings = Settings(
        mongodb_uri=mongodb_uri,
        database=name,
        collections=("open",),
        checkpoint_interval=0.25,
        principal_requests=4,
        principal_waiting=200,
        principal_connections=2,
        principal_clients=2,
        **limits,
    )
    async with ruled_system(settings, tmp_path_factory.mktemp("budgets")) as system:
        yield system
    await client.drop_database(name)
    await client.drop_database(settings.log_db)


async def seconds(client: httpx.AsyncClient, at: str) -> float:
    began = time.perf_counter()
    answer = await client.patch(f"{OPEN}/{at}", json={"n": time.monotonic()}, headers=MERGE)
    assert answer.status_code == 200, answer.text
    return time.perf_counter() - began


@pytest.mark.slow
async def test_busy_principal_waits_for_itself_and_delays_no_other(budgeted: Ruled) -> None:
    limits = httpx.Limits(max_connections=120, max_keepalive_connections=120)
    token = {"Authorization": f"Bearer {budgeted.token('noisy')}"}
    async with (
        httpx.AsyncClient(base_url=budgeted.url, headers=token, limits=limits, timeout=patience(30)) as noisy,
        budgeted.client("quiet") as quiet,
    ):
        for number in range(20):
            await noisy.put(f"{OPEN}/n{number}", json={"n": 0})
        await quiet.put(f"{OPEN}/quiet", json={"n": 0})
        ended = asyncio.Event()
        busy: list[float] = []

        async def noise(number: int) -> None:
            while not ended.is_set():
                took = await seconds(noisy, f"n{number % 20}")
                busy.append(took)

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(noise(number))
            await asyncio.sleep(0.5)
            calm = [await seconds(quiet, "quiet") for _ in range(30)]
            ended.set()
    # A hundred requests take turns in four places; one request has a place of its own.
    assert statistics.median(calm) * 4 < statistics.median(busy)


@pytest.mark.slow
async def test_more_waiting_requests_than_allowed_are_refused(budgeted: Ruled) -> None:
    limits = httpx.Limits(max_connections=300)
    token = {"Authorization": f"Bearer {budgeted.token('flood')}"}
    async with httpx.AsyncClient(base_url=budgeted.url, headers=token, limits=limits, timeout=patience(30)) as flood:
        await flood.put(f"{OPEN}/flood", json={"n": 0})
        answers = await asyncio.gather(*(flood.get(OPEN) for _ in range(300)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} <= {200, 429}
    for answer in refused:
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("rate_limited", "1")


async def test_connections_of_a_principal_are_bounded_and_those_of_others_are_not(budgeted: Ruled) -> None:
    query = {"shape": "open"}
    async with (
        budgeted.client("ada") as ada,
        budgeted.client("bob") as bob,
        ada.stream("GET", "/v1/sync/sse", params=query),
        ada.stream("GET", "/v1/sync/sse", params=query),
    ):
        async with ada.stream("GET", "/v1/sync/sse", params=query) as third:
            text = "".join([part async for part in third.aiter_text()])
        assert '"code":"rate_limited"' in text
        assert (await ada.get("/v1/sync/snapshot", params=query)).status_code == 429
        assert (await ada.get(OPEN)).status_code == 200
        assert (await bob.get("/v1/sync/snapshot", params=query)).status_code == 200


async def test_stored_clients_of_a_principal_are_bounded(budgeted: Ruled, client: Client) -> None:
    async with budgeted.client("root", roles=["ops"]) as operator:
        log = (await operator.get("/readyz")).json()["position"].partition(":")[0]
    body = {"vector": {"open": f"{log}:0"}}
    stored = client[budgeted.settings.log_db]["state_vectors"]
    await stored.insert_many([{"_id": scope_of("cyd") + name, "transport": "http", "at": NOW} for name in "ab"])
    async with budgeted.client("cyd") as cyd, budgeted.client("bob") as bob:
        refused = await cyd.put("/v1/state-vectors/c", json=body)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert (await cyd.put("/v1/state-vectors/a", json=body)).status_code == 200
        assert (await bob.put("/v1/state-vectors/c", json=body)).status_code == 200
