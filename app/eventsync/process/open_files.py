"""How many sockets and files the process may have open: as many as the system lets it."""

from __future__ import annotations

import logging
import resource
from typing import Final

logger = logging.getLogger(__name__)

_OTHERS: Final = 500
"""Connections to MongoDB, log files, libraries, connections that are being turned away."""


def allow_sockets(wanted: int) -> None:
    """Raise the soft limit on open files for `wanted` sockets; where the hard limit is lower, say so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    allowed = need if hard == resource.RLIM_INFINITY else min(need, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < need:
        logger.warning("max_sockets is %d, but the system allows %d open files (ulimit -n)", wanted, allowed)
