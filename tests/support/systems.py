"""Running parts of the system: in this process, where a test looks inside, or as processes, where it kills them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx

from eventsync.dev import mongod
from eventsync.main import make_server
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.server.uvicorn_server import Server
from eventsync.settings import Settings
from eventsync_workers.worker import Worker
from support.environment import environment_of
from support.program import Program
from support.replica import log_of
from support.waiting import eventually, patience, within


@asynccontextmanager
async def running_worker(settings: Settings) -> AsyncIterator[None]:
    """A worker in this process while the block runs. It is stopped as SIGTERM stops it."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        working = group.create_task(Worker(settings, stop).run(), name="worker")
        try:
            yield
        finally:
            stop.set()
            await working  # here, because the group would cancel it where the block has failed


@asynccontextmanager
async def running_server(settings: Settings, *, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A server in this process while the block runs, on a port of its own unless one is named. Gives its URL."""
    async with serving(settings, port=port, host=host) as server:
        yield server.url


@asynccontextmanager
async def serving(settings: Settings, *, port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """The same, for a test that looks inside."""
    # Until it knows which rules are in force, a server refuses everybody.
    server = make_server(settings.model_copy(update={"host": host, "port": port}), head_start=patience(2))
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(), name="server")
        ready = group.create_task(server.ready.wait(), name="server is ready")
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not server.started:
            ready.cancel()
            raise RuntimeError("the server did not start")
        try:
            yield server
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def running_system(settings: Settings) -> AsyncIterator[str]:
    """A worker and a server, with the collections of `settings` tracked. Gives the server's URL."""
    async with running_worker(settings), running_server(settings) as url:
        await tracked(url, settings.collections)
        yield url


async def tracked(url: str, names: Iterable[str], *, seconds: float = 20.0) -> None:
    """Wait until the server at `url` is ready, a worker leads, and these collections are served."""
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        await eventually(lambda: _tracked(client, set(names)), seconds)


async def _tracked(client: httpx.AsyncClient, names: set[str]) -> bool:
    try:
        answer = await client.get("/v1/collections")
        ready = await client.get("/readyz")
    except httpx.TransportError:
        return False
    served = {item["name"] for item in answer.json().get("collections", ())}
    return ready.status_code == 200 and ready.json()["sequencer_live"] and names <= served


async def followed(url: str, *, seconds: float = 10.0) -> None:
    """Wait until the server at `url` has read the log."""
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client, within(seconds):
        while not (await client.get("/readyz")).json().get("position"):
            continue


async def head(url: str) -> str:
    """The position that this server has come to."""
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        return str((await client.get("/readyz")).json()["position"])


async def barrier(url: str) -> str:
    """A position at or past every write that is acknowledged now, also past those that are made directly."""
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        found = (await client.post("/v1/barrier", json={})).raise_for_status().json()
    return f"{found['log']}:{found['seq']}"


class Processes:
    """`eventsync serve` and `eventsync worker` as processes of their own, which a test may kill.

    Each has a name, whose letters are its command: `serve`, `worker2`. Its output is in `<name>.log` in `directory`.
    """

    def __init__(self, settings: Settings, directory: Path, *, fresh: bool = False) -> None:
        """`fresh`: each begins as an interpreter of its own, for a test that measures memory or preloads a library."""
        self._fresh = fresh
        self.port = mongod.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = settings
        self._directory = directory
        self._running: dict[str, Program | subprocess.Popen[bytes]] = {}

    def start(self, *names: str, command: str | None = None, options: Iterable[str] = ()) -> None:
        """Start these processes. `command`: theirs, where the name does not say it."""
        for name in names:
            words = [command or name.rstrip("0123456789"), *options]
            with self._log(name).open("ab") as log:
                self._running[name] = self._started(words, self._environment(name), log)

    def _environment(self, name: str) -> dict[str, str]:  # noqa: ARG002 - the same for all, here
        return environment_of(self._settings, self.port)

    def _started(
        self, words: list[str], environment: dict[str, str], log: IO[bytes]
    ) -> Program | subprocess.Popen[bytes]:
        if not self._fresh:
            return Program(words, environment=environment, directory=self._directory, stdout=log, stderr=log)
        return subprocess.Popen(
            [sys.executable, "-m", "eventsync", *words],
            cwd=self._directory,
            env=environment,
            stdout=log,
            stderr=log,
            # Not SIGTERM, which a frozen process would not take.
            preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),  # noqa: PLW1509
        )

    def signal(self, number: signal.Signals, *names: str) -> None:
        for name in names:
            self._running[name].send_signal(number)

    def kill(self, *names: str) -> None:
        """kill -9, and wait until it is dead."""
        self.signal(signal.SIGKILL, *names)
        for name in names:
            self._running.pop(name).wait(patience(10))

    def stop(self) -> None:
        """End whatever runs, in order."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(patience(20))
        self._running.clear()

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def children(self, name: str) -> set[int]:
        """Return the ids of a process's children."""
        parent = self.pid(name)
        return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}

    async def ended(self, name: str, *, seconds: float) -> int:
        """Wait until a process has ended, by itself or by a signal; return its exit code. It may be started again."""
        code = await asyncio.to_thread(self._running[name].wait, seconds)
        del self._running[name]
        return code

    async def said(self, name: str, text: str, *, times: int = 1, seconds: float = 30.0) -> None:
        """Wait until a process has logged `text` so many times."""
        await eventually(lambda: self.log(name).count(text) >= times, seconds)

    def log(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


async def events_of(url: str, shape: str, count: int, *, seconds: float = 10.0) -> list[dict[str, Any]]:
    """The first events of a shape since the log's beginning, as soon as there are `count`."""
    events: list[dict[str, Any]] = []
    async with within(seconds), httpx.AsyncClient(base_url=url, timeout=patience(seconds)) as client:
        position = log_of((await client.get("/readyz")).json()["position"]) + ":0"
        while len(events) < count:
            query: dict[str, str | int] = {"shape": shape, "position": position, "wait": 5}
            page = (await client.get("/v1/sync/log", params=query)).raise_for_status().json()
            events, position = events + page["events"], page["to"]
    return events


MIB = 1024 * 1024


@dataclass
class Growth:
    """Bytes by which a process grew at its peak; known once the block has ended."""

    bytes: int = 0


@contextmanager
def growth(pid: int) -> Iterator[Growth]:
    """Measure the peak of the resident memory of a process while the block runs."""
    # Sets the peak back to what is resident now (proc(5), "clear_refs").
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = _status(pid, "VmRSS")
    found = Growth()
    yield found
    found.bytes = _status(pid, "VmHWM") - before


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(f"process {pid} has no {field}")
