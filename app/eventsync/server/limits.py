"""Bounds on what strangers may cost before anything of theirs is understood: connections, heads, waiting messages."""

from __future__ import annotations

import socket
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from eventsync.settings import Settings

_UNSENT: Final = 128 * 1024
"""Bytes that the kernel takes ahead of the network for a connection; the rest stays with us, who can bound it."""

_SENT_RATIO: Final = 2
"""A body in chunks may be sent in so many times the bytes that it may have."""


@dataclass(slots=True)
class Guard:
    """Counts the connections of a server process, and holds the limits of a request.

    `head_timeout` and `body_timeout` are in seconds. `sent_bytes` bounds a body as it is sent, with chunk sizes, chunk
    extensions and trailers. `origins` are those whose pages may read the answer to a connection that is refused.
    `lingering` of the `open` connections have had their last answer.
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
    _by_address: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, settings: Settings) -> Guard:
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
        """A connection was made, admitted or not."""
        self.open += 1
        self._by_address[address] += 1

    def leave(self, address: str) -> None:
        """A connection that had entered is lost."""
        self.open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def refuses(self, address: str) -> bool:
        """Whether the connection that was entered last is one too many."""
        if self.open > self.max_sockets:
            return True
        return 0 < self.max_sockets_per_address < self._by_address[address]


def tune(listener: socket.socket, patience: float) -> None:
    """Set what the connections that `listener` accepts inherit: how long data may go unacknowledged, in seconds.

    A peer that is gone without a word is found by it on the next heartbeat, and what it did not read is freed; without,
    the kernel tries for a quarter of an hour. And the kernel buffers little for those who do not read.
    """
    if sys.platform != "linux":
        return
    # A socket that is no TCP socket (a Unix one) knows neither.
    with suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(patience * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
