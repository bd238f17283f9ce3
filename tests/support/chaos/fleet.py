"""Workers and servers as processes, several of each, which can be killed, frozen and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import IO, Any

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from support.chaos.clocks import Clock
from support.program import Program
from support.waiting import patience


class Fleet:
    """Processes by name: `worker1` …, `serve1` …; each writes to `<name>.log` in `directory`.

    With `clocks`, each has a clock of its own that can jump.
    """

    def __init__(
        self, settings: Settings, directory: Path, *, workers: int, servers: int, clocks: bool = False
    ) -> None:
        self.workers = [f"worker{number}" for number in range(1, workers + 1)]
        self.servers = [f"serve{number}" for number in range(1, servers + 1)]
        self.frozen: set[str] = set()
        names = [*self.workers, *self.servers] if clocks else []
        self.clocks = {name: Clock(directory / f"{name}.clock") for name in names}
        self._ports = {name: mongod.free_port() for name in self.servers}
        self._settings = settings
        self._directory = directory
        self._running: dict[str, Program | subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports.values()]

    def start(self, *names: str, monotonic: bool = False) -> None:
        """Start them. `monotonic`: so that also the clock that never goes back follows the jumps of theirs."""
        for name in names:
            with (self._directory / f"{name}.log").open("ab") as log:
                self._running[name] = self._started(name, self._environment(name, monotonic=monotonic), log)

    def _started(self, name: str, environment: dict[str, str], log: IO[bytes]) -> Program | subprocess.Popen[bytes]:
        word = name.rstrip("0123456789")
        if not self.clocks:
            return Program([word], environment=environment, directory=self._directory, stdout=log, stderr=log)
        return subprocess.Popen(
            [sys.executable, "-m", "eventsync", word],
            cwd=self._directory,
            env=environment,
            stdout=log,
            stderr=log,
            # Not SIGTERM, which a frozen one would not take.
            preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),  # noqa: PLW1509
        )

    def _environment(self, name: str, *, monotonic: bool) -> dict[str, str]:
        given: dict[str, Any] = self._settings.model_dump(exclude_defaults=True)
        given |= {"port": self._ports[name]} if name in self._ports else {}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EVENTSYNC_")}
        texts = {key: ",".join(value) if isinstance(value, tuple) else str(value) for key, value in given.items()}
        environment |= {f"EVENTSYNC_{key.upper()}": value for key, value in texts.items()}
        return environment | (self.clocks[name].environment(monotonic=monotonic) if name in self.clocks else {})

    async def kill(self, name: str) -> None:
        """kill -9, and wait until it is dead."""
        process = self._running.pop(name)
        process.kill()
        await asyncio.to_thread(process.wait, patience(10))

    async def end(self, name: str) -> int:
        """SIGTERM; returns the exit code."""
        process = self._running.pop(name)
        process.terminate()
        return await asyncio.to_thread(process.wait, patience(30))

    def freeze(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGSTOP)
        self.frozen.add(name)

    def thaw(self, name: str) -> None:
        self._running[name].send_signal(signal.SIGCONT)
        self.frozen.discard(name)

    def named(self, pid: int) -> str | None:
        """Return the name of the process with this pid."""
        return next((name for name, process in self._running.items() if process.pid == pid), None)

    def supervise(self) -> list[str]:
        """Start again who has ended by itself, as any supervisor does. Says who it was, with the exit code."""
        fallen = self.fallen()
        self.start(*fallen)
        return [f"{name} with exit code {code}" for name, code in fallen.items()]

    def fallen(self) -> dict[str, int]:
        """Return the exit code of each process that has ended by itself, by name."""
        codes = {name: process.poll() for name, process in self._running.items()}
        return {name: code for name, code in codes.items() if code is not None}

    async def stop(self) -> None:
        """kill -9 of all: nothing that they could still do matters."""
        for name in list(self._running):
            await self.kill(name)

    def last_lines(self, name: str, count: int = 12) -> list[str]:
        return (self._directory / f"{name}.log").read_text(errors="replace").splitlines()[-count:]
