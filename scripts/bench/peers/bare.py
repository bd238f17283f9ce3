"""`python -m scripts.bench.peers.bare PORT`: the floor. A frame, made once, is written to each connection's transport.

Nothing else: no positions, no bounds, no second client that wants something else. The handshake is done by hand.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from scripts.bench.clients.processes import obey
from scripts.bench.peers import frames
from scripts.bench.peers.process import Timer


class Connection(asyncio.Protocol):
    """Is served once it has said anything after its handshake."""

    def __init__(self, served: set[asyncio.Transport], timer: Timer) -> None:
        self._served = served
        self._timer = timer
        self._head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            if self._transport not in self._served:
                self._transport.write(_frame(frames.live(self._timer.head)))
                self._served.add(self._transport)
            return
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            lines = self._head.split(b"\r\n")
            key = next(line.partition(b": ")[2] for line in lines if line.lower().startswith(b"sec-websocket-key"))
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_key(key.decode()).encode()
            )
            self._head = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._served.discard(self._transport)


def _frame(message: bytes) -> bytes:
    return Frame(Opcode.TEXT, message).serialize(mask=False)


async def main(port: int) -> None:
    """Run until the end of the input."""
    served: set[asyncio.Transport] = set()

    def broadcast(message: bytes) -> None:
        frame = _frame(message)
        for transport in served:
            transport.write(frame)

    timer = Timer(broadcast)
    await asyncio.get_running_loop().create_server(lambda: Connection(served, timer), "127.0.0.1", port, backlog=1024)
    await obey(timer)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
