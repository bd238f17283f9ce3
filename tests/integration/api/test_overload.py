"""Admission of writes, where MongoDB is slower than the writers, or does not answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from eventsync.api.endpoint import SAFE, Endpoint
from eventsync.application import ROUTES
from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from support.failpoints import blocking
from support.load import DOCUMENTS, Overload
from support.systems import running_system
from support.waiting import eventually, patience, scaled, within

_COMMANDS = ("find", "findAndModify", "insert", "update", "delete", "commitTransaction")
_LIMIT = 0.3
"""`write_queue_delay` of an idle machine."""

WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", DOCUMENTS, {"json": {"n": 1}}),
    ("PUT", f"{DOCUMENTS}/2", {"json": {"n": 1}}),
    ("PUT", f"{DOCUMENTS}/3", {"json": {"n": 1}, "headers": {"Idempotency-Key": "refused"}}),
    ("PATCH", f"{DOCUMENTS}/1", {"json": {"n": 2}, "headers": {"Content-Type": "application/merge-patch+json"}}),
    ("DELETE", f"{DOCUMENTS}/1", {}),
    ("POST", f"{DOCUMENTS}:batch", {"json": {"operations": [{"method": "DELETE", "id": "1"}]}}),
    ("POST", "/v1/transactions", {"json": {"operations": [{"method": "DELETE", "collection": "docs", "id": "1"}]}}),
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed: dict[str, Any] = {"collections": ("docs",), "write_queue_delay": scaled(_LIMIT), "mongodb_pool_size": 5}
    return settings.model_copy(update=changed)


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    async with running_system(settings) as found:
        yield found


async def metric(client: httpx.AsyncClient, name: str, *labels: str) -> float:
    text = (await client.get("/metrics")).text
    families = text_string_to_metric_families(text)
    samples = (sample for family in families for sample in family.samples if sample.name == name)
    return next(sample.value for sample in samples if tuple(sample.labels.values()) == labels)


def test_each_route_that_writes_documents_is_admitted() -> None:
    others = ("/v1/state-vectors", "/v1/tickets", "/v1/session", "/v1/barrier", "/v1/admin")
    writing = {
        (method, route.path)
        for route in ROUTES
        if isinstance(route, Route)
        for method in route.methods or ()
        if method not in SAFE and not route.path.startswith(others)
    }
    admitted = {
        (method, route.path)
        for route in ROUTES
        if isinstance(route, Endpoint) and route.writes
        for method in route.methods or ()
    }
    assert admitted == writing >= {("PATCH", "/v1/collections/{collection}/documents/{id}")}


@pytest.mark.slow
async def test_overload_refuses_writes_at_once_and_they_change_nothing(
    url: str, client: Client, settings: Settings
) -> None:
    overload = Overload(url)
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as api:
        slow = round(1000 * settings.write_queue_delay / 3)
        async with blocking(client, _COMMANDS, slow, app=app_name(settings, "serve")):
            await overload.run(writers=80, accepted=30, refused=60)
            assert await metric(api, "eventsync_refused_total", "writes") == len(overload.refused)
        assert overload.others == []
        for answer in overload.refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert re.fullmatch(r"a write would take longer than [0-9.]+ s now; nothing was done", detail(answer))
        stored = {row["_id"] async for row in client[settings.database]["docs"].find({}, {"_id": 1})}
        assert stored == overload.accepted

        async def are_none_refused() -> bool:
            refused = len(overload.refused)
            await overload.run(writers=8, accepted=100, refused=0)
            return len(overload.refused) == refused

        # A busy machine may be too slow for eight writers, too, but not for ever.
        await eventually(are_none_refused, 60)
        assert overload.others == []
        assert await metric(api, "eventsync_writes_waiting") == 0
        assert await metric(api, "eventsync_write_delay_seconds") == 0


def detail(answer: httpx.Response) -> str:
    return str(answer.json()["detail"])


async def answers(api: httpx.AsyncClient, writes: Sequence[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
    return list(await asyncio.gather(*(api.request(*words, **options) for *words, options in writes)))


@pytest.mark.slow
async def test_stall_refuses_each_kind_of_write_and_its_end_none(url: str, client: Client, settings: Settings) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=patience(60)) as api:
        (await api.put(f"{DOCUMENTS}/1", json={"n": 1})).raise_for_status()
        async with blocking(
            client, _COMMANDS, round(10_000 * settings.write_queue_delay), app=app_name(settings, "serve")
        ):
            waiting = asyncio.gather(*(api.put(f"{DOCUMENTS}/w{number}", json={}) for number in range(30)))

            async def is_stalled() -> bool:
                return await metric(api, "eventsync_write_delay_seconds") > 2 * settings.write_queue_delay

            await eventually(is_stalled)
            # On a busy machine some of the writes arrive only now, and are refused.
            admitted = await metric(api, "eventsync_writes_waiting")
            assert admitted >= 1
            # One in each `write_queue_delay` seconds is admitted, to notice the end of the stall.
            found = await answers(api, WRITES * 4)
            refused = {index % len(WRITES) for index, answer in enumerate(found) if answer.status_code == 503}
            assert refused == set(range(len(WRITES)))
            assert {answer.json()["code"] for answer in found if answer.status_code == 503} == {"overloaded"}
            assert (await api.get("/healthz")).status_code == 200
        async with within(30):
            ended = [answer.status_code for answer in await waiting]
        assert set(ended) <= {201, 503}
        assert ended.count(201) >= admitted, "what was admitted is written"
        after = await answers(api, [("PUT", f"{DOCUMENTS}/a{number}", {"json": {}}) for number in range(30)])
        assert {answer.status_code for answer in after} == {201}
