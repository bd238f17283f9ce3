"""`eventsync` as a process of its own, without the half second that it takes to import.

A helper process imports the whole program once for all tests of a pytest process, and forks for each start: 20 ms of
CPU in place of 500. What a test starts here is a process like any other, with its own arguments, environment, directory
and output, to be stopped, frozen and killed. It differs in two things: `/proc/PID/cmdline` is the helper's, and its
memory is the helper's at first. A test that looks at these, or preloads a library, starts `python -m eventsync`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import eventsync
import eventsync_workers
from eventsync.cli import main
from eventsync.server.supervision.orphans import die_with_parent

_MOST = 128 * 1024
"""Bytes of a request: mostly the environment."""


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    exit_code: int
    stdout: str
    stderr: str


async def finished(
    *words: str, environment: Mapping[str, str], directory: Path | None = None, seconds: float
) -> Result:
    """Run a command to its end. Raises `TimeoutError`, with what it has said, after `seconds`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        program = Program(words, environment=environment, directory=directory, stdout=out, stderr=err)
        try:
            code = await asyncio.to_thread(program.wait, seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{words} does not end; it said {_read(out)!r} {_read(err)!r}") from None
        finally:
            program.kill()
            program.wait()
        return Result(code, _read(out), _read(err))


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


class Program:
    """A process that runs `eventsync` with some words: as much of `subprocess.Popen` as tests use."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        stdout: IO[bytes],
        stderr: IO[bytes],
        directory: Path | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._words = list(words)
        request = {"words": self._words, "environment": dict(environment), "directory": str(directory or Path.cwd())}
        self._said, theirs = socket.socketpair()
        with theirs:
            handles = [stdout.fileno(), stderr.fileno(), theirs.fileno()]
            socket.send_fds(_helper(), [json.dumps(request).encode()], handles)
        self.pid = int.from_bytes(self._said.recv(4), "little", signed=True)

    def poll(self) -> int | None:
        """Return its exit code, if it has ended."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends; return its exit code, negative for a signal. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self._said.settimeout(timeout)
            try:
                said = self._said.recv(4)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self._words, timeout or 0.0) from None
            self.returncode = int.from_bytes(said, "little", signed=True) if said else -signal.SIGKILL
            self._said.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _helper() -> socket.socket:
    """Start the helper; return the socket for requests, whose end is the helper's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    atexit.register(_end, ours, process)
    return ours


def _end(requests: socket.socket, process: subprocess.Popen[bytes]) -> None:
    requests.close()
    process.wait()


# --- the helper -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Start:
    """Arguments, environment and directory of a program, and the handles of its output."""

    request: Any
    out: int
    err: int


class _Helper:
    """Forks for each request. `run` returns in the forked process too, with what it has to become."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._children: dict[int, tuple[int, socket.socket]] = {}
        """By the handle of its end: the id of a process, and the socket of the test that waits for it."""

    def run(self) -> _Start | None:
        """Serve until there are no more requests. Return None then, and in a forked process its start."""
        pid = os.getpid()
        while True:
            ready, _, _ = select.select([self._requests.fileno(), *self._children], [], [])
            for handle in ready:
                if handle in self._children:
                    self._reap(handle)
                    continue
                content, handles, _, _ = socket.recv_fds(self._requests, _MOST, 3)
                if not content:
                    return None
                if (start := self._fork(json.loads(content), handles)) is not None:
                    die_with_parent(signal.SIGKILL, pid)
                    return start

    def _fork(self, request: Any, handles: list[int]) -> _Start | None:
        out, err = handles[:2]
        said = socket.socket(fileno=handles[2])
        if not (pid := os.fork()):
            said.close()
            self._requests.close()
            for handle, (_, other) in self._children.items():
                os.close(handle)
                other.close()
            return _Start(request, out, err)
        os.close(out)
        os.close(err)
        said.sendall(pid.to_bytes(4, "little", signed=True))
        self._children[os.pidfd_open(pid)] = pid, said
        return None

    def _reap(self, handle: int) -> None:
        pid, said = self._children.pop(handle)
        _, status = os.waitpid(pid, 0)
        os.close(handle)
        with said, contextlib.suppress(BrokenPipeError):  # nobody may wait for it any more
            said.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))


def _import_all() -> None:
    """Import whatever a command may need, and leave the collector nothing of it."""
    for package in (eventsync, eventsync_workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _become(start: _Start) -> None:
    for number, handle in ((1, start.out), (2, start.err)):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(start.request["environment"])
    os.chdir(start.request["directory"])
    sys.argv = ["eventsync", *start.request["words"]]
    main()


def _main() -> None:
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        start = _Helper(requests).run()
    if start is not None:
        _become(start)


if __name__ == "__main__":
    _main()
