"""How every process writes its log: one line an entry, on stderr.

    2026-11-23 16:05:13.123 INFO    workers.worker: host:4711:a1b2c3 leads

Only a traceback takes more than one line: what a client sent can't begin a line of its own.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"
PERIOD: Final = 60.0
"""Seconds within which the same warning is logged once."""

_MOST: Final = 256
"""Most different warnings that are remembered."""

_QUIET: Final = ("pymongo", "uvicorn", "websockets", "asyncio")
"""Libraries that say at `info` or `debug` what is of interest to their own authors."""


class LineFormatter(logging.Formatter):
    """Keeps a message on its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        return super().formatMessage(record).rstrip().replace("\r", "\\r").replace("\n", "\\n")


class Repeats(logging.Filter):
    """Lets a warning pass once in `PERIOD` while it is the same, with the number of times that it came meanwhile.

    So a loop that waits may warn each time. An alarm, which is about one document, always passes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno < logging.WARNING or text.startswith("ALARM"):
            return True
        now, key = self._clock(), (record.name, text)
        told, held = self._seen.get(key, (-math.inf, 0))
        if now - told < PERIOD:
            self._seen[key] = told, held + 1
            return False
        self._seen[key] = now, 0
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST:
            self._seen.popitem(last=False)
        if held:
            record.msg, record.args = f"{text} ({held} times more in the last {now - told:.0f} s)", ()
        return True


def configure_logging(level: str) -> None:
    """Send everything from `level` on to stderr. Called once, by the command line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repeats())
    handler.setFormatter(LineFormatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
