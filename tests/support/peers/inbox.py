"""A connection that something else feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from support.peers.peer import Ended, Message, Received


class Inbox:
    """A `Link` whose messages are put into it. `send` is how its client sends.

    A client that reconnects by itself continues after an end.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self.ended: Ended | None = None
        self._send = send
        self._queue: asyncio.Queue[Received | Ended] = asyncio.Queue()

    def put(self, item: Received | Ended) -> None:
        self._queue.put_nowait(item)

    async def receive(self) -> Received | None:
        item = await self._queue.get()
        if isinstance(item, Ended):
            self.ended = item
            return None
        return item

    async def send(self, message: Message) -> None:
        await self._send(orjson.dumps(message).decode())
