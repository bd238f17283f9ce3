"""Lingering close: the end of a connection whose client may still be sending.

A kernel that closes a socket with unread input resets the connection. A client that is reset loses what it has received
but not read: the answer with the reason. Therefore a half-close follows the last bytes, and further input is discarded
unparsed until the client ends the connection, falls silent, or exceeds a limit.

Source: https://www.rfc-editor.org/rfc/rfc9112#section-9.6
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from eventsync.server.limits import ConnectionLimits

MAX_LINGERING: Final = 256
"""Connections of a process that linger at a time; more are closed at once. They count as open connections."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of a client that are discarded. 256 KiB cost some 10 µs."""

MAX_SECONDS: Final = 30.0
"""Seconds that a connection lingers at most."""

SILENCE: Final = 2.0
"""Seconds without progress after which the connection ends."""


class _Ended(asyncio.Transport):
    """The transport of a protocol that has handed over its connection. It drops all writes."""

    def is_closing(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing: the connection ends by itself."""

    abort = pause_reading = resume_reading = close

    def write(self, data: object) -> None:
        """Drop what comes too late."""

    def writelines(self, list_of_data: object) -> None:
        """Drop what comes too late."""


ENDED: Final = _Ended()


class UnclosedTransport:
    """A transport with another `close`."""

    __slots__ = ("close", "is_closing", "transport", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.transport = transport
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class Lingering(asyncio.Protocol):
    """Discards input for a limited time, and then ends the connection."""

    def __init__(
        self, transport: asyncio.Transport, limits: ConnectionLimits, address: str, connections: set[Any]
    ) -> None:
        self.transport = transport
        self._limits = limits
        self._address = address
        self._connections = connections
        self._left = MAX_BYTES
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + MAX_SECONDS
        limits.enter(address)
        limits.lingering += 1
        connections.add(self)
        self._timer = self._check_again()

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._timer.cancel()
        self._connections.discard(self)
        self._limits.lingering -= 1
        self._limits.leave(self._address)
        self.transport.close()

    def shutdown(self) -> None:
        """End the connection at the server's shutdown."""
        self.transport.close()

    def _check_again(self) -> asyncio.TimerHandle:
        progress = (self._left, self.transport.get_write_buffer_size())
        return self._loop.call_later(SILENCE, self._check, progress)

    def _check(self, before: tuple[int, int]) -> None:
        if before == (self._left, self.transport.get_write_buffer_size()) or self._loop.time() >= self._end:
            self.transport.abort()
        else:
            self._timer = self._check_again()


class Served(Protocol):
    """A protocol with a connection."""

    transport: asyncio.Transport

    def connection_lost(self, exc: Exception | None) -> None: ...


def unwrapped(transport: asyncio.Transport | UnclosedTransport) -> asyncio.Transport:
    """Return the transport inside an `UnclosedTransport`; any other transport as it is."""
    return transport.transport if isinstance(transport, UnclosedTransport) else transport


def linger(protocol: Served, limits: ConnectionLimits, address: str, connections: set[Any]) -> None:
    """Take over the connection of a `protocol` that has sent its last bytes, and end it in order.

    The protocol learns in the next turn that the connection is lost: in this one it may be in the middle of a call.
    """
    transport = unwrapped(protocol.transport)
    protocol.transport = ENDED
    if not transport.is_closing():
        asyncio.get_running_loop().call_soon(_take_over, transport, protocol, limits, address, connections)


def _take_over(
    transport: asyncio.Transport, protocol: Served, limits: ConnectionLimits, address: str, connections: set[Any]
) -> None:
    if transport.is_closing():
        return
    if limits.lingering >= MAX_LINGERING:
        # Unread input may reset the connection. Beyond the limit, that is the lesser evil.
        transport.close()
        asyncio.get_running_loop().call_later(SILENCE, transport.abort)
        return
    transport.set_protocol(Lingering(transport, limits, address, connections))
    protocol.connection_lost(ConnectionAbortedError())
    transport.resume_reading()
    try:
        transport.write_eof()
    except OSError:
        transport.abort()  # the client has reset the connection, and asyncio's transport has not read that yet
