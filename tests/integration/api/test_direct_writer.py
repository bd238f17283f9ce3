"""Direct writes to attached subscribers; through ASGI where the server has no direct writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.types import Scope

from eventsync.api import sse, websocket
from eventsync.application import create_app
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.sync.live.fan_out import DirectWriter, Write
from support.clients import following
from support.replica import log_of
from support.systems import events_of, head, running_server, running_worker, tracked

WRITES = 30


@asynccontextmanager
async def plain_server(settings: Settings) -> AsyncIterator[str]:
    """An unmodified uvicorn."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class Counted:
    """Counts direct writes."""

    def __init__(self) -> None:
        self.sent = 0

    def of(self, direct_writer: Callable[[Scope], DirectWriter | None]) -> Callable[[Scope], DirectWriter | None]:
        def counted(scope: Scope) -> DirectWriter | None:
            made = direct_writer(scope)
            return None if made is None else DirectWriter(made.encode, partial(self._write, made.write))

        return counted

    def _write(self, write: Write, data: bytes) -> bool:
        done = write(data)
        self.sent += done
        return done


@pytest.mark.parametrize("transport", ["websocket", "sse"])
@pytest.mark.parametrize("server", [running_server, plain_server])
async def test_each_event_arrives_once_with_and_without_direct_writer(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, transport: str, server: Any
) -> None:
    counted = Counted()
    for module in (sse, websocket):
        monkeypatch.setattr(module, "direct_writer", counted.of(module.direct_writer))
    settings = settings.model_copy(update={"collections": ("docs",)})
    docs = client[settings.database]["docs"]
    async with running_worker(settings), server(settings) as url:
        await tracked(url, ["docs"])
        async with following(url, "docs", transport) as follower:
            await follower.reached(await head(url))
            for number in range(WRITES):
                await docs.insert_one({"_id": number})
            events = await events_of(url, "docs", WRITES)
            await follower.reached(f"{log_of(await head(url))}:{events[-1]['seq']}")
    assert follower.replica.documents.keys() == {f"int:{number}" for number in range(WRITES)}
    assert follower.replica.events == WRITES
    assert (counted.sent > 0) is (server is running_server)
