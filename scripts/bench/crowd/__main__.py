"""`python -m scripts.bench.crowd`: the clients of a server, which do what is asked on the standard input."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

import uvloop

from scripts.bench.crowd import wire
from scripts.bench.crowd.client import SHAPE, TRANSPORTS, Client, Scene
from scripts.bench.crowd.history import History, Overtaking
from scripts.bench.crowd.messages import Reader, WrongError
from scripts.bench.crowd.process import obey
from scripts.bench.crowd.puller import Puller
from scripts.bench.crowd.replica import Replica
from scripts.bench.percentiles import percentiles

Answer = dict[str, Any]

_LOOK: Final = 0.02
_AT_ONCE: Final = 64
"""Connections that are being made at a time, where nothing else is asked for."""


class Crowd:
    """The clients of one server, whose log is a `History`."""

    def __init__(self) -> None:
        self._scene = Scene(0, "", Reader(History(0)))
        self._clients: list[Client] = []
        self._pullers: list[tuple[Puller, Replica]] = []

    async def begin(self, port: int, log: str, documents: int, *, overtaking: bool = False) -> Answer:
        """Close all clients, and be for the server at `port`, whose log is `log`, a `History(documents)`.

        `overtaking`: several write at a time, so the events come in another order than they are numbered.
        """
        self._scene.comes_back = False
        for client in self._clients:
            client.close()
        for task in list(self._scene.tasks):
            task.cancel()
        self._clients = []
        self._scene = Scene(port, log, Reader((Overtaking if overtaking else History)(documents)))
        return {}

    async def open(
        self, transport: str, count: int, seq: int | None, *, timed: bool = False, at_once: int = _AT_ONCE
    ) -> Answer:
        """Add clients that are at `seq`, or have nothing; answers once each is live."""
        scene, began, used = self._scene, time.monotonic(), time.process_time()
        places, kind = asyncio.Semaphore(at_once), TRANSPORTS[transport]
        added = [kind(scene, Replica(scene.reader.history, seq), is_timed=timed) for _ in range(count)]
        self._clients += added

        async def enter(client: Client) -> None:
            async with places:
                await client.come_back()
                await self._until([client], lambda one: one.replica.live, 60.0)

        async with asyncio.TaskGroup() as group:
            for client in added:
                group.create_task(enter(client), name="enter")
        took = sorted(client.live_at - began for client in added)
        return {"p50": took[len(took) // 2], "seconds": took[-1], "cpu": time.process_time() - used}

    async def exact(self, seq: int, seconds: float) -> Answer:
        """Wait until everybody is exactly at `seq`, and check that each has counted every event once."""
        await self._until(self._clients, lambda client: client.replica.seq == seq, seconds)
        inexact = sum(not client.replica.is_exact for client in self._clients)
        if inexact:
            raise WrongError(f"{inexact} clients have not counted each event once")
        events = sum(client.replica.events for client in self._clients)
        return {"at": time.monotonic(), "events": events, "frames": self._scene.frames}

    async def pull(self, count: int, seq: int | None, seconds: float) -> Answer:
        """Connect that many at once that are at `seq`, or have nothing; answers once each is live."""
        scene, used, began = self._scene, time.process_time(), time.monotonic()
        loop, position = asyncio.get_running_loop(), None if seq is None else f"{scene.log}:{seq}"
        pullers = [Puller(wire.upgrade(scene.port), wire.hello(SHAPE, position)) for _ in range(count)]
        self._pullers = [(puller, Replica(scene.reader.history, seq)) for puller in pullers]

        async def one(puller: Puller) -> None:
            await loop.create_connection(lambda: puller, "127.0.0.1", scene.port)
            await puller.is_live

        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for puller in pullers:
                group.create_task(one(puller), name="pull")
        first, last = min(puller.first for puller in pullers), max(puller.done for puller in pullers)
        return {"first": first - began, "seconds": last - began, "cpu": time.process_time() - used}

    async def pulled(self) -> Answer:
        """Close them, and check what they received against the history: how many events each has."""
        replicas = []
        for puller, replica in self._pullers:
            puller.close()
            replicas.append(puller.replica(self._scene.reader, replica))
        self._pullers = []
        if not all(replica.is_exact for replica in replicas) or len({replica.seq for replica in replicas}) != 1:
            raise WrongError("they were not brought to the same place by each event once")
        return {"events": replicas[0].events}

    async def delays(self) -> Answer:
        """Return how late events came to the timed clients, in ms, since the last call."""
        found = [seconds * 1000 for seconds in self._scene.delays]
        self._scene.delays.clear()
        if not found:
            raise WrongError("no event was timed")
        return percentiles(found)

    async def _until(self, clients: list[Client], done: Callable[[Client], bool], seconds: float) -> None:
        scene, deadline = self._scene, time.monotonic() + seconds
        # Many flags of many clients: looking is cheaper than waiting for each.
        while not scene.wrong and not all(map(done, clients)):
            if time.monotonic() >= deadline:
                late = [client for client in clients if not done(client)]
                seqs = sorted({client.replica.seq or 0 for client in late})
                raise WrongError(
                    f"{len(late)} of {len(clients)} are not there after {seconds:g} s, at {seqs[:3]} to {seqs[-1:]}; "
                    f"refused {dict(scene.refusals)}, cut {dict(scene.ends)}"
                )
            await asyncio.sleep(_LOOK)
        if scene.wrong:
            raise WrongError(f"{len(scene.wrong)} clients, the first: {scene.wrong[0]}")


if __name__ == "__main__":
    random.seed(1)
    uvloop.run(obey(Crowd()))
