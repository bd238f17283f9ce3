"""`python -m scripts.bench.crowd`: the clients of a server, which do what a JSON line asks, and answer with one.

`{"do": NAME, …}` is the method `NAME` of `Crowd` with its arguments; `{"wrong": TEXT}` instead of an answer says what
was not exact, or why it could not be done.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import uvloop

from scripts.bench.crowd import wire
from scripts.bench.crowd.client import SHAPE, TRANSPORTS, Client, Scene
from scripts.bench.crowd.history import History, Overtaking
from scripts.bench.crowd.messages import Reader, WrongError
from scripts.bench.crowd.puller import Puller
from scripts.bench.crowd.replica import Replica
from scripts.bench.percentiles import percentiles

Answer = dict[str, Any]

_LOOK = 0.02
_AT_ONCE = 64
"""Connections that are being made at a time, where nothing else is asked for."""


class Crowd:
    """The clients of one server."""

    def __init__(self) -> None:
        self._scene: Scene | None = None
        self._clients: list[Client] = []
        self._pulled: list[tuple[Puller, Replica]] = []

    @property
    def scene(self) -> Scene:
        if self._scene is None:
            raise WrongError("nothing has begun")
        return self._scene

    async def begin(self, port: int, log: str, documents: int, *, overtaking: bool = False) -> Answer:
        """Close all clients, and be for the server at `port`, whose log is `log`, a `History(documents)`.

        `overtaking`: several write at a time, so the events come in another order than they are numbered.
        """
        if self._scene is not None:
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
        scene, began, used = self.scene, time.monotonic(), time.process_time()
        places, kind = asyncio.Semaphore(at_once), TRANSPORTS[transport]
        added = [kind(scene, Replica(scene.reader.history, seq), is_timed=timed) for _ in range(count)]
        self._clients += added
        scene.comes_back = True

        async def enter(client: Client) -> None:
            async with places:
                await client.come_back()
                await _until(lambda: client.replica.live, 60.0)

        async with asyncio.TaskGroup() as group:
            for client in added:
                group.create_task(enter(client), name="enter")
        took = sorted(client.live_at - began for client in added)
        return {"p50": took[len(took) // 2], "seconds": took[-1], "cpu": time.process_time() - used}

    async def exact(self, seq: int, seconds: float) -> Answer:
        """Wait until everybody is exactly at `seq`, and check that each has counted every event once."""
        await self._until_all(lambda client: client.replica.seq == seq, seconds)
        inexact = sum(not client.replica.is_exact for client in self._clients)
        if inexact:
            raise WrongError(f"{inexact} clients have not counted each event once")
        events = sum(client.replica.events for client in self._clients)
        return {"at": time.monotonic(), "events": events, "bytes": self.scene.received, "frames": self.scene.frames}

    async def pull(self, count: int, seq: int | None, seconds: float) -> Answer:
        """Connect that many at once that are at `seq`, or have nothing; answers once each is live."""
        scene, used, began = self.scene, time.process_time(), time.monotonic()
        loop, told = asyncio.get_running_loop(), None if seq is None else f"{self.scene.log}:{seq}"
        pullers = [Puller(wire.upgrade(scene.port), wire.hello(SHAPE, told)) for _ in range(count)]
        self._pulled = [(puller, Replica(scene.reader.history, seq)) for puller in pullers]
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for puller in pullers:
                group.create_task(_pull(loop, puller, scene.port), name="pull")
        took = sorted(puller.done - began for puller in pullers)
        return {
            "first": min(puller.first for puller in pullers) - began,
            "p50": took[len(took) // 2],
            "seconds": took[-1],
            "bytes": sum(puller.bytes for puller in pullers),
            "cpu": time.process_time() - used,
        }

    async def pulled(self) -> Answer:
        """Close them, and check what they received against the history: how many events each has, and the ways."""
        replicas = []
        for puller, replica in self._pulled:
            puller.close()
            replicas.append(puller.replica(self.scene.reader, replica))
        self._pulled = []
        if not all(replica.is_exact for replica in replicas) or len({replica.seq for replica in replicas}) != 1:
            raise WrongError("they were not brought to the same place by each event once")
        ways = sorted(set[str]().union(*(replica.ways for replica in replicas)))
        return {"seq": replicas[0].seq, "events": replicas[0].events, "ways": ways}

    async def delays(self) -> Answer:
        """Return how late events came to the timed clients, in ms, since the last call."""
        found = [seconds * 1000 for seconds in self.scene.delays]
        self.scene.delays.clear()
        if not found:
            raise WrongError("no event was timed")
        return {"count": len(found), "most": max(found)} | percentiles(found)

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _until_all(self, done: Callable[[Client], bool], seconds: float) -> None:
        if not await _happens(lambda: bool(self.scene.wrong) or all(map(done, self._clients)), seconds):
            late = [client for client in self._clients if not done(client)]
            seqs = sorted({client.replica.seq or 0 for client in late})
            raise WrongError(
                f"{len(late)} of {len(self._clients)} are not there after {seconds:g} s, "
                f"{sum(client.is_open for client in late)} of them connected; at {seqs[:3]} to {seqs[-1:]}; "
                f"refused {dict(self.scene.refusals)}, cut {dict(self.scene.ends)}"
            )


async def _pull(loop: asyncio.AbstractEventLoop, puller: Puller, port: int) -> None:
    await loop.create_connection(lambda: puller, "127.0.0.1", port)
    await puller.is_live


async def _happens(look: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:  # noqa: ASYNC110 - see below
        await asyncio.sleep(_LOOK)  # many flags of many clients: looking is cheaper than being told
    return found


async def _until(look: Callable[[], bool], seconds: float) -> None:
    if not await _happens(look, seconds):
        raise WrongError(f"it has not happened after {seconds:g} s")


async def main() -> None:
    """Until the end of the input."""
    random.seed(1)
    crowd, reader = Crowd(), asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        asked = orjson.loads(line)
        try:
            answer = await getattr(crowd, asked.pop("do"))(**asked)
            # What was wrong in between is said with the next answer.
            if crowd.scene.wrong:
                answer = {"wrong": f"{len(crowd.scene.wrong)} clients, the first: {crowd.scene.wrong[0]}"}
        except (WrongError, OSError, TimeoutError) as error:
            answer = {"wrong": f"{asked}: {str(error) or type(error).__name__}"}
        except BaseExceptionGroup as group:
            answer = {"wrong": f"{asked}: {group.exceptions[0]}; {len(group.exceptions)} of them"}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(main())
