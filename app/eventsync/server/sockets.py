"""The listening sockets of a server. They are made before anything starts that would have to be stopped again."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import Any, Final

from eventsync.errors import ConfigurationError

BACKLOG: Final = 2048
"""Maximum of connections that wait to be accepted; the system may allow fewer."""

ALL: Final = "::"
"""The host that stands for all addresses, IPv6 and IPv4."""

_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Errors of an address that the machine lacks, such as IPv6's `localhost`. Another address is enough."""


def listening(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return a socket for each address of `host`, all on `port`, or on the same free port for 0.

    The sockets listen: clients that connect wait until a server accepts. With `reuse_port` they are only bound, because
    the system would give them a share of the connections that another server could accept at once; their server makes
    them listen. Raises `ConfigurationError`, with the remedy, if a socket can't be made.
    """
    try:
        return _sockets(host, port, reuse_port=reuse_port)
    except socket.gaierror as error:
        raise ConfigurationError(f"{host!r} is no address of this machine; choose another with --host") from error
    except OSError as error:
        raise _refusal(host, port, error) from error


def _sockets(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    absent: OSError | None = None
    sockets: list[socket.socket] = []
    with ExitStack() as opened:
        for family, address in _addresses(host, port):
            # The other addresses of a host get the port of the first one.
            at = (address[0], sockets[0].getsockname()[1], *address[2:]) if sockets else address
            try:
                sockets.append(opened.enter_context(_bound(family, at, reuse_port=reuse_port)))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if absent and not sockets:
            raise absent
        opened.pop_all()
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    # `::` means all addresses of the machine. One socket for both families would show IPv4 clients as IPv6.
    found = socket.getaddrinfo(None if host == ALL else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def _bound(family: int, address: tuple[Any, ...], *, reuse_port: bool) -> socket.socket:
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket(family))
        # Connections in TIME_WAIT must not block the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        if not reuse_port:
            listener.listen(BACKLOG)
        opened.pop_all()
    return listener


def _refusal(host: str, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        remedy = "stop what uses it, or choose another with --port"
        return ConfigurationError(f"port {port} on {host} is in use; {remedy}")
    said = os.strerror(error.errno) if error.errno else str(error)
    return ConfigurationError(f"can't listen on {host}:{port} ({said}); choose another --host or --port")
