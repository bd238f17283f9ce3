"""Pauses of the event loop: the worst request of each route does not block it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from eventsync.application import ROUTES
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from integration.api.worst_requests import SETTINGS, WORST, Ask, Client, grow, is_grown
from support.identity import token
from support.loops import Loop
from support.replay import caught_up
from support.ruled import apply_rules
from support.systems import running_server, running_worker, tracked
from support.waiting import eventually, patience

pytestmark = pytest.mark.anyio

HIDING: Final[dict[str, Any]] = {
    "roles": {"user": True},
    "collections": {"things": {"user": {"read": True, "hide": ["secret", "x.*.cost"]}}},
}


def _routes() -> set[tuple[str, str]]:
    names = {
        "{collection}": "things",
        "{id}": "ID",
        "{position}": "POSITION",
        "{client_id}": "CLIENT",
        "{name}": "NAME",
    }
    found: set[tuple[str, str]] = set()
    for route in ROUTES:
        path = str(getattr(route, "path"))  # noqa: B009 - routes of several kinds
        for name, stand_in in names.items():
            path = path.replace(name, stand_in)
        methods = getattr(route, "methods", None) or ({"GET"} if hasattr(route, "methods") else {"WEBSOCKET"})
        found |= {(method, path) for method in methods - {"HEAD"}}
    return found


def test_each_route_has_a_worst_case() -> None:
    assert {(method, path) for method, path in WORST if path.startswith("/")} == _routes()


@pytest.mark.slow
async def test_no_route_blocks_the_event_loop(settings: Settings, stores: Stores) -> None:
    patient = settings.model_copy(update=SETTINGS)
    loop = Loop(lambda: running_server(patient), waited_for=True)
    async with (
        running_worker(patient),
        loop.running() as url,
        httpx.AsyncClient(base_url=url, timeout=patience(600)) as http,
    ):
        await tracked(url, ["things"])
        client = Client(http, url)
        async with loop.during("growing"):
            await grow(client, stores.data["things"])
        await eventually(lambda: is_grown(client))
        for (method, path), ask in WORST.items():
            await loop.measured(partial(_case, loop, client, f"{method} {path}", ask))
    loop.assert_short()


async def _case(loop: Loop[str], client: Client, name: str, ask: Ask) -> None:
    async with loop.during(name):
        await ask(client)


@pytest.mark.slow
async def test_redaction_for_readers_that_come_later_does_not_block_the_event_loop(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    # So small that a redacted body is more than the window keeps of them.
    patient = settings.model_copy(update=SETTINGS | {"window_bytes": 4 * 1024 * 1024})
    await apply_rules(stores, tmp_path, HIDING)
    loop = Loop(lambda: running_server(patient), waited_for=True)
    headers = {"Authorization": f"Bearer {token(now=time.time(), sub='ada')}"}
    async with (
        running_worker(patient),
        loop.running() as url,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=patience(600)) as http,
    ):
        start = await eventually(lambda: _start(http), 60)
        # Nobody from whom something is hidden follows the collection when the events are published.
        await stores.data["things"].insert_many([{"_id": n, "secret": 1, "x": [[]] * 300_000} for n in range(2)])
        log = await caught_up(stores)
        seq = await stores.events.head(log)
        await eventually(lambda: _has_read(http, seq), 60)
        await loop.measured(partial(_case, loop, Client(http, url), "polls", lambda client: _polls(client, start)))
    loop.assert_short()


async def _start(http: httpx.AsyncClient) -> str | None:
    """Return the position that a client begins at; None until it is served."""
    answer = await http.get("/v1/sync/log?shape=things")
    return answer.json()["to"] if answer.status_code == 200 else None


async def _has_read(http: httpx.AsyncClient, seq: int) -> bool:
    return (await _start(http) or "").endswith(f":{seq}")


async def _polls(client: Client, start: str) -> None:
    """Read two events, one a page, twice."""
    for _ in range(2):
        position = start
        for _ in range(2):
            page = await client.ask("GET", "/v1/sync/log", params={"shape": "things", "position": position})
            assert b'"secret"' not in page.content
            (created,) = page.json()["events"]
            assert created["op"] == "create"
            position = page.json()["to"]
