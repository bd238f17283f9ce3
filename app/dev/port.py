"""Whether a TCP port can be listened on, found out before anything is started that would have to be stopped again."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from app.errors import ConfigurationError


def check_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Raises `ConfigurationError` where `host:port` can't be listened on."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _bound(family, address)
    except socket.gaierror as error:
        raise ConfigurationError(f"{host!r} is no address of this machine; choose another with --host") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            remedy = "stop what uses it, or choose another with --port"
            raise ConfigurationError(f"port {port} on {host} is in use; {remedy}") from error
        said = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(f"can't listen on {host}:{port} ({said}); choose another --host or --port") from error


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens on the port right now."""
    try:
        _bound(socket.AF_INET, (host, port))
    except OSError:
        return False
    return True


def _bound(family: int, address: tuple[Any, ...]) -> int:
    with socket.socket(family) as probe:
        # As servers do: the remains of closed connections are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()
        return int(probe.getsockname()[1])
