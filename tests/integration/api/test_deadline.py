"""Deadlines: each request is answered while MongoDB accepts commands and does not reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from eventsync.application import ROUTES
from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from support.failpoints import blocking
from support.systems import running_system, tracked
from support.waiting import eventually, patience, scaled

_COMMANDS = [
    "find",
    "aggregate",
    "getMore",
    "findAndModify",
    "insert",
    "update",
    "delete",
    "listCollections",
    "abortTransaction",
]
_BLOCKED = 2000
"""Milliseconds: much longer than `request_timeout` here, and no test waits for it."""

DOCUMENTS = "/v1/collections/docs/documents"

READS = {
    "/v1/collections/{collection}/documents": DOCUMENTS,
    "/v1/collections/{collection}/documents/{id}": f"{DOCUMENTS}/1",
    "/v1/collections/{collection}/documents/{id}/events": f"{DOCUMENTS}/1/events",
    "/v1/collections/{collection}/documents/{id}/diff": f"{DOCUMENTS}/1/diff?from=1",
    "/v1/sync/log": "/v1/sync/log?shape=docs&position={log}:0",
    "/v1/sync/segments": "/v1/sync/segments",
    "/v1/sync/segments/{position}": "/v1/sync/segments/{log}:1",
    "/v1/state-vectors": "/v1/state-vectors",
    "/v1/state-vectors/{client_id}": "/v1/state-vectors/somebody",
    "/v1/admin/clients": "/v1/admin/clients",
    "/v1/admin/clients/{id}": "/v1/admin/clients/nobody",
    "/v1/admin/clients/{id}/frames": f"/v1/admin/clients/{'0' * 32}/frames",
    "/v1/admin/log": "/v1/admin/log",
    "/v1/admin/collections": "/v1/admin/collections",
    "/v1/admin/collections/{collection}/history": "/v1/admin/collections/docs/history",
    "/v1/admin/tasks": "/v1/admin/tasks",
    "/v1/admin/jobs": "/v1/admin/jobs",
    "/v1/admin/repairs": "/v1/admin/repairs",
    "/v1/admin/segments": "/v1/admin/segments",
    "/v1/admin/snapshots": "/v1/admin/snapshots",
    "/v1/admin/access": "/v1/admin/access",
}
WAITS_ITSELF = {"/v1/sync/sse", "/v1/sync/snapshot", "/readyz", "/metrics", "/v1/admin/overview"}
NEEDS_NO_MONGODB = {"/v1/collections", "/healthz", "/", "/docs", "/openapi.json", "/assets/{name}", "/v1/sync", "/try"}
NEEDS_NO_MONGODB |= {"/v1/admin/settings"}

WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", DOCUMENTS, {"json": {"n": 1}}),
    ("PUT", f"{DOCUMENTS}/2", {"json": {"n": 1}}),
    ("PATCH", f"{DOCUMENTS}/1", {"json": {"n": 2}, "headers": {"Content-Type": "application/merge-patch+json"}}),
    ("PUT", f"{DOCUMENTS}/3", {"json": {"n": 1}, "headers": {"Idempotency-Key": "blocked"}}),
    ("DELETE", f"{DOCUMENTS}/4", {}),
    ("POST", "/v1/transactions", {"json": {"operations": [{"method": "DELETE", "collection": "docs", "id": "5"}]}}),
    ("DELETE", "/v1/state-vectors/nobody", {}),
]


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    given = settings.model_copy(update={"collections": ("docs",), "request_timeout": 0.4, "body_timeout": 5.0})
    async with running_system(given) as found:
        async with httpx.AsyncClient(base_url=found, timeout=patience(20)) as api:
            for number in (1, 4, 5):
                (await api.put(f"{DOCUMENTS}/{number}", json={"n": 1})).raise_for_status()

            async def has_followed() -> bool:
                return bool(str((await api.get("/readyz")).json().get("position")).endswith(":3"))

            await eventually(has_followed)
        yield found


@asynccontextmanager
async def silent(client: Client, settings: Settings) -> AsyncIterator[None]:
    """MongoDB leaves the commands of the server's requests unanswered while the block runs."""
    async with blocking(client, _COMMANDS, _BLOCKED, app=app_name(settings, "serve")):
        yield
    await client.admin.command({"killAllSessions": []})


async def _log(api: httpx.AsyncClient) -> str:
    return str((await api.get("/readyz")).json()["position"]).partition(":")[0]


def test_each_read_route_is_in_a_table() -> None:
    reads = {route.path for route in ROUTES if isinstance(route, Route) and "GET" in (route.methods or ())}
    assert reads == set(READS) | WAITS_ITSELF | NEEDS_NO_MONGODB


async def test_each_read_is_answered_by_the_deadline(url: str, client: Client, settings: Settings) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=patience(60)) as api:
        log = await _log(api)
        paths = [path.replace("{log}", log) for path in READS.values()]
        async with silent(client, settings):
            answers = await asyncio.gather(*map(api.get, paths))
    for path, answer in zip(paths, answers, strict=True):
        assert answer.status_code in {200, 404, 503}, path
        if answer.status_code == 503:
            assert answer.headers["retry-after"]
            assert answer.json()["detail"] == "there was no answer within 0.4 s, of MongoDB or of a helper process"
    assert 503 in {answer.status_code for answer in answers}


@pytest.mark.slow
async def test_each_write_is_answered_by_the_deadline_and_leaves_no_lock(
    url: str, client: Client, settings: Settings
) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=patience(60)) as api:
        vector = {"json": {"vector": {"docs": f"{await _log(api)}:1"}}}
        writes = [*WRITES, ("PUT", "/v1/state-vectors/somebody", vector)]
        async with silent(client, settings):
            answers = await asyncio.gather(*(api.request(*words, **options) for *words, options in writes))
        for (method, path, _), answer in zip(writes, answers, strict=True):
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), (method, path)
            assert "the outcome is unknown" in answer.json()["detail"]
        await tracked(url, ["docs"])
        for number in range(1, 5):
            while (again := await api.put(f"{DOCUMENTS}/{number}", json={"n": 9})).status_code in {409, 503}:
                continue
            assert again.status_code in {200, 201}


async def test_each_operation_of_a_batch_is_answered_by_the_deadline(
    url: str, client: Client, settings: Settings
) -> None:
    lines = b'{"method":"PUT","id":"1","doc":{}}\n' * 200
    headers = {"Content-Type": "application/x-ndjson"}
    async with httpx.AsyncClient(base_url=url, timeout=patience(60)) as api:
        async with silent(client, settings):
            answer = await api.post(f"{DOCUMENTS}:batch", content=lines, headers=headers)
        assert answer.status_code == 200
        results = [json.loads(line) for line in answer.content.splitlines()]
    assert len(results) == 200
    assert {item["status"] for item in results} == {503}
    assert all(item["retry_after"] for item in results)
    first, *others = results
    assert first["code"] == "unavailable"
    assert "the outcome is unknown" in first["detail"]
    assert {item["code"] for item in others} == {"not_attempted"}, "they waited for the first"


@pytest.mark.slow
async def test_deadline_includes_the_requested_wait(settings: Settings) -> None:
    given = settings.model_copy(update={"collections": ("docs",), "request_timeout": (limit := scaled(1.0))})
    async with running_system(given) as url, httpx.AsyncClient(base_url=url, timeout=patience(60)) as api:
        await tracked(url, ["docs"])
        position = (await api.get("/readyz")).json()["position"]
        query = {"shape": "docs", "position": position, "wait": str(2 * limit)}
        answer = await api.get("/v1/sync/log", params=query)
        assert answer.status_code == 200
        assert answer.json()["events"] == []


async def test_deadline_excludes_the_arrival_of_the_body(url: str) -> None:
    release = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"n":'
        await release.wait()
        yield b" 5}"

    async with httpx.AsyncClient(base_url=url, timeout=patience(60)) as api:
        asyncio.get_running_loop().call_later(0.8, release.set)
        answer = await api.put(f"{DOCUMENTS}/slow", content=slowly(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 201
