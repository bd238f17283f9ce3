"""The supervisor, over servers that do nothing but say which process they are."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from eventsync.errors import ConfigurationError
from eventsync.server.sockets import listening
from eventsync.server.supervision.server_processes import ServerProcesses, ServerSpec
from support.waiting import within

SERVER = """
import os, pathlib, select, signal, socket, sys
def option(name): return int(sys.argv[sys.argv.index(name) + 1])
manner = pathlib.Path(sys.argv[1]).read_text()
if manner == "broken":
    sys.exit(2)
# Told to end, it ends between two answers.
told, telling = os.pipe()
os.set_blocking(telling, False)
signal.set_wakeup_fd(telling)
signal.signal(signal.SIGTERM, lambda *_: None)
if manner != "silent":
    os.write(option("--ready-fd"), b"serving\\n")
with socket.socket(fileno=option("--listen-fds")) as listener:
    listener.setblocking(False)
    while True:
        ready, _, _ = select.select([listener, told], [], [])
        if told in ready and os.read(told, 1) and manner != "stubborn":
            sys.exit(0)
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        with client:
            client.sendall(str(os.getpid()).encode())
"""


class Said(logging.Handler):
    """The log lines so far, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._news.set()

    async def until(self, text: str, *, times: int = 1) -> None:
        async with within(15):
            while sum(text in line for line in self.lines) < times:
                self._news.clear()
                await self._news.wait()


class Rig:
    """Two server processes under supervision."""

    def __init__(self, directory: Path, said: Said, *, manner: str, ready_timeout: float) -> None:
        self.said = said
        self._manner = directory / "manner"
        self.behave(manner)
        sockets = listening("127.0.0.1", 0)
        self.port = sockets[0].getsockname()[1]
        command = (sys.executable, "-c", SERVER, str(self._manner))
        self.processes = ServerProcesses(ServerSpec(command, os.environ, sockets, 20.0, ready_timeout), 2)

    def behave(self, manner: str) -> None:
        """Set the behaviour of processes that start from now on."""
        self._manner.write_text(manner)

    def pids(self) -> set[int]:
        """The server processes that there are."""
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
        return {int(pid) for pid in children if str(self._manner).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()}

    def answer(self) -> int:
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            return int(connection.recv(32))


Supervised = Callable[..., AbstractAsyncContextManager[Rig]]


def tell(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").is_file()


@pytest.fixture
def supervised(tmp_path: Path) -> Supervised:
    @asynccontextmanager
    async def running(manner: str = "well", *, ready_timeout: float = 20.0) -> AsyncIterator[Rig]:
        logger = logging.getLogger("eventsync.server.supervision.server_processes")
        level, said = logger.level, Said()
        logger.addHandler(said)
        logger.setLevel(logging.INFO)
        rig = Rig(tmp_path, said, manner=manner, ready_timeout=ready_timeout)
        try:
            async with within(50), asyncio.TaskGroup() as group:
                task = group.create_task(rig.processes.run())
                yield rig
                if not task.done():
                    tell(signal.SIGTERM)
        finally:
            logger.removeHandler(said)
            logger.setLevel(level)

    return running


async def test_they_share_the_port_and_end_together(supervised: Supervised) -> None:
    async with supervised() as rig:
        await rig.said.until("serves", times=2)
        pids = rig.pids()
        assert len(pids) == 2
    assert not any(map(alive, pids))
    with pytest.raises(ConnectionRefusedError):
        rig.answer()


async def test_one_that_is_killed_is_started_again_while_the_other_serves(supervised: Supervised) -> None:
    async with supervised() as rig:
        await rig.said.until("serves", times=2)
        victim = rig.answer()
        os.kill(victim, signal.SIGKILL)
        await rig.said.until("was killed by SIGKILL; starting it again")
        assert await asyncio.to_thread(rig.answer) != victim


async def test_sighup_replaces_each_of_them_and_nobody_is_refused_meanwhile(supervised: Supervised) -> None:
    async with supervised() as rig:
        await rig.said.until("serves", times=2)
        before = rig.pids()
        replaced = asyncio.create_task(rig.said.until("all server processes are replaced"))
        tell(signal.SIGHUP)
        while not replaced.done():
            await asyncio.to_thread(rig.answer)
        after = rig.pids()
        assert len(after) == 2
        assert not before & after
        assert not any(map(alive, before))
        tell(signal.SIGHUP)
        await rig.said.until("all server processes are replaced", times=2)


@pytest.mark.parametrize(
    ("manner", "why"), [("broken", "server 1 can't run like this"), ("silent", "it does not serve within 0.5 s")]
)
async def test_a_server_that_never_serves_replaces_none(supervised: Supervised, manner: str, why: str) -> None:
    async with supervised(ready_timeout=20.0 if manner == "broken" else 0.5) as rig:
        await rig.said.until("serves", times=2)
        before = rig.pids()
        rig.behave(manner)
        tell(signal.SIGHUP)
        await rig.said.until(f"the new server 1 is given up, those that run stay: {why}")
        assert rig.pids() == before
        # And when it has been mended:
        rig.behave("well")
        tell(signal.SIGHUP)
        if manner == "broken":
            await rig.said.until("all server processes are replaced")


async def test_it_ends_in_the_middle_of_a_replacement(supervised: Supervised) -> None:
    async with supervised() as rig:
        await rig.said.until("serves", times=2)
        rig.behave("silent")
        tell(signal.SIGHUP)
        await rig.said.until("SIGHUP: replacing")
    assert not any("given up" in line for line in rig.said.lines)


async def test_bad_options_end_everything(supervised: Supervised) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with supervised("broken") as rig:
            await rig.said.until("never", times=1)
    assert raised.group_contains(ConfigurationError, match=r"server \d can't run like this \(ended with exit code 2\)")


async def test_a_second_signal_ends_them_at_once(supervised: Supervised) -> None:
    async with supervised("stubborn") as rig:
        await rig.said.until("serves", times=2)
        pids = rig.pids()
        tell(signal.SIGINT)
        await rig.said.until("SIGINT: ending 2 server processes")
    assert not any(map(alive, pids))
    assert "SIGTERM again: ending the server processes at once" in rig.said.lines


async def test_a_child_tells_its_readiness_by_the_pipe_that_it_inherits() -> None:
    (listener,) = listening("127.0.0.1", 0)
    with listener:
        spec = ServerSpec(("serve",), {}, [listener], drain_timeout=3.0, ready_timeout=1.0).child("server 1", 77)
    assert spec.command[0] == "serve"
    assert spec.command[-2:] == ("--ready-fd", "77")
    assert set(spec.descriptors) == {77, int(spec.command[2])}
    assert spec.stop_timeout > 3.0
    assert not spec.own_output
