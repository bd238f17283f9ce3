"""Connection storms: first requests are paced, and connections leave little to the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from eventsync.process.garbage_collection import collect_rarely
from eventsync.server.http_protocol import HttpProtocol
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.logs_by_hand import begun
from support.raw_websocket import TEXT, frame, raw_websocket
from support.systems import followed, running_server
from support.waiting import within

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


def there() -> weakref.WeakSet[HttpProtocol]:
    return weakref.WeakSet(one for one in gc.get_objects() if type(one) is HttpProtocol)


async def test_upgraded_connection_leaves_the_http_connections(url: str) -> None:
    before = there()
    async with raw_websocket(url) as opened:
        await opened.send(HELLO)
        assert b"welcome" in (await opened.receive())[1]
        assert not there() - before


async def test_first_requests_are_paced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turn, read_in, loop = 0, Counter[int](), asyncio.get_running_loop()
    begin = HttpProtocol.on_message_begin

    def tick() -> None:
        nonlocal turn
        turn += 1
        ticking[0] = loop.call_soon(tick)

    def counted(self: HttpProtocol) -> None:
        read_in[turn] += 1
        begin(self)

    monkeypatch.setattr(HttpProtocol, "on_message_begin", counted)
    ticking = [loop.call_soon(tick)]
    host, port = urlsplit(url).hostname, urlsplit(url).port
    connections = [await asyncio.open_connection(host, port) for _ in range(40)]
    for _, writer in connections:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    async with within(10):
        answers = [await reader.read() for reader, _ in connections]
    ticking[0].cancel()
    for _, writer in connections:
        writer.close()
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert read_in.total() == 40
    assert max(read_in.values()) <= 4


def test_garbage_is_collected_more_often_in_a_server_than_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *given: set_to.append(given))
    collect_rarely(waited_for=True)
    collect_rarely(waited_for=False)
    assert set_to[0][0] <= 10_000 < set_to[1][0]
