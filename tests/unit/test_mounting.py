"""`eventsync.mounting` without MongoDB: what is refused, and the paths of a mounted application."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import eventsync
from eventsync.errors import ConfigurationError
from eventsync.mounting import _paths
from eventsync.settings import Settings

SETTINGS = Settings(mongodb_uri="mongodb://127.0.0.1:1/?replicaSet=rs0", database="unused")


def scope(path: str, *, root: str = "", host_root: str = "", raw: str | None = None) -> dict[str, Any]:
    return {
        "type": "http",
        "path": path,
        "root_path": root,
        "app_root_path": host_root,
        "raw_path": (path if raw is None else raw).encode(),
    }


async def test_a_request_before_the_lifespan_raises_an_error_that_names_the_remedy() -> None:
    host = Starlette(routes=[Mount("/sync", eventsync.asgi(SETTINGS))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=host), base_url="http://localhost") as client:
        with pytest.raises(RuntimeError, match=r"FastAPI\(lifespan=sync.lifespan\)"):
            await client.get("/sync/healthz")


async def test_a_second_lifespan_at_the_same_time_is_refused() -> None:
    sync = eventsync.asgi(SETTINGS)
    async with sync.lifespan():
        with pytest.raises(RuntimeError, match="runs already"):
            async with sync.lifespan():
                pytest.fail("it began")


async def test_it_can_run_again_after_its_end() -> None:
    sync = eventsync.asgi(SETTINGS)
    for _ in range(2):
        async with sync.lifespan():
            assert sync.storage is not None
    with pytest.raises(RuntimeError, match="does not run"):
        sync.storage  # noqa: B018 - it raises


async def test_after_a_failure_each_request_is_answered_503() -> None:
    sync = eventsync.asgi(SETTINGS)
    transport = httpx.ASGITransport(app=Starlette(routes=[Mount("/sync", sync)]))
    async with sync.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/sync/healthz")).status_code == 200
        sync._fail(ConfigurationError("wrong"))
        answer = await client.get("/sync/healthz")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_the_settings_are_read_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSYNC_LEASE_PERIOD", "-1")
    with pytest.raises(Exception, match="lease_period"):
        eventsync.asgi()


@pytest.mark.parametrize(
    ("given", "root", "path", "raw"),
    [
        (scope("/v1/x"), "", "/v1/x", b"/v1/x"),
        (scope("/sync/v1/x", root="/sync"), "/sync", "/sync/v1/x", b"/sync/v1/x"),
        (scope("/sync/", root="/sync/"), "/sync", "/sync/", b"/sync/"),
        # A proxy has removed what the host application knows as its own root path.
        (scope("/sync/v1/x", root="/api/sync", host_root="/api"), "/api/sync", "/api/sync/v1/x", b"/api/sync/v1/x"),
        (scope("/v1/x", root="/api"), "/api", "/api/v1/x", b"/api/v1/x"),
        (scope("/synced", root="/sync"), "/sync", "/sync/synced", b"/sync/synced"),
        (scope("/a b/v1/x/y", root="/a b", raw="/a%20b/v1/x%2Fy"), "/a b", "/a b/v1/x/y", b"/a%20b/v1/x%2Fy"),
        (scope("/ü/v1", root="/ü", raw="/%C3%BC/v1"), "/ü", "/ü/v1", b"/%C3%BC/v1"),
    ],
)
def test_both_paths_begin_with_the_root_path(given: dict[str, Any], root: str, path: str, raw: bytes) -> None:
    assert _paths(given) == {"root_path": root, "path": path, "raw_path": raw}


def test_a_server_without_raw_paths_will_do() -> None:
    assert _paths({"type": "http", "path": "/sync/v1"}) == {"root_path": "", "path": "/sync/v1"}


@pytest.mark.parametrize(
    ("server", "allowed", "status"),
    [
        (("127.0.0.1", 80), False, 200),
        (("::1", 80), False, 200),
        (("/run/host.sock", None), False, 200),
        (None, False, 200),
        (("10.0.0.1", 80), False, 503),
        (("2001:db8::1", 80), False, 503),
        (("10.0.0.1", 80), True, 200),
    ],
)
async def test_without_rules_connections_from_beyond_loopback_are_refused(
    server: tuple[str, int | None] | None, allowed: bool, status: int
) -> None:
    sync = eventsync.asgi(SETTINGS.model_copy(update={"allow_unauthenticated": allowed}))

    async def reached(scope: Any, receive: Any, send: Any) -> None:
        await sync(scope | {"server": server}, receive, send)

    transport = httpx.ASGITransport(app=reached)
    async with sync.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        sync._services.access.replace(None, 1)  # the registry has no rules
        answer = await client.get("/healthz")
        assert answer.status_code == status
        assert ("EVENTSYNC_ALLOW_UNAUTHENTICATED" in answer.text) is (status == 503)
