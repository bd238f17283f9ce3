"""`eventsync` as a process of its own, without the half second that it takes to import.

A helper process imports the whole program once for all tests of a pytest process, and forks for each start: 20 ms of
CPU in place of 500. A keeper between the two waits for the exit code. A program that a test starts here is a process
like any other, with its own arguments, environment, directory and output, to be stopped, frozen and killed. It differs
in two things: `/proc/PID/cmdline` is the helper's, and its memory is the helper's at first. A test that looks at these,
or preloads a library, starts `python -m eventsync`.
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


def _serve(requests: socket.socket) -> None:
    """Fork for each request, until there are no more. Return in a forked process as soon as its program has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need no reaping
    helper = os.getpid()
    while content := (received := socket.recv_fds(requests, _MOST, 3))[0]:
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent(signal.SIGKILL, helper)
            requests.close()
            _keep(json.loads(content), *received[1])
            return
        for handle in received[1]:
            os.close(handle)


def _keep(request: Any, out: int, err: int, handle: int) -> None:
    """Fork the program; tell the test its id and then its exit code. Return in both processes."""
    keeper = os.getpid()
    with socket.socket(fileno=handle) as said:
        if pid := os.fork():
            said.sendall(pid.to_bytes(4, "little", signed=True))
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(BrokenPipeError):  # nobody may wait for it any more
                said.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))
            os._exit(0)
    die_with_parent(signal.SIGKILL, keeper)
    _become(request, out, err)


def _import_all() -> None:
    """Import whatever a command may need, and leave the collector nothing of it."""
    for package in (eventsync, eventsync_workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _become(request: Any, out: int, err: int) -> None:
    for number, handle in ((1, out), (2, err)):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv = ["eventsync", *request["words"]]
    main()


if __name__ == "__main__":
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as served:
        _serve(served)
