"""The garbage collector has little to do in a storm, and everybody waits for less of it."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import AsyncIterator, Iterator

import pytest

from app.api.protocols import Http
from app.garbage import collect_rarely
from app.settings import Settings
from app.stores.stores import Stores
from support.logs_by_hand import begun
from support.raw_websocket import TEXT, frame, raw_websocket
from support.systems import followed, running_server

HELLO = frame(TEXT, json.dumps({"type": "hello", "shapes": ["docs"]}).encode())


@pytest.fixture
async def url(settings: Settings, stores: Stores) -> AsyncIterator[str]:
    await begun(stores, "docs")
    async with running_server(settings) as url:
        await followed(url)
        yield url


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def there() -> weakref.WeakSet[Http]:
    return weakref.WeakSet(one for one in gc.get_objects() if type(one) is Http)


async def test_a_connection_that_speaks_websocket_is_no_longer_one_that_speaks_http(url: str) -> None:
    before = there()
    async with raw_websocket(url) as opened:
        await opened.send(HELLO)
        assert b"welcome" in (await opened.receive())[1]
        assert not there() - before


def test_a_server_is_kept_waiting_for_less_than_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *given: set_to.append(given))
    collect_rarely(waited_for=True)
    collect_rarely(waited_for=False)
    assert set_to[0][0] <= 10_000 < set_to[1][0]
