"""A peer as a process of its own, with a port of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventsync.dev import mongod
from scripts.bench.crowd.process import CrowdProcess, asked


@asynccontextmanager
async def peer(name: str, *words: str) -> AsyncIterator[tuple[CrowdProcess, int]]:
    """Run a module of this package, which is given a port and `words`; give its process and the port."""
    port = mongod.free_port()
    async with asked(sys.executable, "-m", f"scripts.bench.peers.{name}", str(port), *words) as process:
        yield process, port


class Source:
    """A peer that makes events by itself. `head` is its newest event, `pid` its process."""

    def __init__(self, process: CrowdProcess) -> None:
        self._process = process
        self.pid = process.pid
        self.head = 0

    async def steady(self, count: int, rate: float, size: int) -> None:
        """Send events one by one, each at its intended time."""
        self.head = (await self._process.ask("steady", count=count, rate=rate, size=size))["head"]


@asynccontextmanager
async def beside(crowd: CrowdProcess, name: str = "bare", *words: str) -> AsyncIterator[Source]:
    """Run a fresh peer that makes events by itself; the crowd's clients are its clients."""
    async with peer(name, *words) as (process, port):
        begun = await process.ask("begin", seq=0)
        await crowd.ask("begin", port=port, log=begun["log"], documents=0)
        yield Source(process)
