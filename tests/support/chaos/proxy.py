"""A TCP proxy in front of one mongod that can cut connections, and leave them half open: nothing arrives, nobody knows.

It tells its connections apart by the application name in the MongoDB handshake, so that a worker can be cut off from
what the other members and the writers still reach.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK = 64 * 1024
_WRITE = re.compile(rb"\x02(insert|update|delete|findAndModify|commitTransaction|bulkWrite)\0|\x10commitTransaction\0")
"""The name of a command that writes, as the field of a message."""

_NAME = re.compile(rb"eventsync-[a-z]+")
_GONE = (OSError, RuntimeError)
"""What a connection says that was cut: uvloop raises the second."""

PEER = "peer"
"""What a connection of another member is called."""


class _Link:
    """One connection through the proxy."""

    def __init__(self, name: str, ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.name = name
        self.ends = ends
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.writes = False
        """Whether it waits for the answer to a write."""

    def cut(self) -> None:
        for end in self.ends:
            _reset(end)
        self.flowing.set()


def _reset(end: asyncio.StreamWriter) -> None:
    """Close with a reset, whatever is still to be sent."""
    if not end.is_closing() and (socket_ := end.get_extra_info("socket")) is not None:
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()


class MongoProxy:
    """Listens on `port` of loopback, and forwards to `target`."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._held = re.compile(r"(?!)")
        self._losing = re.compile(r"(?!)")
        self._left = 0

    def lose(self, names: str, count: int) -> None:
        """Cut connections whose name matches, in the place of their next `count` answers to a write."""
        self._losing, self._left = re.compile(names), count

    def cut(self, names: str) -> int:
        """Cut all connections whose name matches, as a reset does. Says how many there were."""
        found = [link for link in self._links if re.fullmatch(names, link.name)]
        for link in found:
            link.cut()
        return len(found)

    def hold(self, names: str) -> int:
        """From now on nothing passes on connections whose name matches, new ones too; none of them is closed."""
        self._held = re.compile(names)
        found = [link for link in self._links if self._held.fullmatch(link.name)]
        for link in found:
            link.flowing.clear()
        return len(found)

    def release(self) -> None:
        """Let the held data arrive now, late, as after a partition that healed."""
        self._held = re.compile(r"(?!)")
        for link in self._links:
            link.flowing.set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        task = asyncio.create_task(self._serve(reader, writer), name="proxied connection")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        link = _Link(PEER, (writer, there_writer))
        self._links.add(link)
        try:
            await self._forward(link, reader, there_reader)
        finally:
            self._links.discard(link)
            link.cut()

    async def _forward(self, link: _Link, here: asyncio.StreamReader, there: asyncio.StreamReader) -> None:
        with suppress(*_GONE):
            first = await here.read(_CHUNK)
            if found := _NAME.search(first):
                link.name = found[0].decode()
            if self._held.fullmatch(link.name):
                link.flowing.clear()
            await link.flowing.wait()
            link.ends[1].write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pipe(link, here, link.ends[1]))
                group.create_task(self._pipe(link, there, link.ends[0]))

    async def _pipe(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(*_GONE):
            while chunk := await reader.read(_CHUNK):
                await link.flowing.wait()
                if self._is_lost(link, chunk, answers=writer is link.ends[0]):
                    break
                writer.write(chunk)
                await writer.drain()
        # The other direction has nothing to wait for any more either.
        link.cut()

    def _is_lost(self, link: _Link, chunk: bytes, *, answers: bool) -> bool:
        """Return True if the connection is to be cut before this chunk, which is of the answers or of the requests."""
        if not answers:
            link.writes = link.writes or _WRITE.search(chunk) is not None
            return False
        lost = link.writes and self._left > 0 and self._losing.fullmatch(link.name) is not None
        link.writes = False
        self._left -= lost
        return lost

    async def close(self) -> None:
        """Cut everything, and wait until it is gone."""
        for link in self._links:
            link.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def mongo_proxy(target: int) -> AsyncIterator[MongoProxy]:
    """A proxy before the mongod on port `target` while the block runs."""
    proxy = MongoProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield proxy
        finally:
            await proxy.close()
