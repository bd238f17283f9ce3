"""Log output of every process: one line an entry, on stderr.

    2026-11-23 16:05:13.123 INFO    eventsync_workers.worker: host:4711:a1b2c3 leads

Only a traceback takes more than one line, so input from clients can't forge log lines.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"
PERIOD: Final = 60.0
"""Seconds within which the same warning or alarm is logged once."""

_MAX_KEYS: Final = 1000
"""Different lines that are remembered."""

_QUIET: Final = ("pymongo", "uvicorn", "websockets", "asyncio")
"""Libraries whose `info` and `debug` lines only interest their own authors."""


class LineFormatter(logging.Formatter):
    """Escapes line breaks in messages."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        return super().formatMessage(record).rstrip().replace("\r", "\\r").replace("\n", "\\n")


class Throttle:
    """Passes each key once in `PERIOD` and counts the suppressed ones. Remembers `_MAX_KEYS` keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def passes(self, key: Hashable) -> str | None:
        """Return None to suppress the key, else a suffix for the line with the number of suppressed ones."""
        now = self._clock()
        at, held = self._seen.get(key, (-math.inf, 0))
        if now - at < PERIOD:
            self._seen[key] = at, held + 1
            return None
        self._seen[key] = now, 0
        # The oldest are forgotten first, so that ever new texts fill no memory.
        self._seen.move_to_end(key)
        if len(self._seen) > _MAX_KEYS:
            self._seen.popitem(last=False)
        return f" ({held} times more in the last {now - at:.0f} s)" if held else ""


class Repeats(logging.Filter):
    """Passes the same warning once in `PERIOD`, with the number of suppressed repetitions.

    A retry loop may therefore log each attempt. Lines that start with ALARM always pass; `Alarms` throttles those.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._throttle = Throttle(clock)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno < logging.WARNING or text.startswith("ALARM"):
            return True
        if (often := self._throttle.passes((record.name, text))) is None:
            return False
        if often:
            record.msg, record.args = text + often, ()
        return True


class Alarms:
    """Logs alarms: faults that only an operator can repair. Thousands of clients may run into the same one.

    Throttled here and not by `Repeats`, which only processes started from the command line install.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._throttle = Throttle(clock)

    def log(self, what: str) -> None:
        """Log `ALARM: what`, at level ERROR, once in `PERIOD`."""
        if (often := self._throttle.passes(what)) is not None:
            self._logger.error("ALARM: %s%s", what, often)


def configure_logging(level: str) -> None:
    """Send all lines at `level` or above to stderr. The command line calls this once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repeats())
    handler.setFormatter(LineFormatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
