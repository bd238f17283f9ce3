"""Sources of events for a crowd: eventsync, by writes to MongoDB, or a peer on its own clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from scripts.bench.crowd.process import CrowdProcess
from scripts.bench.peers.process import peer
from scripts.bench.sessions_stage import Stage


class Source(Protocol):
    """A server of which the crowd's clients are clients. `head` is its newest event, `pid` its process."""

    head: int
    pid: int

    async def steady(self, count: int, rate: float, size: int) -> None:
        """Events one by one, each at its intended time."""

    async def burst(self, count: int, size: int, together: int) -> None:
        """As fast as it goes; `together` are sent in one piece, where that is not the server's own choice."""


class Ours:
    """The stage's writer, MongoDB, the worker, and a server."""

    def __init__(self, stage: Stage, pid: int, head: int) -> None:
        self._stage = stage
        self.pid = pid
        self.head = head

    async def steady(self, count: int, rate: float, size: int) -> None:
        began = time.monotonic()
        for number in range(count):
            due = began + number / rate
            await asyncio.sleep(due - time.monotonic())
            self.head += 1
            await self._stage.write(self.head, 1, size=size, at=due)

    async def burst(self, count: int, size: int, together: int) -> None:  # noqa: ARG002 - the server decides
        first, self.head = self.head + 1, self.head + count
        await self._stage.write(first, count, size=size)


class Peer:
    """A process of `scripts.bench.peers`."""

    def __init__(self, process: CrowdProcess) -> None:
        self._process = process
        self.pid = process.pid
        self.head = 0

    async def steady(self, count: int, rate: float, size: int) -> None:
        self.head = (await self._process.ask("steady", count=count, rate=rate, size=size))["head"]

    async def burst(self, count: int, size: int, together: int) -> None:
        self.head = (await self._process.ask("burst", count=count, size=size, together=together))["head"]


@asynccontextmanager
async def ours(stage: Stage) -> AsyncIterator[Ours]:
    """A fresh server; the crowd is for it."""
    async with stage.serving() as pid:
        await stage.ready()
        await stage.crowd.ask("begin", port=stage.settings.port, log=stage.log.name, documents=0)
        yield Ours(stage, pid, await stage.log.head())


@asynccontextmanager
async def beside(name: str, crowd: CrowdProcess) -> AsyncIterator[Peer]:
    """A fresh peer; the crowd is for it."""
    async with peer(name) as (process, port):
        begun = await process.ask("begin", seq=0)
        await crowd.ask("begin", port=port, log=begun["log"], documents=0)
        yield Peer(process)
