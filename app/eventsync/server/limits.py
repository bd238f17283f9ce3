"""Untrusted connections: limits that apply before any input is parsed, and what all connections of a process share."""

from __future__ import annotations

import socket
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn

from eventsync.concurrency.pacer import Pacer
from eventsync.settings import Settings

_UNSENT: Final = 128 * 1024
"""Unsent bytes of a connection that the kernel buffers. The rest stays in the process, which can limit it."""

_SENT_RATIO: Final = 2
"""A chunked body may take this many times its own size on the wire."""

_FIRST_REQUESTS: Final = 4
"""First requests of connections that are read in one turn of the event loop, 0.1 ms each. Of a thousand that arrive at
once, hundreds would be read in one turn, while all other connections wait."""


@dataclass(slots=True)
class ConnectionLimits:
    """Counts the connections of a server process, and holds the limits of a request.

    `head_timeout` and `body_timeout` are in seconds. `sent_bytes` limits a body as it is sent, with chunk sizes, chunk
    extensions and trailers. Pages of `origins` may read the answer to a refused connection. Of the `open` connections,
    `lingering` have had their last answer. `refused` ones were over a limit, `slow` ones were evicted for not reading.
    """

    max_sockets: int
    max_sockets_per_address: int
    head_timeout: float
    head_bytes: int
    origins: frozenset[str] = frozenset()
    head_fields: int = 128
    sent_bytes: int = 2 * 1024 * 1024
    body_timeout: float = 30.0
    open: int = 0
    lingering: int = 0
    refused: int = 0
    slow: int = 0
    _by_address: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        return cls(
            settings.max_sockets,
            settings.max_sockets_per_address,
            settings.head_timeout,
            settings.head_bytes,
            frozenset(settings.allowed_origins),
            settings.head_fields,
            _SENT_RATIO * settings.body_bytes,
            settings.body_timeout,
        )

    def enter(self, address: str) -> None:
        """Count a connection that was made, admitted or not."""
        self.open += 1
        self._by_address[address] += 1

    def leave(self, address: str) -> None:
        """Stop counting a connection that is lost."""
        self.open -= 1
        self._by_address[address] -= 1
        # Without entries of 0, an attacker with many addresses fills no memory.
        if not self._by_address[address]:
            del self._by_address[address]

    def refuses(self, address: str) -> bool:
        """Return True if the connection that was counted last is over a limit."""
        if self.open > self.max_sockets:
            return True
        return 0 < self.max_sockets_per_address < self._by_address[address]


class Config(uvicorn.Config):
    """uvicorn's options, with the limits and pacers that all connections of the process share."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(*args, **options)
        self.limits = limits
        self.first_requests = Pacer(_FIRST_REQUESTS)
        self.upgrades = Pacer()


def tune(listener: socket.socket, timeout: float) -> None:
    """Set the options that accepted connections inherit. Sent data may stay unacknowledged for `timeout` seconds.

    A heartbeat then detects a peer that has vanished, and its unread data is freed; by default the kernel retries for a
    quarter of an hour. The kernel also buffers little for clients that do not read.
    """
    if sys.platform != "linux":
        return
    # Sockets other than TCP's (Unix sockets) have neither option.
    with suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
