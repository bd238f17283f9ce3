"""Checks a TCP port before anything is started that would have to be stopped again."""

from __future__ import annotations

from eventsync.errors import ConfigurationError
from eventsync.server.sockets import listening


def check_port(host: str, port: int) -> int:
    """Return `port`, or a free one for 0. Raises `ConfigurationError` if `host:port` can't be listened on."""
    sockets = listening(host, port)
    found = int(sockets[0].getsockname()[1])
    for probe in sockets:
        probe.close()
    return found


def is_free(host: str, port: int) -> bool:
    """Return True if the port is free now."""
    try:
        check_port(host, port)
    except ConfigurationError:
        return False
    return True
