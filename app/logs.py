"""How every process writes its log: one line an entry, on stderr.

    2026-11-23 16:05:13.123 INFO    workers.worker: host:4711:a1b2c3 leads

Only a traceback takes more than one line: what a client sent can't begin a line of its own.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"
_QUIET: Final = ("pymongo", "uvicorn", "websockets", "asyncio")
"""Libraries that say at `info` or `debug` what is of interest to their own authors."""


class LineFormatter(logging.Formatter):
    """Keeps a message on its line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        return super().formatMessage(record).rstrip().replace("\r", "\\r").replace("\n", "\\n")


def configure_logging(level: str) -> None:
    """Send everything from `level` on to stderr. Called once, by the command line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT, "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
