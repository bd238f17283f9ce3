"""How every process writes its log: one line an entry, on stderr.

    2026-11-23 16:05:13.123 INFO    eventsync_workers.worker: host:4711:a1b2c3 leads

Only a traceback takes more than one line: what a client sent can't begin a line of its own.
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

_MOST: Final = 1000
"""Most different lines that are remembered."""

_QUIET: Final = ("pymongo", "uvicorn", "websockets", "asyncio")
"""Libraries that say at `info` or `debug` what is of interest to their own authors."""


class LineFormatter(logging.Formatter):
    """Keeps a message on its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        return super().formatMessage(record).rstrip().replace("\r", "\\r").replace("\n", "\\n")


class Throttle:
    """Lets each key pass once in `PERIOD`, and counts how often it comes meanwhile. Remembers `_MOST` keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def passes(self, key: Hashable) -> str | None:
        """Return what to add to the line: nothing, or how often the key was held back; None where it is held back."""
        now = self._clock()
        at, held = self._seen.get(key, (-math.inf, 0))
        if now - at < PERIOD:
            self._seen[key] = at, held + 1
            return None
        self._seen[key] = now, 0
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST:
            self._seen.popitem(last=False)
        return f" ({held} times more in the last {now - at:.0f} s)" if held else ""


class Repeats(logging.Filter):
    """Lets a warning pass once in `PERIOD` while it is the same, with the number of times that it came meanwhile.

    So a loop that waits may warn each time. An alarm about one document always passes; `Alarms` throttles others.
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
    """Alarms of one part of the system: faults that only an operator can mend. Thousands of clients may meet one.

    Throttled here and not by `Repeats`, which only the processes of the command line have.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._throttle = Throttle(clock)

    def tell(self, what: str) -> None:
        """Log `ALARM: what`, at level ERROR, once in `PERIOD`."""
        if (often := self._throttle.passes(what)) is not None:
            self._log.error("ALARM: %s%s", what, often)


def configure_logging(level: str) -> None:
    """Send everything from `level` on to stderr. Called once, by the command line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repeats())
    handler.setFormatter(LineFormatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
