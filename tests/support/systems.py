"""Running parts of the system: in this process, where a test looks inside, or as processes, where it kills them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from eventsync.dev import mongod
from eventsync.main import make_server
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from eventsync_workers.worker import Worker
from support.program import Program
from support.waiting import patience, within


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
    server = make_server(settings.model_copy(update={"host": host, "port": port}))
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(), name="server")
        ready = group.create_task(server.ready.wait(), name="server is ready")
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        if not server.started:
            ready.cancel()
            raise RuntimeError("the server did not start")
        try:
            yield server.url
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
    async with within(seconds), httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        while not await _tracked(client, set(names)):  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.02)


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
        while not (await client.get("/readyz")).json()["position"]:
            continue


async def head(url: str) -> str:
    """The position that this server has come to."""
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        return str((await client.get("/readyz")).json()["position"])


class Processes:
    """`eventsync serve` and `eventsync worker` as processes of their own, which a test may kill."""

    def __init__(self, settings: Settings, directory: Path, *, fresh: bool = False) -> None:
        """`fresh`: their memory is measured, so they begin as an interpreter of their own."""
        self._fresh = fresh
        self.port = mongod.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._environment = environment_of(settings, self.port)
        self._running: dict[str, Program | subprocess.Popen[bytes]] = {}

    def start(self, *words: str, name: str | None = None, options: Iterable[str] = ()) -> None:
        """Start these commands, each under its own word, or a single one under another `name`."""
        for word in words:
            with self._log(name or word).open("ab") as log:
                self._running[name or word] = self._started([word, *options], log)

    def _started(self, words: list[str], log: IO[bytes]) -> Program | subprocess.Popen[bytes]:
        if not self._fresh:
            return Program(words, environment=self._environment, directory=self._directory, stdout=log, stderr=log)
        return subprocess.Popen(
            [sys.executable, "-m", "eventsync", *words],
            cwd=self._directory,
            env=self._environment,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
        )

    def signal(self, number: signal.Signals, *words: str) -> None:
        for word in words:
            self._running[word].send_signal(number)

    def kill(self, *words: str) -> None:
        """kill -9, and wait until it is dead."""
        self.signal(signal.SIGKILL, *words)
        for word in words:
            self._running.pop(word).wait(patience(10))

    def stop(self) -> None:
        """End whatever runs, in order."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(patience(20))
        self._running.clear()

    def pid(self, word: str) -> int:
        """The id of a process."""
        return self._running[word].pid

    def children(self, word: str) -> set[int]:
        """The ids of its children."""
        parent = self._running[word].pid
        return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}

    async def ended(self, word: str, *, seconds: float) -> int:
        """Its exit code, once it has ended, by itself or told to. It may be started again."""
        code = await asyncio.to_thread(self._running[word].wait, seconds)
        del self._running[word]
        return code

    async def said(self, word: str, text: str, *, times: int = 1, seconds: float = 30.0) -> None:
        """Wait until it has logged `text` so many times."""
        async with within(seconds):
            while self.log(word).count(text) < times:  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(0.02)

    def log(self, word: str) -> str:
        return self._log(word).read_text()

    def _log(self, word: str) -> Path:
        return self._directory / f"{word}.log"


def environment_of(settings: Settings, port: int) -> dict[str, str]:
    """Return the environment of a process with these settings."""
    given: dict[str, Any] = settings.model_dump(exclude_defaults=True) | {"port": port}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
    for name, value in given.items():
        environment[f"EVENTSYNC_{name.upper()}"] = ",".join(value) if isinstance(value, tuple) else str(value)
    return environment
