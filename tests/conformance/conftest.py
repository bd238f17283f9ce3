"""One running system for the suite, one process for all clients of each runtime, and the documented nginx."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from conformance.declared import Rules
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support import nginx
from support.nginx import Nginx, documented, running_nginx
from support.peers.chromium import Chromium, running_chromium
from support.peers.javascript import Node, running_node
from support.peers.makes import MAKES
from support.peers.peer import WAIT, Peer
from support.peers.served import CATALOG, COLLECTIONS, Served
from support.systems import running_system
from support.waiting import patience, scaled, time_limits

DECLARED_IN = ("cards", "values")
"""The collections that declared shapes are parts of."""

THROUGH_NGINX = {"websockets", "chromium-websocket", "curl-sse", "chromium-eventsource", "curl"}
"""The clients that also come in by nginx. What it changes depends on the transport, and on what a browser lets pass."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the other clients out of the tests through nginx."""
    left_out = [item for item in items if _is_left_out(getattr(getattr(item, "callspec", None), "params", {}))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(parameters: Mapping[str, object]) -> bool:
    doors = {parameters.get("door"), parameters.get("guarded_door")}
    return "nginx" in doors and "peer" in parameters and parameters["peer"] not in THROUGH_NGINX


@pytest.fixture(scope="package")
async def served(mongodb_uri: str, client: Client) -> AsyncIterator[Served]:
    limits: Any = time_limits(drain_timeout=2.0)
    settings = Settings(
        mongodb_uri=mongodb_uri,
        database=f"conformance_{secrets.token_hex(6)}",
        collections=(*COLLECTIONS, CATALOG, *DECLARED_IN),
        checkpoint_interval=0.25,
        stream_wait=0.25,
        # Small, so that what comes is cut into frames and parts, and comes from the store as well as from the window.
        window_bytes=64 * 1024,
        frame_bytes=16 * 1024,
        heartbeat=scaled(0.5),
        **limits,
    )
    rows = [{"_id": number, "text": f"{number:05}" * 300} for number in range(60)]
    await client[settings.database][CATALOG].insert_many(rows)
    async with running_system(settings) as url:
        yield Served(url, settings, client)
    await client.drop_database(settings.database)
    await client.drop_database(settings.log_db)


@pytest.fixture
async def api(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the HTTP API, relative to the collections."""
    async with httpx.AsyncClient(base_url=f"{served.url}/v1/collections", timeout=patience(20)) as client:
        yield client


@pytest.fixture
def key() -> str:
    """An id that only this test uses."""
    return f"k{secrets.token_hex(4)}"


@pytest.fixture(scope="package")
async def node() -> AsyncIterator[Node]:
    async with running_node() as running:
        yield running


@pytest.fixture(scope="package")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chromium]:
    async with running_chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def made(request: pytest.FixtureRequest, name: str) -> Peer:
    """The client of that name; its runtime starts with the first test that asks for it."""
    make = MAKES[name]
    return make.peer(name, request.getfixturevalue(make.runtime) if make.runtime else None)


@pytest.fixture
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the polls of the package end as soon as those of other clients."""
    monkeypatch.setattr("eventsync_client.transports._POLL_WAIT", WAIT)


@pytest.fixture
def peer(request: pytest.FixtureRequest, short_polls: None) -> Peer:
    """The client that a test is parametrized with, by name."""
    if reason := MAKES[request.param].missing():
        pytest.skip(reason)
    return made(request, request.param)


@pytest.fixture
def peers(request: pytest.FixtureRequest, short_polls: None) -> dict[str, Peer]:
    """All clients that there are here."""
    return {name: made(request, name) for name, make in MAKES.items() if not make.missing()}


@pytest.fixture(scope="package")
async def proxy(served: Served, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nginx]:
    """nginx before the system, as docs/guides/nginx.md has it."""
    if reason := nginx.missing():
        pytest.skip(reason)
    async with running_nginx(tmp_path_factory.mktemp("nginx"), served.url, documented()) as running:
        yield running


@pytest.fixture(params=["direct", pytest.param("nginx", marks=pytest.mark.slow)])
def door(request: pytest.FixtureRequest, served: Served) -> str:
    """The URL that clients come in by."""
    if request.param == "direct":
        return served.url
    proxy: Nginx = request.getfixturevalue("proxy")
    return proxy.url


@pytest.fixture
def proxy_url(request: pytest.FixtureRequest, served: Served) -> str:
    """nginx's URL; the server's own where there is no nginx."""
    if nginx.missing():
        return served.url
    proxy: Nginx = request.getfixturevalue("proxy")
    return proxy.url


@pytest.fixture(scope="package")
async def rules(served: Served) -> Rules:
    rules = Rules(served)
    await rules.active()
    return rules
