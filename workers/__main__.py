"""`eventsync worker`: the process that turns committed changes into events."""

from __future__ import annotations

import asyncio
import logging
import signal

from app import event_loop
from app.garbage import collect_rarely
from app.settings import Settings
from workers.liveness import touch_until
from workers.worker import Worker


def main(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT. Raises `ConfigurationError`."""
    logging.getLogger("pymongo").setLevel(logging.WARNING)
    collect_rarely(waited_for=False)
    event_loop.run(_main(settings))


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    touching = asyncio.create_task(touch_until(stop, settings.health_file), name="show that the loop runs")
    try:
        await Worker(settings, stop).run()
    finally:
        stop.set()
        await touching
