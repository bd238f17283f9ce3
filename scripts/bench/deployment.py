"""Surroundings of a benchmark: a `mongod` of its own, the project's processes, and what each has used."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pymongo import MongoClient

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from scripts.bench.clients.exactness import WrongError
from support.environment import environment_of

T = TypeVar("T")

_OPLOG_MIB: Final = 16 * 1024.0
"""Room for a long backlog with its images and events: floors read it again after the worker."""

_STOP_SECONDS: Final = 20.0
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - as a place, not for a name


class Cpu:
    """CPU seconds of processes, user and system, of all their threads, from when this was made."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._before = self._now()

    def used(self) -> dict[str, float]:
        """Return the seconds of each process by its name."""
        return {name: now - self._before[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        # From a process's clock, in ns, because /proc counts in steps of 10 ms. Source: clock_getcpuclockid(3).
        return {name: time.clock_gettime(~pid << 3 | 2) for name, pid in self._pids.items()}


def memory(pid: int) -> float:
    """Return the KiB of pages that a process shares with no other (USS), without the kernel's for its sockets."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("Private_"))


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running `mongod`. `directory` is for logs of other processes."""

    uri: str
    pid: int
    directory: Path


def measured(measure: Callable[[Deployment], Coroutine[Any, Any, T]], *, in_memory: bool = False) -> T:
    """Return what `measure` finds on a fresh `mongod`. Exit with 1 if a client missed an event or had one twice."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with _fresh_mongod(_MEMORY if in_memory and _MEMORY.is_dir() else None) as deployment:
        try:
            return asyncio.run(measure(deployment))
        except* WrongError as group:
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            sys.exit(f"not exact, so no figures: {first}")


@contextmanager
def _fresh_mongod(place: Path | None) -> Iterator[Deployment]:
    """Run a new, empty node, as `eventsync dev` starts it."""
    binary = mongod.find_mongod()
    mongod.check_runs(binary)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as name:
        directory = Path(name)
        data, port = directory / "data", mongod.free_port()
        data.mkdir()
        with _process(mongod.command(binary, data, port), directory / "mongod.log") as pid:
            mongod.initiate(port)
            with MongoClient[dict[str, Any]](mongod.uri(port)) as client:
                client.admin.command({"replSetResizeOplog": 1, "size": _OPLOG_MIB})
            yield Deployment(mongod.uri(port), pid, directory)


@contextmanager
def running(word: str, settings: Settings, directory: Path, *options: str) -> Iterator[int]:
    """Run `eventsync <word>` as a process of its own, as in production; give its pid."""
    command = [sys.executable, "-m", "eventsync", word, *options]
    with _process(command, directory / f"{word}.log", env=_environment(settings), cwd=directory) as pid:
        yield pid


async def ran(settings: Settings, *words: str) -> float:
    """Run `eventsync <words>` to its end; return the seconds. Raises `WrongError` where it fails."""
    began, command = time.monotonic(), (sys.executable, "-m", "eventsync", *words)
    process = await asyncio.create_subprocess_exec(*command, env=_environment(settings), stdout=subprocess.DEVNULL)
    if code := await process.wait():
        raise WrongError(f"eventsync {words[0]} ends with {code}")
    return time.monotonic() - began


def _environment(settings: Settings) -> dict[str, str]:
    return environment_of(settings) | {"PYTHONPATH": str(Path.cwd())}


@contextmanager
def _process(command: list[str], log: Path, **options: Any) -> Iterator[int]:
    with log.open("ab") as output:
        # No thread of ours runs yet.
        process = subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=die_with_parent, **options)  # noqa: PLW1509
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
