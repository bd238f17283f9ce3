"""A file that shows from outside that the worker's event loop runs: for the health check of a container."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from eventsync.concurrency.waiting import set_within
from eventsync.errors import ConfigurationError

PERIOD: Final = 1.0
"""Seconds between two touches. A check should allow for several, and for a machine that is busy."""


async def touch_until(stop: asyncio.Event, file: Path | None) -> None:
    """Touch `file` every `PERIOD` until `stop`, then remove it, so that it is not taken for a live worker's.

    It says nothing of MongoDB or of who leads: a worker that waits for either is in order. Where the file can't be
    written, `stop` is set, and `ConfigurationError` raised.
    """
    if file is None:
        return
    try:
        while not stop.is_set():
            _touch(file)
            await set_within(stop, PERIOD)
        _remove(file)
    except OSError as error:
        stop.set()
        raise ConfigurationError(f"health_file {file} can't be written: {error.strerror}") from error


def _touch(file: Path) -> None:
    file.touch(mode=0o600)


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
