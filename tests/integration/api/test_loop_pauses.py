"""Pauses of the event loop: the worst request of each route does not block it."""

from __future__ import annotations

from functools import partial

import httpx
import pytest

from eventsync.application import ROUTES
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from integration.api.worst_requests import SETTINGS, WORST, Ask, Client, grow, is_grown
from support.loops import Loop
from support.systems import running_server, running_worker, tracked
from support.waiting import eventually, patience

pytestmark = pytest.mark.anyio


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
