"""A peer as a process of its own, and what makes its events where it has no MongoDB: a clock."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from eventsync.dev import mongod
from scripts.bench.clients.exactness import document
from scripts.bench.clients.processes import Process, asked
from scripts.bench.peers import frames
from scripts.bench.writers import paced


class Listening:
    """In the peer: answers that the server listens."""

    async def begin(self, seq: int) -> dict[str, object]:
        """Begin at event `seq`."""
        self.head = seq
        return {"log": frames.LOG}


class Timer(Listening):
    """In the peer: sends each event when it is due. `head`: clients that come now are at this event."""

    def __init__(self, broadcast: Callable[[bytes], None]) -> None:
        """`broadcast` sends a message to all clients that there are."""
        self._broadcast = broadcast

    async def steady(self, count: int, rate: float, size: int) -> dict[str, object]:
        """Send one event after the other, each at its intended time."""
        async for _, due in paced(count, rate):
            self.head += 1
            self._broadcast(frames.created(self.head, document(self.head, due, size)))
        return {"head": self.head}


@asynccontextmanager
async def peer(name: str, *words: str) -> AsyncIterator[tuple[Process, int]]:
    """Run a module of this package, which is given a port and `words`; give its process and the port."""
    port = mongod.free_port()
    async with asked(sys.executable, "-m", f"scripts.bench.peers.{name}", str(port), *words) as process:
        yield process, port


class Source:
    """A peer that makes events by itself. `head` is its newest event, `pid` its process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid
        self.head = 0

    async def steady(self, count: int, rate: float, size: int) -> None:
        """Send events one by one, each at its intended time."""
        self.head = (await self._process.ask("steady", count=count, rate=rate, size=size))["head"]


@asynccontextmanager
async def beside(clients: Process, name: str = "bare", *words: str) -> AsyncIterator[Source]:
    """Run a fresh peer that makes events by itself; `clients` are its clients."""
    async with peer(name, *words) as (process, port):
        begun = await process.ask("begin", seq=0)
        await clients.ask("begin", port=port, log=begun["log"], documents=0)
        yield Source(process)
