"""`eventsync dev` as a person uses it: start, Ctrl-C, and failures in between."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.dev.mongod import free_port
from support.environment import environment_with
from support.identity import secret_file
from support.waiting import patience, within

Dev = Callable[..., AbstractAsyncContextManager["Running"]]


class Running:
    """An `eventsync dev` and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, directory: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.data = directory / ".eventsync"
        self.said = ""
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            self.said += line.decode()
            self._heard.set()

    async def says(self, text: str, *, times: int = 1) -> None:
        """Wait until it has said `text` so many times."""
        try:
            async with within(30):
                while len(re.findall(text, self.said)) < times:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            pytest.fail(f"{text!r} was not said:\n{self.said}")

    async def ended(self) -> int:
        async with within(20):
            return await self.process.wait()

    def children(self) -> dict[str, int]:
        """Its living children by the word that tells them apart on their command lines."""
        found: dict[str, int] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            words = command_line(int(entry.name))
            if words and parent(int(entry.name)) == self.process.pid:
                names = {Path(word).name for word in words}
                found[next(name for name in ("serve", "worker", "mongod") if name in names)] = int(entry.name)
        return found

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=patience(10)).raise_for_status().json()


def command_line(pid: int) -> list[str]:
    """Empty for a process that is gone, or dead and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


async def gone(*pids: int) -> None:
    """Wait until none of these runs."""
    async with within(10):
        while any(command_line(pid) for pid in pids):  # noqa: ASYNC110 - for a child that is not ours there is no event
            await asyncio.sleep(0.02)


def eventsync(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "eventsync", *words]
    return subprocess.run(
        command,
        cwd=directory,
        env=environment_with(),
        capture_output=True,
        text=True,
        timeout=patience(20),
        check=False,
    )


def refusal(directory: Path, *words: str) -> str:
    """The one line by which a command that can't be done is refused."""
    done = eventsync(directory, *words)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `dev` of a test is no other command's, and finds no other."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def dev(tmp_path: Path) -> Dev:
    @asynccontextmanager
    async def running(*words: str) -> AsyncIterator[Running]:
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "eventsync", "dev", "--port", str(port), *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment_with(),
            cwd=tmp_path,
        )
        found = Running(process, port, tmp_path)
        listening = asyncio.create_task(found.listen(), name="listen")
        try:
            yield found
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await listening

    return running


async def test_one_command_runs_everything_and_the_data_stays(dev: Dev, tmp_path: Path) -> None:
    async with dev() as running:
        await running.says("ready after")
        children = running.children()
        assert set(children) == {"serve", "worker", "mongod"}
        assert f"curl -N '{running.url}/v1/sync/sse?shape=theaters'" in running.said
        # In another terminal, in whatever directory, the other commands find what runs here.
        (tmp_path / "elsewhere").mkdir()
        status = json.loads(eventsync(tmp_path, "status", "--json").stdout)
        assert json.loads(eventsync(tmp_path / "elsewhere", "status", "--json").stdout)["log"] == status["log"]
        for path in (running.data, *running.data.rglob("*")):
            assert not stat.S_IMODE(path.lstat().st_mode) & 0o077 or path.is_symlink(), path
        await ends(running, signal.SIGTERM, children)
        assert not (running.data / "eventsync.toml").exists()

    async with dev("--collections", "orders") as running:
        await running.says("ready after")
        assert "loaded 40 demo documents" not in running.said
        assert len(running.get("/v1/collections/theaters/documents?limit=100")["documents"]) == 40
        assert running.get("/readyz")["position"].partition(":")[0] == status["log"]["id"]
        await each_child_is_started_again(running)
        await ends(running, signal.SIGINT, running.children())


async def each_child_is_started_again(running: Running) -> None:
    before = running.children()
    for word in ("worker", "serve", "mongod"):
        os.kill(before[word], signal.SIGKILL)
    for name in ("worker", "server", "mongod"):
        await running.says(f"{name} was killed by SIGKILL; starting it again")
    await running.says("listening on", times=2)
    await running.says(": sequencing .*theaters.* from 40", times=2)
    after = running.children()
    assert set(after) == {"serve", "worker", "mongod"}
    assert not set(after.values()) & set(before.values())


async def ends(running: Running, number: signal.Signals, children: dict[str, int]) -> None:
    """The signal ends it in order, and everything with it."""
    running.process.send_signal(number)
    assert await running.ended() == 0
    assert not any(map(command_line, children.values()))
    assert "Traceback" not in running.said


@pytest.mark.slow
async def test_a_second_one_is_refused_and_one_that_is_killed_leaves_nothing_behind(dev: Dev, tmp_path: Path) -> None:
    async with dev("--no-demo") as running:
        await running.says("ready after")
        port = running.url.rpartition(":")[2]
        assert "choose another with --port" in refusal(tmp_path, "dev", "--port", port, "--data-dir", "other")
        assert f"(process {running.process.pid})" in refusal(tmp_path, "dev", "--port", "0")
        children = running.children()
        assert set(children) == {"serve", "worker", "mongod"}
        assert (running.data / "eventsync.toml").exists()
        running.process.kill()
        await running.ended()
        await gone(*children.values())

    async with dev() as running:
        await running.says("worker │")
        # Ctrl-C before it is ready.
        await ends(running, signal.SIGINT, running.children())


RULES = """
[auth]
issuers = [{ iss = "backend", secret_file = "SECRET", algorithms = ["HS256"] }]

[collections."*".operator]
read = true
create = true
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
async def test_under_rules_a_key_is_made_and_the_command_that_is_printed_works(
    dev: Dev, tmp_path: Path, mongodb_uri: str, database_name: str
) -> None:
    (tmp_path / "rules.toml").write_text(RULES.replace("SECRET", str(secret_file(tmp_path))))
    keys = []
    for _ in range(2):
        async with dev(
            *("--mongodb-uri", mongodb_uri, "--database", database_name, "--collections", "orders", "--no-demo")
        ) as running:
            await running.says("ready after")
            await running.says("read    curl ")
            (command,) = re.findall(r"read    (curl .*)$", running.said, re.MULTILINE)
            url = f"{running.url}/v1/collections/orders/documents"
            assert (await asyncio.to_thread(httpx.get, url, timeout=patience(10))).status_code == 401
            done = await asyncio.to_thread(_shell, f"{command} -sS --fail --retry 20", tmp_path)  # 503 until active
            assert (done.returncode, json.loads(done.stdout or "null")) == (0, {"documents": []}), done
            keys.append((running.data / "key").read_text().strip())
            assert stat.S_IMODE((running.data / "key").stat().st_mode) == 0o600
            assert keys[0] not in running.said
            await ends(running, signal.SIGTERM, running.children())
    assert keys[0] == keys[1]


def _shell(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    # As a person pastes it into another terminal.
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=directory, capture_output=True, text=True, timeout=patience(20), check=False
    )


@pytest.mark.slow
async def test_with_a_mongodb_of_the_users_own(dev: Dev, mongodb_uri: str, database_name: str) -> None:
    async with dev("--mongodb-uri", mongodb_uri, "--database", database_name, "--no-demo") as running:
        await running.says("ready after")
        children = running.children()
        assert set(children) == {"serve", "worker"}
        await ends(running, signal.SIGHUP, children)
