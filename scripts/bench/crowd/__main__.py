"""`python -m scripts.bench.crowd`: a crowd that does what it is asked, a JSON line each, and answers with a JSON line.

`{"do": NAME, …}` is the method `NAME` of `Crowd` with its arguments; `{"wrong": TEXT}` instead of an answer says what
was not exact, or why it could not be done.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterable
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
    """The clients of one server, in groups: `silent` ones do not read, the others do."""

    def __init__(self) -> None:
        self._scene: Scene | None = None
        self._clients: list[Client] = []
        self._silent: list[Client] = []
        self._released = 0.0
        self._pulled: list[tuple[Puller, Replica]] = []

    @property
    def scene(self) -> Scene:
        if self._scene is None:
            raise WrongError("nothing has begun")
        return self._scene

    async def begin(self, port: int, log: str, documents: int, *, overtaking: bool = False) -> Answer:
        """Forget everybody, and be for the server at `port`, whose log is `log`, a `History(documents)`.

        `overtaking`: several write at a time, so the events come in another order than they are numbered.
        """
        if self._scene is not None:
            self._scene.comes_back = False
            for client in [*self._clients, *self._silent]:
                client.close()
            for task in list(self._scene.tasks):
                task.cancel()
        self._clients, self._silent = [], []
        self._scene = Scene(port, log, Reader((Overtaking if overtaking else History)(documents)))
        self._scene.gate.set()
        return {}

    async def open(
        self, transport: str, count: int, seq: int | None, *, timed: bool = False, at_once: int = _AT_ONCE
    ) -> Answer:
        """Add clients that are at `seq`, or have nothing; answers once each is live."""
        began, used, places = time.monotonic(), time.process_time(), asyncio.Semaphore(at_once)
        self._released = began
        added = self._made(transport, count, seq, timed=timed)
        self._clients += added
        self.scene.comes_back = True

        async def enter(client: Client) -> None:
            async with places:
                await client.come_back()
                await _until(lambda: client.replica.live, 60.0)

        async with asyncio.TaskGroup() as group:
            for client in added:
                group.create_task(enter(client), name="enter")
        return self._since(began, added) | {"cpu": time.process_time() - used}

    async def add(self, transport: str, count: int, seq: int | None) -> Answer:
        """Add clients that wait for the release."""
        added = self._made(transport, count, seq)
        self._clients += added
        self.scene.comes_back = True
        self.scene.gate.clear()
        for client in added:
            self.scene.spawn(client)
        return {}

    async def open_silent(self, transport: str, count: int, seq: int) -> Answer:
        """Add clients that say hello and never read again."""
        added = self._made(transport, count, seq)
        self._silent += added
        for client in added:
            await client.connect()
        await _until(lambda: all(client.replica.live for client in added), 60.0)
        for client in added:
            if client.transport is not None:
                client.transport.pause_reading()
        return {}

    async def drain(self, seconds: float) -> Answer:
        """Have the silent ones read what is there, until their connections have ended: how, and how many did not."""
        self.scene.comes_back = False
        if self.scene.ends:
            raise WrongError(f"clients that read were cut: {self._counted()}")
        for client in self._silent:
            if client.transport is not None:
                client.transport.resume_reading()
        await _happens(lambda: not any(client.is_open for client in self._silent), seconds)
        return {"ends": dict(self.scene.ends), "open": sum(client.is_open for client in self._silent)}

    async def hold(self) -> Answer:
        """From now on, who loses the connection waits; the counts begin anew."""
        self.scene.gate.clear()
        self.scene.ends.clear()
        self.scene.refusals.clear()
        return {}

    async def ended(self, seconds: float) -> Answer:
        """Wait until everybody's connection has ended; answers how."""
        await _until(lambda: not any(client.is_open for client in self._clients), seconds)
        return {"ends": dict(self.scene.ends), "at": time.monotonic()}

    async def release(self, seconds: float) -> Answer:
        """Let those that wait connect, all at once, as soon as somebody listens."""
        async with asyncio.timeout(seconds):
            while not await _listens(self.scene.port):  # noqa: ASYNC110 - no event of ours tells
                await asyncio.sleep(0.005)  # the server is another process
        self._released = time.monotonic()
        self.scene.gate.set()
        return {}

    async def caught_up(self, seq: int, seconds: float) -> Answer:
        """Wait until everybody is live, at `seq` or beyond: how long that took since the release, how many are late."""

        def done(client: Client) -> bool:
            return client.replica.live and (client.replica.seq or 0) >= seq

        await _happens(lambda: bool(self.scene.wrong) or all(map(done, self._clients)), seconds)
        late = sum(not done(client) for client in self._clients)
        return self._since(self._released, self._clients) | {"late": late}

    async def exact(self, seq: int, seconds: float) -> Answer:
        """Wait until everybody is exactly at `seq`, and check that each has counted every event once."""
        await self._until_all(lambda client: client.replica.seq == seq, seconds)
        inexact = sum(not client.replica.is_exact for client in self._clients)
        if inexact:
            raise WrongError(f"{inexact} clients have not counted each event once")
        return {
            "at": time.monotonic(),
            "events": sum(client.replica.events for client in self._clients),
            "ways": sorted(set[str]().union(*(client.replica.ways for client in self._clients))),
            "bytes": self.scene.received,
            "frames": self.scene.frames,
        } | self._counted()

    async def pull(self, count: int, seq: int | None, seconds: float) -> Answer:
        """Connect that many at once that are at `seq`, or have nothing; answers once each was told that it is live."""
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
        """Close them, and hold what they were told against the history: how many events each was, and the ways."""
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

    def _made(self, transport: str, count: int, seq: int | None, *, timed: bool = False) -> list[Client]:
        history, kind = self.scene.reader.history, TRANSPORTS[transport]
        return [kind(self.scene, Replica(history, seq), is_timed=timed) for _ in range(count)]

    async def _until_all(self, done: Callable[[Client], bool], seconds: float) -> None:
        if not await _happens(lambda: bool(self.scene.wrong) or all(map(done, self._clients)), seconds):
            late = [client for client in self._clients if not done(client)]
            seqs = sorted({client.replica.seq or 0 for client in late})
            raise WrongError(
                f"{len(late)} of {len(self._clients)} are not there after {seconds:g} s, "
                f"{sum(client.is_open for client in late)} of them connected; at {seqs[:3]} to {seqs[-1:]}; "
                f"{self._counted()}"
            )

    def _since(self, began: float, clients: Iterable[Client]) -> Answer:
        """Return how long the clients took since `began`. A client that is not live yet counts as live now."""
        now = time.monotonic()
        took = sorted((client.live_at if client.replica.live else now) - began for client in clients)
        spread = {"p50": took[len(took) // 2], "seconds": took[-1]} if took else {"p50": 0.0, "seconds": 0.0}
        return spread | self._counted()

    def _counted(self) -> Answer:
        return {"refusals": dict(self.scene.refusals), "ends": dict(self.scene.ends)}


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


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def main() -> None:
    """Until the end of the input."""
    random.seed(1)
    crowd, reader = Crowd(), asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        asked = orjson.loads(line)
        try:
            answer = await getattr(crowd, asked.pop("do"))(**asked)
            # Whatever was asked: what is wrong is told with the next answer.
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
