"""The limit on open files."""

from __future__ import annotations

import logging
import resource
from typing import Final

logger = logging.getLogger(__name__)

_OTHERS: Final = 500
"""File descriptors for other uses: connections to MongoDB, log files, libraries, connections being refused."""


def needed_files(sockets: int) -> int:
    """Return the number of open files that a server with so many sockets may need."""
    return sockets + _OTHERS


def allow_sockets(wanted: int) -> None:
    """Raise the soft limit on open files for `wanted` sockets. Log a warning if the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = needed_files(wanted)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    allowed = need if hard == resource.RLIM_INFINITY else min(need, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < need:
        logger.warning("max_sockets is %d, but the system allows %d open files (ulimit -n)", wanted, allowed)
