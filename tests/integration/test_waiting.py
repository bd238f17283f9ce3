"""Processes that are there before their MongoDB: they wait for it, say so, and end at once at a signal."""

from __future__ import annotations

import asyncio
import math
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from support.environment import environment_with
from support.program import finished
from support.systems import Processes
from support.waiting import patience, within


@contextmanager
def running_mongod(directory: Path, port: int, *, alone: bool = False) -> Iterator[None]:
    """A mongod of the test's own; a replica set of one unless `alone`."""
    words = mongod.command(mongod.find_mongod(), directory, port)
    if alone:
        at = words.index("--replSet")
        del words[at : at + 4]  # and the oplog's size
    with (directory / "mongod.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, preexec_fn=die_with_parent)  # noqa: PLW1509 - no thread of ours runs yet
    try:
        if not alone:
            mongod.initiate(port)
        yield
    finally:
        process.terminate()
        process.wait(patience(20))


@pytest.fixture
def port() -> int:
    return mongod.free_port()


@pytest.fixture
async def processes(port: int, tmp_path: Path) -> AsyncIterator[Processes]:
    settings = Settings(mongodb_uri=mongod.uri(port), database="late", collections=("docs",), checkpoint_interval=0.1)
    found = Processes(settings, tmp_path)
    try:
        yield found
    finally:
        found.stop()


async def answer(url: str, path: str, wanted: Callable[[httpx.Response], bool]) -> httpx.Response:
    """The first answer that is as wanted."""
    async with within(30), httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        while True:
            with suppress(httpx.TransportError):
                found = await client.get(path)
                if wanted(found):
                    return found
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_server_and_a_worker_wait_for_mongodb_and_get_ready_when_it_comes(
    processes: Processes, port: int, tmp_path: Path
) -> None:
    processes.start("serve", "worker")
    await answer(processes.url, "/healthz", lambda found: found.status_code == 200)
    waiting = await answer(processes.url, "/readyz", lambda _: True)
    assert (waiting.status_code, waiting.json()["detail"]) == (503, "MongoDB was not reached yet")
    refused = await answer(processes.url, "/v1/collections/docs/documents/1", lambda _: True)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    (tmp_path / "data").mkdir()
    with running_mongod(tmp_path / "data", port):
        await answer(processes.url, "/readyz", lambda found: found.status_code == 200)
        for name in ("serve", "worker"):
            await said(processes, name, "MongoDB is reached")
            assert "MongoDB can't be reached" in processes.log(name)
        processes.stop()


async def test_a_waiting_process_ends_at_once_at_a_signal(processes: Processes) -> None:
    processes.start("serve", "worker")
    await answer(processes.url, "/healthz", lambda found: found.status_code == 200)
    await said(processes, "worker", "trying again")
    running = dict(processes._running)
    processes.signal(signal.SIGTERM, "serve", "worker")
    codes = {name: process.wait(patience(5)) for name, process in running.items()}
    assert codes == {"serve": 0, "worker": 0}
    assert "Traceback" not in processes.log("serve") + processes.log("worker")


async def test_a_health_file_is_touched_while_the_loop_of_a_worker_runs(port: int, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    processes = Processes(Settings(mongodb_uri=mongod.uri(port), health_file=file), tmp_path)
    processes.start("worker")
    try:
        await _touched(file, after=0)
        await _touched(file, after=file.stat().st_mtime_ns)
    finally:
        processes.stop()
    assert not file.exists()


async def test_a_health_file_that_can_not_be_written_ends_the_worker(port: int, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "alive"
    processes = Processes(Settings(mongodb_uri=mongod.uri(port), health_file=missing), tmp_path)
    processes.start("worker")
    assert await processes.ended("worker", seconds=60) == 2
    assert f"health_file {missing} can't be written: No such file" in processes.log("worker")


async def _touched(file: Path, *, after: int) -> None:
    async with within(60):
        while not file.exists() or file.stat().st_mtime_ns <= after:  # noqa: ASYNC110, ASYNC240 - another process's event
            await asyncio.sleep(0.02)


async def said(processes: Processes, name: str, text: str) -> None:
    async with within(20):
        while text not in processes.log(name):  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(0.02)


async def test_a_mongodb_that_turns_out_to_be_no_replica_set_ends_what_waited(
    processes: Processes, port: int, tmp_path: Path
) -> None:
    processes.start("serve", "worker")
    await answer(processes.url, "/healthz", lambda found: found.status_code == 200)
    await said(processes, "worker", "trying again")
    (tmp_path / "data").mkdir()
    with running_mongod(tmp_path / "data", port, alone=True):
        for name, process in processes._running.items():
            assert await asyncio.to_thread(process.wait, 20) == 2, name
            assert processes.log(name).splitlines()[-1] == (
                "eventsync: MongoDB can't be used: it is no member of a replica set 'rs0'"
            )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = mongod.free_port()
    with running_mongod(tmp_path_factory.mktemp("alone"), port, alone=True):
        selection = math.ceil(patience(20) * 1000)
        with MongoClient[Any]("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=selection) as client:
            client.admin.command("ping")
        yield port


NO_SET = "eventsync: MongoDB can't be used: it is no replica set; start it with --replSet and initiate it"
NO_MEMBER = "eventsync: MongoDB can't be used: it is no member of a replica set 'rs0'"


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize(("query", "line"), [("", NO_SET), ("?replicaSet=rs0", NO_MEMBER)])
async def test_no_replica_set_is_one_line_at_once(
    alone: int, command: str, query: str, line: str, tmp_path: Path
) -> None:
    assert await refusal(command, f"mongodb://127.0.0.1:{alone}/{query}", tmp_path) == [line]


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_wrong_password_is_one_line_at_once(mongodb_uri: str, command: str, tmp_path: Path) -> None:
    (line,) = await refusal(command, mongodb_uri.replace("://", "://ada:wrong@"), tmp_path)
    assert line.startswith("eventsync: MongoDB can't be used: it refuses the user or the password")


async def refusal(command: str, uri: str, directory: Path) -> list[str]:
    """Run a command that is refused; return its output without the lines from before MongoDB answered."""
    environment = environment_with(mongodb_uri=uri, port=0)
    done = await finished(command, environment=environment, directory=directory, seconds=patience(20))
    assert done.exit_code == 2, done.stderr
    return [line for line in done.stderr.splitlines() if "trying again" not in line]
