"""`python -m scripts.bench.clients`: the clients of a server, which do what is asked on the standard input."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import uvloop

from scripts.bench.clients.client import TRANSPORTS, Client, Puller, Scene
from scripts.bench.clients.exactness import History, Reader, WrongError
from scripts.bench.clients.processes import obey
from scripts.bench.report import percentiles
from scripts.bench.writers import DOCUMENTS, closed_loop, requesting
from support.identity import token

Answer = dict[str, Any]

_LOOK: Final = 0.02


class LoadGenerator:
    """The clients of one server, whose log is a `History`."""

    def __init__(self) -> None:
        self._scene = Scene(0, "", Reader(History(0)))
        self._clients: list[Client] = []
        self._pullers: list[Puller] = []

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
        self._scene = Scene(port, log, Reader(History(documents, overtaking)))
        return {}

    async def open(
        self,
        transport: str,
        count: int,
        seq: int | None,
        follow: str = "",
        *,
        timed: bool = False,
        at_once: int = 64,
        role: str = "",
    ) -> Answer:
        """Add clients that are at `seq`, or have nothing; answers once each is live. `at_once` of them connect.

        `follow`: each follows another `document`, or its `route`, and not the collection. With a `role` each is a
        principal of its own that has it, and may see its `document`.
        """
        began, used, places = time.monotonic(), time.process_time(), asyncio.Semaphore(at_once)
        history, make, route = self._scene.reader.history, TRANSPORTS[transport], follow == "route"
        documents = [number % history.documents if follow else None for number in range(count)]
        now, self._scene.reader.owned = time.time(), bool(role)
        tokens = [token(now=now, sub=f"{role}-{n}", role=role, owner=at) for n, at in enumerate(documents) if role]
        given = tokens or [""] * count
        added = [
            make(self._scene, seq, is_timed=timed, document=each, route=route, token=own)
            for each, own in zip(documents, given, strict=True)
        ]
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
        await self._until(self._clients, lambda client: client.replica.has_all(seq), seconds)
        inexact = sum(not client.replica.is_exact for client in self._clients)
        if inexact:
            raise WrongError(f"{inexact} clients have not counted each event once")
        events = sum(client.replica.events for client in self._clients)
        return {"at": time.monotonic(), "events": events, "frames": self._scene.frames}

    async def ends(self) -> Answer:
        """Return how many connections ended that were served, and attempts that failed."""
        return {"ends": self._scene.ends.total(), "refusals": self._scene.refusals.total()}

    async def flood(self, headers: dict[str, str], first: int, together: int, seconds: float) -> Answer:
        """Patch the documents from `first` on, `together` at a time; return how many a second."""

        def path(number: int) -> str:
            return f"{DOCUMENTS}/int:{first + number % together}"

        port = self._scene.port
        async with requesting(port, "PATCH", path, headers, lambda n, at: {"n": n, "at": at}, together) as write:
            return {"a second": len(await closed_loop(write, 0, together, seconds)) / seconds}

    async def pull(self, count: int, seq: int | None, seconds: float) -> Answer:
        """Connect that many at once that are at `seq`, or have nothing; answers once each is live."""
        began, used = time.monotonic(), time.process_time()
        self._pullers = pullers = [Puller(self._scene, seq) for _ in range(count)]
        await asyncio.gather(*(puller.come_back() for puller in pullers))
        await self._until(pullers, lambda puller: bool(puller.live_at), seconds)
        first, last = min(puller.first for puller in pullers), max(puller.live_at for puller in pullers)
        return {"first": first - began, "seconds": last - began, "cpu": time.process_time() - used}

    async def pulled(self) -> Answer:
        """Close them, and check what they received against the history: how many events each has."""
        pullers, self._pullers = self._pullers, []
        found = {(replica.seq, replica.events) for replica in (puller.check() for puller in pullers)}
        if len(found) != 1:
            raise WrongError(f"clients that began at the same place were brought to several: {found}")
        return {"events": found.pop()[1]}

    async def delays(self) -> Answer:
        """Return how late events came to the timed clients, in ms, since the last call."""
        found = [seconds * 1000 for seconds in self._scene.delays]
        self._scene.delays.clear()
        if not found:
            raise WrongError("no event was timed")
        return percentiles(found)

    async def _until(self, clients: Iterable[Client], done: Callable[[Any], bool], seconds: float) -> None:
        scene, deadline = self._scene, time.monotonic() + seconds
        # Many flags of many clients: looking is cheaper than waiting for each.
        while not scene.wrong and (late := [client for client in clients if not done(client)]):
            if time.monotonic() >= deadline:
                seqs = sorted({client.replica.seq or 0 for client in late})
                raise WrongError(
                    f"{len(late)} clients are not there after {seconds:g} s, at {seqs[:3]} to {seqs[-1:]}; "
                    f"refused {dict(scene.refusals)}, cut {dict(scene.ends)}"
                )
            await asyncio.sleep(_LOOK)
        if scene.wrong:
            raise WrongError(f"{len(scene.wrong)} clients, the first: {scene.wrong[0]}")


if __name__ == "__main__":
    random.seed(1)
    uvloop.run(obey(LoadGenerator()))
