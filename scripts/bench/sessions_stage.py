"""Stage for a run of clients: a database of its own, a worker, servers on one port, and a writer."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from pymongo import UpdateOne

from eventsync.dev import mongod
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.history import History
from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess
from scripts.bench.deployment import Deployment, cpu_seconds, peak, running
from scripts.bench.long_log import LongLog, until

Figures = dict[str, float]

_BULK = 500
_SETTLING, _RESTING = 1.0, 0.05
"""A server rests that takes less than this share of a core for so many seconds."""

_NEVER = 10**9


def raise_open_files() -> int:
    """As many open files as may be, for this process and those it starts; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@dataclass(frozen=True, slots=True)
class Stage:
    """One database, tracked from its first event on. `written` events of `history` are in the log, or will be."""

    deployment: Deployment
    settings: Settings
    stores: Stores
    log: LongLog
    history: History
    crowd: CrowdProcess
    worker: int
    """The worker's pid."""

    @asynccontextmanager
    async def serving(self, **changed: Any) -> AsyncIterator[int]:
        """A fresh server while the block runs, ready or not; gives its pid."""
        settings = self.settings.model_copy(update=changed)
        with running("serve", settings, self.deployment.directory) as pid:
            yield pid

    async def ready(self) -> None:
        """Wait until the server is."""
        await until("a server", self._is_ready, 30.0)

    async def _is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{self.settings.port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    @asynccontextmanager
    async def without_snapshots(self) -> AsyncIterator[None]:
        """There is no stored snapshot while the block runs, and a worker that is stopped makes none."""
        snapshots = self.stores.log["snapshots"]
        os.kill(self.worker, signal.SIGSTOP)
        try:
            found = await snapshots.find().to_list()
            await snapshots.delete_many({})
            yield
            if found:
                await snapshots.insert_many(found)
        finally:
            os.kill(self.worker, signal.SIGCONT)

    async def connections(self) -> int:
        """Return the number of connections that the server reports."""
        async with httpx.AsyncClient(timeout=30.0) as client:
            text = (await client.get(f"http://127.0.0.1:{self.settings.port}/metrics")).text
        line = next(line for line in text.splitlines() if line.startswith("eventsync_connections "))
        return int(float(line.split()[1]))

    async def write(self, first: int, count: int, *, size: int = 0, at: float | None = None) -> None:
        """Make the changes that become the events `first` and those after it, in order; new documents of `size` bytes.

        `at`: when they are meant to be made, in seconds of the monotonic clock; by default now.
        """
        docs = self.stores.data[SHAPE]
        for start in range(first, first + count, _BULK):
            seqs = range(start, min(start + _BULK, first + count))
            if self.history.documents:
                await docs.bulk_write([UpdateOne({"_id": self.history.document(seq)}, _change(seq)) for seq in seqs])
            else:
                await docs.insert_many([document_of(seq, at or time.monotonic(), size) for seq in seqs])

    @asynccontextmanager
    async def writing(self, first: int, rate: float) -> AsyncIterator[list[int]]:
        """One change after the other, at `rate` a second, while the block runs; gives the list of what was written."""
        over, written = asyncio.Event(), list[int]()

        async def run() -> None:
            began = time.perf_counter()
            while not over.is_set():
                await self.write(first + len(written), 1)
                written.append(first + len(written))
                await asyncio.sleep(began + len(written) / rate - time.perf_counter())

        async with asyncio.TaskGroup() as group:
            group.create_task(run(), name="write")
            try:
                yield written
            finally:
                over.set()


@asynccontextmanager
async def staged(
    deployment: Deployment, crowd: CrowdProcess, name: str, documents: int, size: int = 300, **changed: Any
) -> AsyncIterator[Stage]:
    """A database of its own, with so many documents of `size` bytes before its first event, and a worker, while the
    block runs."""
    settings = Settings(
        mongodb_uri=deployment.uri,
        database=f"bench_{name}",
        collections=(SHAPE,),
        port=mongod.free_port(),
        archive_url="none",
        # No snapshot but the base: how often they are made is not what is measured.
        snapshot_min_events=_NEVER,
        snapshot_events=_NEVER,
    ).model_copy(update=changed)
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        for first in range(0, documents, _BULK):
            rows = [document_of(n, 0.0, size, n=0) for n in range(first, min(documents, first + _BULK))]
            await stores.data[SHAPE].insert_many(rows)
        with running("worker", settings, deployment.directory) as worker:
            log = await until("tracking", lambda: _tracked(stores))
            if await log.head():
                raise WrongError(f"the log begins with {await log.head()} events")
            await crowd.ask("begin", port=settings.port, log=log.name, documents=documents)
            yield Stage(deployment, settings, stores, log, History(documents), crowd, worker)


class Clock:
    """Cost of a phase for a server: wall time, CPU, and the peak of its memory until now."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began, self._used = time.monotonic(), cpu_seconds(pid)

    def figures(self) -> Figures:
        """`CPU %` is the share of one core."""
        seconds, used = time.monotonic() - self._began, cpu_seconds(self._pid) - self._used
        return {"server CPU s": used, "CPU %": 100 * used / seconds, "peak MiB": peak(self._pid)}


async def settled(pid: int) -> None:
    """Wait until a server has done what its clients leave it to do; a poll is not answered while it is well."""
    used = -1.0
    while (now := cpu_seconds(pid)) - used > _RESTING * _SETTLING:
        used = now
        await asyncio.sleep(_SETTLING)


def say(text: str) -> None:
    """Progress, for who watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def document_of(number: int, at: float, size: int, *, n: int | None = None) -> dict[str, Any]:
    """A document of about `size` bytes."""
    return {"_id": number, "n": number if n is None else n, "at": at, "text": "x" * max(0, size - 60)}


def _change(seq: int) -> dict[str, Any]:
    return {"$set": {"n": seq, "at": time.monotonic()}}


async def _tracked(stores: Stores) -> LongLog | None:
    """The log, once the collection has its base."""
    current = await stores.logs.current()
    based = current is not None and SHAPE in await stores.snapshots.stored.positions(current.id)
    return LongLog(stores, current.id) if current and based else None
