"""Time travel for many readers: shared reads, cached pages, and admission."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from eventsync.settings import Settings
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.log.events import EventStore
from support.systems import events_of, running_system
from support.waiting import patience

pytestmark = pytest.mark.anyio

PATH = "/v1/collections/orders/documents/hot"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    tight = settings.model_copy(update={"collections": ("orders",), "max_reads": 1, "max_waiting": 2})
    limits = httpx.Limits(max_connections=None)
    async with (
        running_system(tight) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(60), limits=limits) as opened,
    ):
        for number in range(5):
            await opened.put(PATH, json={"n": number})
        await events_of(url, "orders/hot", 5)
        while (await opened.get(f"{PATH}?version=1")).status_code == 503:  # noqa: ASYNC110 - until the base is stored
            await asyncio.sleep(0.05)
        yield opened


class Held:
    """Reads of a kind, counted, and held until `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str) -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.count = 0
        read = getattr(owner, name)

        async def held(*args: Any, **named: Any) -> Any:
            self.count += 1
            self.asked.set()
            await self.go.wait()
            return await read(*args, **named)

        monkeypatch.setattr(owner, name, held)


@pytest.mark.slow
async def test_concurrent_identical_reads_share_one_read(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for held, path in (
        (Held(monkeypatch, EventStore, "of_document"), f"{PATH}/events?limit=3"),
        (Held(monkeypatch, TimeTravel, "document"), f"{PATH}?version=2"),
    ):
        reading = [asyncio.ensure_future(api.get(path)) for _ in range(50)]
        await held.asked.wait()
        assert (await api.get("/healthz")).status_code == 200
        held.go.set()
        answers = await asyncio.gather(*reading)
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        # A client that came when the first had finished reads again, at most from the cache.
        assert held.count < 5


async def test_page_of_history_is_cached(api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch, EventStore, "of_document")
    held.go.set()
    pages = [(await api.get(f"{PATH}/events?limit=2")).json() for _ in range(3)]
    assert pages[0] == pages[1] == pages[2]
    assert held.count == 1
    await api.put(PATH, json={"n": 99})
    url = str(api.base_url)
    assert len(await events_of(url, "orders/hot", 6)) == 6
    assert len((await api.get(f"{PATH}/events")).json()["events"]) == 6  # nothing stale


async def test_readers_beyond_the_bound_are_refused_retryably(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, TimeTravel, "document")
    # Each wants something else, so that nothing is shared: one reads, two wait.
    reading = [asyncio.ensure_future(api.get(f"{PATH}?version={number}")) for number in range(1, 6)]
    refused = [asyncio.ensure_future(api.get(f"{PATH}/events?limit={number}")) for number in range(1, 4)]
    await asyncio.wait([*reading, *refused], return_when=asyncio.FIRST_COMPLETED)
    while sum(task.done() for task in (*reading, *refused)) < 5:  # noqa: ASYNC110 - all but those that have a place
        await asyncio.sleep(0.01)
    early = [task.result() for task in (*reading, *refused) if task.done()]
    assert Counter(answer.status_code for answer in early) == {503: 5}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in early)
    held.go.set()
    answers = await asyncio.gather(*reading, *refused)
    assert Counter(answer.status_code for answer in answers) == {200: 3, 503: 5}
