"""`python -m scripts.bench.peers.bare PORT`: the floor. A frame, made once, is written to each connection's transport.

Nothing else: no positions, no bounds, no second client that wants something else. The handshake is done by hand.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
from collections.abc import Sequence
from typing import cast

import uvloop

from scripts.bench.crowd.process import obey
from scripts.bench.peers import frames
from scripts.bench.peers.driver import Driver

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Connection(asyncio.Protocol):
    """Is served once it has said anything after its handshake."""

    def __init__(self, served: set[asyncio.Transport], driver: Driver) -> None:
        self._served = served
        self._driver = driver
        self._head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            if self._transport not in self._served:
                self._transport.write(frames.text_frame(frames.live(self._driver.head)))
                self._served.add(self._transport)
            return
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            lines = self._head.split(b"\r\n")
            key = next(line.partition(b": ")[2] for line in lines if line.lower().startswith(b"sec-websocket-key"))
            accept = base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
            )
            self._head = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._served.discard(self._transport)


async def main(port: int) -> None:
    """Until the end of the input."""
    served: set[asyncio.Transport] = set()

    def broadcast(messages: Sequence[bytes]) -> None:
        data = b"".join(map(frames.text_frame, messages))
        for transport in served:
            transport.write(data)

    driver = Driver(broadcast)
    await asyncio.get_running_loop().create_server(lambda: Connection(served, driver), "127.0.0.1", port, backlog=1024)
    await obey(driver)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
