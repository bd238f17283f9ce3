"""Clients in JavaScript runtimes: what Node.js and a browser have in common."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import orjson

from eventsync.server.supervision.orphans import die_with_parent
from support.peers.peer import Asked, Ended, Link, Message, Received, TransportName
from support.waiting import patience


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

    def add(self, inbox: Inbox) -> int:
        """Take a new connection; return its number."""
        number = next(self._numbers)
        self._open[number] = inbox
        return number

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
        async def send(text: str) -> None:
            await self.runtime.do(url, "send", number, text)

        inbox, links = Inbox(send), self.runtime.links
        number = links.add(inbox)
        wanted = {"url": url, "shapes": asked.shapes, "vector": dict(asked.vector)}
        if asked.token is not None:
            wanted |= {"ticket": await _ticket(url, asked)} if self.transport == "sse" else {"token": asked.token}
        await self.runtime.do(url, "open", number, self.transport, wanted)
        try:
            yield inbox
        finally:
            links.forget(number)
            await self.runtime.do(url, "close", number)


async def _ticket(url: str, asked: Asked) -> str:
    """Return a ticket for the shapes, because an `EventSource` sends no header; a wrong one if it is refused."""
    async with httpx.AsyncClient(base_url=url, timeout=patience(20), headers=asked.headers) as client:
        answer = await client.post("/v1/tickets", json={"shapes": asked.shapes})
    return str(answer.json()["ticket"]) if answer.status_code == 201 else "est_refused"


PACKAGES: Final = Path(sys.prefix) / "peers"
"""The directory that `scripts/peers` installs them in."""

_MAIN: Final = Path(__file__).with_name("node.mjs")
_PIPE: Final = asyncio.subprocess.PIPE


def node_missing() -> str | None:
    """Return the reason why there is no Node.js with its packages here, or None."""
    if shutil.which("node") is None:
        return "needs Node.js"
    return None if (PACKAGES / "node_modules/ws").is_dir() else "needs npm packages: scripts/peers installs them"


class Node:
    """One process for any number of connections."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.links = Links()
        self._process = process

    async def do(self, url: str, command: str, *arguments: Any) -> None:  # noqa: ARG002 - one for all servers
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps([command, *arguments]) + b"\n")

    async def read(self) -> None:
        """Hand on what the process says, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.links.said(line)
        self.links.over("Node.js has ended")


@asynccontextmanager
async def running_node() -> AsyncIterator[Node]:
    process = await asyncio.create_subprocess_exec(
        "node", str(_MAIN), str(PACKAGES), stdin=_PIPE, stdout=_PIPE, limit=2**24, preexec_fn=die_with_parent
    )
    node = Node(process)
    reading = asyncio.create_task(node.read(), name="read from Node.js")
    try:
        yield node
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await reading
        await process.wait()
