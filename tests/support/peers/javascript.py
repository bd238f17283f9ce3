"""Clients in JavaScript runtimes: what Node.js and a browser have in common."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from support.peers.inbox import Inbox
from support.peers.peer import Asked, Ended, Link, Received, TransportName

DRIVER: Final = Path(__file__).with_name("driver.js")


class Runtime(Protocol):
    """A running one, with `driver.js` in it."""

    @property
    def links(self) -> Links: ...

    async def do(self, url: str, command: str, *arguments: Any) -> None:
        """Have the driver do something for a client of the server at `url`."""


class Links:
    """The connections of one runtime, by number, and what it says of them."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, Inbox] = {}

    def add(self, inbox: Inbox, number: int) -> None:
        self._open[number] = inbox

    def next(self) -> int:
        return next(self._numbers)

    def forget(self, number: int) -> None:
        """Ignore whatever the runtime still says of this one."""
        self._open.pop(number, None)

    def said(self, text: str | bytes) -> None:
        number, what, *rest = orjson.loads(text)
        inbox = self._open.get(number)
        if inbox is None:
            return
        if what == "message":
            inbox.put(Received(orjson.loads(rest[0]), rest[1]))
        elif what == "ended":
            inbox.put(Ended(*rest))
        elif what == "lost":
            inbox.put(Ended(None, "lost"))
        else:
            raise AssertionError(what)

    def over(self, reason: str) -> None:
        """The runtime has ended."""
        for inbox in self._open.values():
            inbox.put(Ended(None, reason))


@dataclass(frozen=True, slots=True)
class ScriptPeer:
    """One of a runtime's two clients. An `EventSource` reconnects by itself, and its link continues."""

    name: str
    transport: TransportName
    runtime: Runtime

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:
        links = self.runtime.links
        number = links.next()

        async def send(text: str) -> None:
            await self.runtime.do(url, "send", number, text)

        inbox = Inbox(send)
        links.add(inbox, number)
        wanted = {"url": url, "shapes": asked.shapes, "vector": dict(asked.vector)}
        await self.runtime.do(url, "open", number, self.transport, wanted)
        try:
            yield inbox
        finally:
            links.forget(number)
            await self.runtime.do(url, "close", number)
