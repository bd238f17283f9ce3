"""The package `eventsync_client` as three kinds of clients: an `AsyncClient` with each of its transports.

It continues from what the suite's replica holds, and each message comes with what the client holds after it. The two
are compared after every message, so the package is held against the suite's own reading of the protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from eventsync_client import AsyncClient, Memory, Status
from eventsync_client.core import Core
from eventsync_client.replica import Row
from eventsync_client.store import Saved
from eventsync_client.transports import Transport
from support.peers.peer import Asked, Ended, Held, Link, Message, Received


class _HandedRows(Memory):
    """A store that has what the suite's replica holds."""

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self._asked = asked

    def load(self, shape: str) -> Saved:
        rows = {key: Row(*row) for key, row in self._asked.rows.get(shape, {}).items()}
        return Saved(self._asked.vector.get(shape), rows)


class _WatchedCore(Core):
    """A core that passes on each message, and the end of its only connection."""

    def __init__(self, transport: Transport, *, has_token: bool) -> None:
        super().__init__(has_token=has_token)
        self.said: asyncio.Queue[Received | Ended] = asyncio.Queue()
        self.refusal: int | None = None
        """Status of the last answer, unless it was 200."""
        self._transport = transport
        self._is_receiving = False
        self._is_over = False

    def receive(self, message: Message, now: float) -> None:
        self._is_receiving = True
        super().receive(message, now)
        self._is_receiving = False
        # The welcome of polls is the client's own.
        if not (self._transport == "http" and message["type"] == "welcome"):
            held = {shape: Held(self.vector.get(shape), dict(self.documents(shape) or {})) for shape in self.shapes}
            self.said.put_nowait(Received(message, held=held))
        if self.status in {Status.WAITING, Status.FAILED}:
            self._end(None, self.reason)

    def closed(self, code: int | None, reason: str, *_: float, **__: float) -> None:
        self._end(code, reason)

    def fail(self, reason: str) -> None:
        super().fail(reason)
        if not self._is_receiving:
            self._end(None, reason)

    def _end(self, code: int | None, reason: str) -> None:
        """Tell of the end, and do not connect again."""
        if not self._is_over:
            self._is_over = True
            self.said.put_nowait(Ended(code if self._transport == "websocket" else self.refusal, reason))
            self.fail(reason)


class _ClientLink:
    def __init__(self, client: AsyncClient, core: _WatchedCore) -> None:
        self.ended: Ended | None = None
        self._client = client
        self._core = core

    async def receive(self) -> Received | None:
        item = await self._core.said.get()
        if isinstance(item, Ended):
            self.ended = item
            return None
        return item

    async def send(self, message: Message) -> None:
        assert self._client._link is not None
        await self._client._link.send(message)


@dataclass(frozen=True, slots=True)
class PackagePeer:
    """The package by one of its transports."""

    transport: Transport

    @property
    def name(self) -> str:
        return f"eventsync-client-{self.transport}"

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:
        core = _WatchedCore(self.transport, has_token=asked.token is not None)
        client = AsyncClient(url, token=asked.token, store=_HandedRows(asked), transport=self.transport)
        client.core = core

        async def note(answer: httpx.Response) -> None:
            core.refusal = None if answer.status_code == 200 else answer.status_code

        async with client:
            assert client._client is not None
            client._client.event_hooks = {"response": [note]}
            for shape in asked.shapes:
                assert client.shape(shape).text == shape
            yield _ClientLink(client, core)
