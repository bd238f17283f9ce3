"""Reload on SIGHUP: the process restarts in place with the current settings.

If the new settings can't be used, the process continues with the old ones.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from eventsync.errors import ConfigurationError, Unavailable
from eventsync.settings import Settings
from eventsync.stores.readiness import check

logger = logging.getLogger(__name__)

Reread = Callable[[], Settings]
"""Reads the settings again from their original source. Raises `ConfigurationError`."""


def ignore_hangups() -> None:
    """Ignore SIGHUP while no handler is installed; by default it would end the process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@asynccontextmanager
async def hangups_heard(role: str, reread: Reread, restart: Callable[[Settings], None]) -> AsyncIterator[None]:
    """During the block, call `restart` with the new settings after each SIGHUP, if they can be used."""
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, heard.set)
    rereading = asyncio.create_task(_reread(heard, role, reread, restart), name="read the settings again")
    try:
        yield
    finally:
        rereading.cancel()
        with suppress(asyncio.CancelledError):
            await rereading
        loop.remove_signal_handler(signal.SIGHUP)
        ignore_hangups()


async def _reread(heard: asyncio.Event, role: str, reread: Reread, restart: Callable[[Settings], None]) -> None:
    while True:
        await heard.wait()
        heard.clear()
        try:
            settings = reread()
            with suppress(Unavailable):  # the restarted process waits for MongoDB
                await check(settings, role)
        except ConfigurationError as error:
            logger.log(
                logging.ERROR, "SIGHUP: nothing changes, because the settings can't be used: %s", error.diagnosis
            )
        else:
            logger.info("SIGHUP: starting again, with the settings as they are now")
            restart(settings)
