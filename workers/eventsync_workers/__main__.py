"""`eventsync worker`: the process that turns committed changes into events."""

from __future__ import annotations

import asyncio
import signal

from eventsync.logging import configure_logging
from eventsync.process import event_loop
from eventsync.process.garbage_collection import collect_rarely
from eventsync.process.memory import return_free_memory
from eventsync.reload import Reread, hangups_heard
from eventsync.settings import Settings
from eventsync_workers.liveness import touch_until
from eventsync_workers.worker import Worker


def main(settings: Settings, reread: Reread) -> None:
    """Run a worker until SIGTERM or SIGINT; at SIGHUP it starts again. Raises `ConfigurationError`."""
    collect_rarely(waited_for=False)
    return_free_memory()
    event_loop.run(_Process(reread).run(settings))


class _Process:
    """Runs one worker after the other, each with the settings of the newest SIGHUP."""

    def __init__(self, reread: Reread) -> None:
        self._reread = reread
        self._next: Settings | None = None
        self._ending = False
        self._stop = asyncio.Event()

    async def run(self, settings: Settings) -> None:
        """Run until told to end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        async with hangups_heard("worker", self._reread, self._restart):
            self._next = settings
            while self._next is not None and not self._ending:
                current, self._next = self._next, None
                self._stop = asyncio.Event()
                configure_logging(current.log_level)
                await _work(current, self._stop)

    def _end(self) -> None:
        self._ending = True
        self._stop.set()

    def _restart(self, settings: Settings) -> None:
        """Stop the worker, which gives its lease back, and go on with another."""
        self._next = settings
        self._stop.set()


async def _work(settings: Settings, stop: asyncio.Event) -> None:
    touching = asyncio.create_task(touch_until(stop, settings.health_file), name="show that the loop runs")
    try:
        await Worker(settings, stop).run()
    finally:
        stop.set()
        await touching
