"""`eventsync worker`: the process that turns committed changes into events."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

from eventsync.concurrency.waiting import set_within
from eventsync.errors import ConfigurationError
from eventsync.logging import configure_logging
from eventsync.process import event_loop
from eventsync.process.garbage_collection import collect_rarely
from eventsync.process.memory import return_free_memory
from eventsync.reload import Reread, hangups_heard
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync.tracing.process import running as tracing_in_process
from eventsync_workers.monitoring.figures import WorkerFigures
from eventsync_workers.monitoring.port import WorkerPort
from eventsync_workers.worker import Worker

_TOUCH_PERIOD: Final = 1.0
"""Seconds between two touches of the health file."""


def main(settings: Settings, reread: Reread) -> None:
    """Run a worker until SIGTERM or SIGINT; restart it at SIGHUP. Raises `ConfigurationError`."""
    collect_rarely(waited_for=False)
    return_free_memory()
    event_loop.run(_Process(reread).run(settings))


class _Process:
    """Runs one worker after another, each with the settings of the newest SIGHUP."""

    def __init__(self, reread: Reread) -> None:
        self._reread = reread
        self._next: Settings | None = None
        self._ending = False
        self._figures = WorkerFigures()
        self._stop = asyncio.Event()

    async def run(self, settings: Settings) -> None:
        """Run until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        async with hangups_heard("worker", self._reread, self._restart):
            self._next = settings
            while self._next is not None and not self._ending:
                current, self._next = self._next, None
                self._stop = asyncio.Event()
                configure_logging(current.log_level, current.log_format)
                await _work(current, self._stop, self._figures)

    def _end(self) -> None:
        self._ending = True
        self._stop.set()

    def _restart(self, settings: Settings) -> None:
        """Stop the worker, which releases its lease, and start another one."""
        self._next = settings
        self._stop.set()


async def _work(settings: Settings, stop: asyncio.Event, figures: WorkerFigures) -> None:
    port = WorkerPort(settings, figures)

    def use(stores: Stores | None) -> None:
        port.door.stores = stores

    touching = asyncio.create_task(_touch_until(stop, settings.health_file), name="touch the health file")
    try:
        async with tracing_in_process("eventsync-worker", enabled=settings.tracing), port.running():
            await Worker(settings, stop, figures, use).run()
    finally:
        stop.set()
        await touching


async def _touch_until(stop: asyncio.Event, file: Path | None) -> None:
    """Touch the health file every `_TOUCH_PERIOD` until `stop`, then remove it.

    Its age shows that the event loop runs, and nothing else: a worker that waits for MongoDB or for the lease is
    healthy. If the file can't be written, set `stop` and raise `ConfigurationError`.
    """
    if file is None:
        return
    try:
        while not stop.is_set():
            _touch(file)
            await set_within(stop, _TOUCH_PERIOD)
        _remove(file)
    except OSError as error:
        stop.set()
        raise ConfigurationError(f"health_file {file} can't be written: {error.strerror}") from error


def _touch(file: Path) -> None:
    file.touch(mode=0o600)


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
