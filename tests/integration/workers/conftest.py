from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventsync.settings import Settings
from support.program import Program
from support.waiting import patience


class WorkerProcess:
    """`eventsync worker` as a process of its own, which a test may stop, continue and kill."""

    def __init__(self, settings: Settings, log: Path) -> None:
        given = settings.model_dump(exclude_defaults=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSYNC_")}
        environment |= {f"EVENTSYNC_{name.upper()}": str(value) for name, value in given.items()}
        with log.open("ab") as output:
            self._process = Program(
                ["worker"], environment=environment, directory=log.parent, stdout=output, stderr=output
            )
        self.pid = self._process.pid

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, stopped or not."""
        self.send(signal.SIGKILL)
        self._process.wait(patience(10))

    def end(self) -> int:
        """SIGTERM; returns the exit code."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        return self._process.wait(patience(20))


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    """Starts worker processes; what still runs at the end is killed."""
    started: list[WorkerProcess] = []

    def start() -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path / "worker.log"))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
