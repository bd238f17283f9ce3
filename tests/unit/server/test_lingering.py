"""The end of a connection that its client has reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from eventsync.server.limits import ConnectionLimits
from eventsync.server.lingering import linger
from support.waiting import within

RESET = struct.pack("ii", 1, 0)
"""Of `SO_LINGER`: a close resets the connection."""


class Answered(asyncio.Protocol):
    """A protocol that has sent its last bytes as soon as it is connected, and reads nothing."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.connected, self.ended = asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self.transport = transport
        self.connected.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended.set()


def test_connection_that_its_client_has_reset_ends_without_an_error() -> None:
    """On the event loop of asyncio: its transport shuts the socket down at once, and raises what the kernel says."""
    errors: list[dict[str, Any]] = []

    async def run() -> int:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        limits, protocol = ConnectionLimits(10, 10, 1.0, 1000), Answered()
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        async with server:
            client = socket.create_connection(server.sockets[0].getsockname())
            async with within(10):
                await protocol.connected.wait()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            linger(protocol, limits, "127.0.0.1", set())
            async with within(10):
                await protocol.ended.wait()
                while limits.lingering:  # noqa: ASYNC110 - the transport tells in one of the next turns
                    await asyncio.sleep(0)
        return limits.lingering

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(run()) == 0
    assert errors == []
