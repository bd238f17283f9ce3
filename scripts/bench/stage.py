"""Stage of a benchmark with clients: a tracked database of its own, a worker, servers on one port, and a writer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

import httpx
from pymongo import UpdateOne
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.dev import mongod
from eventsync.domain.positions import LogId
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.clients.exactness import SHAPE, SIZE, History, WrongError, document
from scripts.bench.clients.processes import Process
from scripts.bench.deployment import Cpu, Deployment, running
from scripts.bench.writers import paced

Found = TypeVar("Found")

_BULK: Final = 1000
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


async def settled(pid: int, resting: float = _RESTING) -> None:
    """Wait until a server has done what its clients leave it to do: it uses less than `resting` of a core."""
    used = _SETTLING
    while used > resting * _SETTLING:
        cpu = Cpu(server=pid)
        await asyncio.sleep(_SETTLING)
        used = cpu.used()["server"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One database, tracked from its first event on, whose log is `log`. `documents` are changed, or 0 are made.

    `clients` is the process of the server's clients; `worker` a pid.
    """

    deployment: Deployment
    settings: Settings
    stores: Stores
    log: LogId
    documents: int
    clients: Process
    worker: int

    async def head(self) -> int:
        """Return the number of the newest event."""
        return await head_of(self.stores, self.log)

    @asynccontextmanager
    async def serving(self, *options: str) -> AsyncIterator[int]:
        """Run a fresh server, which is ready; give its pid. The stage's clients are its clients."""
        with running("serve", self.settings, self.deployment.directory, *options) as pid:
            await until("a server", self._is_ready, 120.0)
            await self.begin(self.clients)
            yield pid

    async def begin(self, clients: Process, *, overtaking: bool = False) -> None:
        """Close all clients of a process; those that it opens from now on are the server's."""
        port, documents = self.settings.port, self.documents
        await clients.ask("begin", port=port, log=self.log, documents=documents, overtaking=overtaking)

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
        docs, history = self.stores.data[SHAPE], History(self.documents)
        for start in range(first, first + count, _BULK):
            seqs, now = range(start, min(start + _BULK, first + count)), at or time.monotonic()
            if self.documents:
                changes = [{"$set": {"n": seq, "at": now}} for seq in seqs]
                ids = [{"_id": history.document(seq)} for seq in seqs]
                await docs.bulk_write([UpdateOne(*change) for change in zip(ids, changes, strict=True)])
            else:
                await docs.insert_many([document(seq, now, size) for seq in seqs])

    @asynccontextmanager
    async def writing(self, first: int, rate: float) -> AsyncIterator[list[int]]:
        """Make one change after the other, at `rate` a second; give the list of what was written."""
        over, written = asyncio.Event(), list[int]()

        async def run() -> None:
            async for number, _ in paced(_NEVER, rate):
                if over.is_set():
                    return
                await self.write(first + number, 1)
                written.append(first + number)

        async with asyncio.TaskGroup() as group:
            group.create_task(run(), name="write")
            try:
                yield written
            finally:
                over.set()


async def insert(collection: AsyncCollection[dict[str, Any]], documents: Iterable[dict[str, Any]]) -> None:
    """Insert documents, a thousand at a time."""
    rest = iter(documents)
    while some := list(islice(rest, _BULK)):
        await collection.insert_many(some, ordered=False)


async def head_of(stores: Stores, log: LogId) -> int:
    """Return the number of the newest event."""
    tail = await stores.events.tail(log)
    return tail.seq if tail else 0


@asynccontextmanager
async def tracked(
    deployment: Deployment, name: str, documents: Iterable[dict[str, Any]], **changed: Any
) -> AsyncIterator[tuple[Settings, Stores, LogId]]:
    """Give a database whose collection has these documents and its base; its worker is gone. Drop it afterwards."""
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
        await insert(stores.data[SHAPE], documents)
        with running("worker", settings, deployment.directory):
            log = await until("the base of the collection", lambda: _based(stores))
        if found := await head_of(stores, log):
            raise WrongError(f"the log begins with {found} events")
        yield settings, stores, log
        for database in (settings.database, settings.log_db):
            await client.drop_database(database)


@asynccontextmanager
async def staged(
    deployment: Deployment, clients: Process, name: str, documents: int, size: int = SIZE, **changed: Any
) -> AsyncIterator[Stage]:
    """Run a worker on a database of its own, with so many documents of `size` bytes before its first event."""
    rows = (document(number, 0.0, size, n=0) for number in range(documents))
    async with tracked(deployment, name, rows, **changed) as (settings, stores, log):
        with running("worker", settings, deployment.directory) as worker:
            yield Stage(deployment, settings, stores, log, documents, clients, worker)


async def _based(stores: Stores) -> LogId | None:
    """Return the log once the collection has its base."""
    current = await stores.logs.current()
    based = current is not None and SHAPE in await stores.snapshots.stored.positions(current.id)
    return current.id if current and based else None
