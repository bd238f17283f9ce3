"""Flushes MongoDB's journal while changes wait for it (`eventsync.mongodb.journal`)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from eventsync.concurrency.waiting import set_within
from eventsync.domain.positions import LogId
from eventsync.errors import Unavailable
from eventsync.mongodb.journal import CommitDelay
from eventsync.stores.log.logs import LogStore

logger = logging.getLogger(__name__)

_LATE: Final = 0.02
"""Seconds of delay that show a wait for the journal. A change whose writer waits for it takes 2 to 10 ms."""

_TIMES: Final = 2
"""Times as long as a journaled write takes that a delay must last: on a slow or busy member everything is late."""

_READS: Final = 5
_LATE_READS: Final = 4
"""Late reads of the last `_READS` that start the flushing. Of changes that wait for the journal, four in five are late;
on a busy machine others are now and then.
"""

_HOLD: Final = 5.0
"""Seconds of flushing. Then it stops, and the next reads show whether changes wait without it."""

_REMEMBERED: Final = 2
"""Late reads that count after it, as if there had been no flushing."""

_IDLE: Final = 1.0
"""Seconds without a change after which flushing stops."""


class JournalFlusher:
    """Flushes the journal every `interval` seconds (0: never), from the moment that changes are late in the stream."""

    def __init__(self, logs: LogStore, log: LogId, interval: float) -> None:
        self._logs = logs
        self._log = log
        self._interval = interval
        self._delays = CommitDelay()
        self._late: deque[bool] = deque(maxlen=_READS)
        self._changed = float("-inf")
        self._until = float("-inf")
        self._wanted = asyncio.Event()
        self._over = asyncio.Event()
        self._is_logged = False
        self.flushes = 0
        """Number of flushes since the start."""
        self.delay: float | None = None
        """While flushing: the delay of a change that started it, in seconds."""

    def saw(self, committed: datetime, asked: float, journaled: float) -> None:
        """Note the first change of a read that began at the wall time `asked`, and has just ended.

        A write that waits for the journal takes `journaled` seconds now: that much is no reason to flush it.
        """
        if not self._interval:
            return
        delay = self._delays.observe(committed.timestamp(), asked, time.time())
        self._changed = time.monotonic()
        if self.delay is not None:
            return  # It shows nothing while the journal is flushed.
        self._late.append(delay > max(_LATE, _TIMES * journaled))
        # One late change is no sign: elections and busy members delay single ones.
        if sum(self._late) >= _LATE_READS:
            self._begin(delay)

    def _begin(self, delay: float) -> None:
        self.delay, self._until = delay, self._changed + _HOLD
        if not self._is_logged:
            self._is_logged = True
            logger.info(
                "log %s: changes wait %d ms for MongoDB's journal, because their writers do not (w: 1); it is flushed "
                "every %g ms while they do. A smaller --journalCommitInterval of mongod makes that unnecessary",
                self._log, delay * 1000, self._interval * 1000,
            )  # fmt: skip
        self._wanted.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Flush when it is needed, while the block runs."""
        self._over.clear()
        flushing = asyncio.create_task(self._run(), name="flush the journal")
        try:
            yield
        finally:
            self._over.set()
            self._wanted.set()
            await flushing

    async def _run(self) -> None:
        while not self._over.is_set():
            await self._wanted.wait()
            try:
                await self._flush()
            except Unavailable as error:
                logger.debug("log %s: %s", self._log, error.diagnosis)
            self._wanted.clear()
            self._late.clear()
            self._late.extend([True] * _REMEMBERED)
            self.delay = None

    async def _flush(self) -> None:
        async with self._logs.journal() as flush:
            while self._is_needed() and not await set_within(self._over, self._interval):
                await flush()
                self.flushes += 1

    def _is_needed(self) -> bool:
        now = time.monotonic()
        return now < self._until and now < self._changed + _IDLE
