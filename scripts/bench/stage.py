"""Stage of a benchmark with clients: a tracked database of its own, a worker, servers on one port, and a writer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx
from pymongo import UpdateOne

from eventsync.dev import mongod
from eventsync.domain.positions import LogId
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.history import History
from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess
from scripts.bench.deployment import Deployment, cpu_seconds, running

Found = TypeVar("Found")

_BULK: Final = 500
_LOOK: Final = 0.05
_SETTLING, _RESTING = 1.0, 0.05
"""A server rests that takes less than this share of a core for so many seconds."""

_NEVER: Final = 10**9


async def until(what: str, look: Callable[[], Awaitable[Found | None]], seconds: float = 240.0) -> Found:
    """Call `look` until it finds something, and return that. Raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(_LOOK)  # the event is in another process
    return found


async def settled(pid: int) -> None:
    """Wait until a server has done what its clients leave it to do."""
    used = -1.0
    while (now := cpu_seconds(pid)) - used > _RESTING * _SETTLING:
        used = now
        await asyncio.sleep(_SETTLING)


@dataclass(frozen=True, slots=True)
class Log:
    """The event log of a stage, seen from outside."""

    stores: Stores
    name: LogId

    async def head(self) -> int:
        """Return the number of the newest event."""
        tail = await self.stores.events.tail(self.name)
        return tail.seq if tail else 0

    async def reached(self, seq: int) -> None:
        """Wait until the log has that many events. Raises `TimeoutError`."""
        await until(f"event {seq}", lambda: self._has(seq))

    async def _has(self, seq: int) -> bool:
        return await self.head() >= seq


@dataclass(frozen=True, slots=True)
class Stage:
    """One database, tracked from its first event on. `history` says what its events are; `worker` is a pid."""

    deployment: Deployment
    settings: Settings
    stores: Stores
    log: Log
    history: History
    crowd: CrowdProcess
    worker: int

    @asynccontextmanager
    async def serving(self, crowd: CrowdProcess | None = None, **changed: Any) -> AsyncIterator[int]:
        """Run a fresh server, which is ready; give its pid. `crowd`, or the stage's, are its clients."""
        settings = self.settings.model_copy(update=changed)
        with running("serve", settings, self.deployment.directory) as pid:
            await until("a server", self._is_ready, 30.0)
            await self.begin(crowd or self.crowd)
            yield pid

    async def begin(self, crowd: CrowdProcess) -> None:
        """Close all clients of `crowd`; those that it opens from now on are the server's."""
        await crowd.ask("begin", port=self.settings.port, log=self.log.name, documents=self.history.documents)

    async def _is_ready(self) -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{self.settings.port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    @asynccontextmanager
    async def without_snapshots(self) -> AsyncIterator[None]:
        """Hide the stored snapshots; the worker is stopped, so it makes none."""
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
        """Make one change after the other, at `rate` a second; give the list of what was written."""
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
    """Run a worker on a database of its own, with so many documents of `size` bytes before its first event."""
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
            yield Stage(deployment, settings, stores, log, History(documents), crowd, worker)


def document_of(number: int, at: float, size: int, *, n: int | None = None) -> dict[str, Any]:
    """A document of about `size` bytes."""
    return {"_id": number, "n": number if n is None else n, "at": at, "text": "x" * max(0, size - 60)}


def _change(seq: int) -> dict[str, Any]:
    return {"$set": {"n": seq, "at": time.monotonic()}}


async def _tracked(stores: Stores) -> Log | None:
    """Return the log once the collection has its base."""
    current = await stores.logs.current()
    based = current is not None and SHAPE in await stores.snapshots.stored.positions(current.id)
    return Log(stores, current.id) if current and based else None
