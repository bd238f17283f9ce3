"""The system under test as the nemeses see it."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from eventsync.dev import mongod
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import SEQUENCING
from support.chaos.cluster import Clock, Cluster
from support.chaos.history import Recorder
from support.chaos.rules import Rules
from support.environment import environment_of
from support.systems import Processes


class Fleet(Processes):
    """Workers and servers: `worker1` …, `serve1` …, each server on a port of its own.

    With `clocks`, each has a clock of its own that can jump.
    """

    def __init__(
        self, settings: Settings, directory: Path, *, workers: int, servers: int, clocks: bool = False
    ) -> None:
        super().__init__(settings, directory, fresh=clocks)
        self.workers = [f"worker{number}" for number in range(1, workers + 1)]
        self.servers = [f"serve{number}" for number in range(1, servers + 1)]
        names = [*self.workers, *self.servers] if clocks else []
        self.clocks = {name: Clock(directory / f"{name}.clock") for name in names}
        self._ports = {name: mongod.free_port() for name in self.servers}

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self._ports.values()]

    def _environment(self, name: str) -> dict[str, str]:
        environment = environment_of(self._settings, self._ports.get(name))
        return environment | (self.clocks[name].environment() if name in self.clocks else {})

    def named(self, pid: int) -> str | None:
        """Return the name of the process with this pid."""
        return next((name for name, process in self._running.items() if process.pid == pid), None)

    def supervise(self) -> list[str]:
        """Start again each process that has ended by itself; return their names, with the exit codes."""
        codes = {name: process.poll() for name, process in self._running.items()}
        fallen = [name for name, code in codes.items() if code is not None]
        self.start(*fallen)
        return [f"{name} with exit code {codes[name]}" for name in fallen]

    def stop(self) -> None:
        """kill -9 of all: nothing that they could still do matters."""
        self.kill(*self._running)

    def last_lines(self, count: int = 12) -> tuple[str, ...]:
        """Return the last lines of each worker's log."""
        return tuple(line for name in self.workers for line in self.log(name).splitlines()[-count:])


@dataclass(frozen=True, slots=True)
class Rig:
    """`choose` is the nemeses' own source of randomness; `ended` is what their faults have brought about."""

    settings: Settings
    client: Client
    cluster: Cluster
    fleet: Fleet
    recorder: Recorder
    choose: random.Random
    rules: Rules
    ended: Counter[str] = field(default_factory=Counter)

    @property
    def lease(self) -> float:
        return self.settings.lease_period

    async def leader(self) -> str:
        """The worker that leads, as the lease says; any worker where it is of none that runs (or can't be read)."""
        lease: dict[str, Any] | None = None
        with suppress(PyMongoError):
            lease = await self.client[self.settings.log_db]["leases"].find_one({"_id": SEQUENCING})
        # host:pid:random
        process = int(lease["owner"].split(":")[1]) if lease else 0
        return self.fleet.named(process) or self.choose.choice(self.fleet.workers)
