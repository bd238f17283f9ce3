"""A session by hand: what it sends is collected, under rules that tests change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.access.live import LiveAccess, LiveAccesses
from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.shapes import Shape
from eventsync.errors import EventsyncError
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.sessions.session import Connection, Identity, Session
from support.readers import LOG, ORDERS, Reader, Rules, Server


class Client:
    """A client of one session, with all that it has received, and a connection that may be full."""

    def __init__(self, server: Server, rules: Rules, stack: AsyncExitStack) -> None:
        self.server = server
        self.rules = rules
        self.got: list[dict[str, Any]] = []
        self.writable = asyncio.Event()
        self.writable.set()
        subscribers = stack.enter_context(server.window.subscribers())
        accesses = LiveAccesses(cast("AccessControl", rules))
        live: LiveAccess = stack.enter_context(accesses.open(cast("Access", rules.reader)))
        self.session = Session(
            cast("Source", server),
            subscribers,
            live_access=live,
            client=Identity("c", "websocket"),
            on_ack=lambda _: None,
            heartbeat=60.0,
            max_shapes=10,
            connection=Connection(DirectWriter(_bytes, self._write), self._until_writable),
        )
        self.ended: Exception | None = None
        self.on_message: Callable[[], None] | None = None
        """Called while a message is being sent."""

    def _write(self, data: bytes) -> bool:
        if not self.writable.is_set():
            return False
        self.got.append(json.loads(data) | {"direct": True})
        return True

    async def _until_writable(self) -> None:
        await self.writable.wait()

    async def receive(self) -> None:
        try:
            async for message in self.session.messages():
                self.got.append(json.loads(message.data))
                if self.on_message is not None:
                    self.on_message()
        except EventsyncError as error:
            self.ended = error

    async def settle(self) -> list[str]:
        """Let everything happen that can, and return the kinds of the messages since the last call."""
        for _ in range(60):
            await asyncio.sleep(0)
        news, self.got = self.got, []
        self.news = [message for message in news if message["type"] not in {"welcome", "progress"}]
        return [message["type"] for message in self.news]

    @property
    def seqs(self) -> list[int]:
        return [item["seq"] for message in self.news for item in message.get("events", ())]

    @property
    def scopes(self) -> set[str]:
        """The scopes of all rows and positions that have arrived."""
        return {row["of"] for message in self.news for row in message.get("docs", ())}


def attached(server: Server) -> int:
    """Return the number of subscribers that are written to directly."""
    return sum(len(each) for channel in server.window._channels.values() for each in channel.attached.values())


def _bytes(publication: Publication) -> bytes:
    return publication.data


@asynccontextmanager
async def connected(
    reader: Reader, *, seq: int | None = 10, server: Server | None = None
) -> AsyncIterator[tuple[Client, Server, Rules]]:
    """A client of `orders` at this seq, after all that it gets without an event."""
    server = server or Server()
    rules = Rules(reader)
    async with AsyncExitStack() as stack:
        client = Client(server, rules, stack)
        assert isinstance(reader.sees, Shape)
        position = None if seq is None else Position(scoped(LOG, reader.sees.scope), Seq(seq))
        client.session.subscribe(ORDERS, position)
        receiving = asyncio.get_running_loop().create_task(client.receive())
        try:
            yield client, server, rules
        finally:
            client.session.close()
            client.writable.set()
            await receiving
            await client.session.aclose()
