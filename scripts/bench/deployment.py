"""Surroundings of a benchmark: a `mongod` of its own, and the project's processes, each with its CPU clock."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import PREFIX, Settings

_OPLOG = 16 * 1024
"""MiB; it is only as large as what is written."""

_PATIENCE = 20.0
"""Seconds that a process gets to end by itself."""


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, user and system, of all its threads.

    From its clock, in ns, because /proc counts in steps of 10 ms. Source: Linux's clock_getcpuclockid(3).
    """
    return time.clock_gettime(~pid << 3 | 2)


def peak(pid: int | str) -> float:
    """The largest resident set of a process until now, in MiB: VmHWM of proc(5). `self` is this process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


@dataclass(frozen=True, slots=True)
class Deployment:
    """A running `mongod`. `directory` is for logs of other processes."""

    uri: str
    pid: int
    directory: Path


@contextmanager
def fresh_mongod() -> Iterator[Deployment]:
    """A new, empty node, as `eventsync dev` starts it, while the block runs."""
    binary = mongod.find_mongod()
    mongod.check_runs(binary)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        data, port = directory / "data", mongod.free_port()
        data.mkdir()
        with _process(mongod.command(binary, data, port), directory / "mongod.log") as process:
            mongod.initiate(port)
            with MongoClient[dict[str, Any]](mongod.uri(port)) as client:
                # A long backlog, its images and its events are to fit: floors read it again behind the worker.
                client.admin.command({"replSetResizeOplog": 1, "size": float(_OPLOG)})
            yield Deployment(mongod.uri(port), process.pid, directory)


@contextmanager
def running(word: str, settings: Settings, directory: Path) -> Iterator[int]:
    """`eventsync <word>` as a process of its own while the block runs, as in production. Gives its pid."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for name, value in settings.model_dump(exclude_defaults=True).items():
        environment[PREFIX + name.upper()] = ",".join(value) if isinstance(value, tuple) else str(value)
    command = [sys.executable, "-m", "eventsync", word]
    environment["PYTHONPATH"] = str(Path.cwd())
    with _process(command, directory / f"{word}.log", environment, directory) as process:
        yield process.pid


@contextmanager
def _process(
    command: list[str], log: Path, environment: dict[str, str] | None = None, directory: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=directory,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
