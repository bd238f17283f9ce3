"""A TCP proxy that can cut its connections, lose or delay answers, and leave connections half open: nothing arrives.

It tells connections to MongoDB apart by the application name in their handshake, so that a worker can be cut off from
what the other members and the writers still reach.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_CHUNK = 64 * 1024
_WRITE = re.compile(rb"\x02(insert|update|delete|findAndModify|commitTransaction|bulkWrite)\0|\x10commitTransaction\0")
"""The name of a command that writes, as the field of a message."""

_NAME = re.compile(rb"eventsync-[a-z]+")
_GONE = (OSError, RuntimeError)
"""Errors of a connection that was cut: uvloop raises the second."""

_LATE = 64
"""Most chunks of one direction that are on their way."""

_NONE = re.compile(r"(?!)")


_Late = asyncio.Queue[tuple[float, bytes]]
"""Chunks on their way, and when each arrives."""


class _Link:
    """One connection through the proxy. `writes`: it waits for the answer to a write."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self.name = "peer"
        self.ends = ends
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.writes = False

    def cut(self) -> None:
        for end in self.ends:
            _reset(end)
        self.flowing.set()


def _reset(end: asyncio.StreamWriter) -> None:
    """Close with a reset, and discard what is still to be sent."""
    if not end.is_closing() and (socket_ := end.get_extra_info("socket")) is not None:
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.transport.abort()


class TcpProxy:
    """Listens on `port` of loopback, and forwards to the server at `target`.

    A connection's name is the application name of a client of MongoDB, else `peer`.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.port = 0
        self._target = parts.hostname, parts.port
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._held = self._losing = _NONE
        self._left = 0
        self._delay = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lose(self, names: str, count: int) -> None:
        """Cut connections whose name matches, in the place of their next `count` answers to a write."""
        self._losing, self._left = re.compile(names), count

    def delay(self, seconds: float) -> None:
        """Let all data arrive so much later, in each direction, as from a server far away."""
        self._delay = seconds

    def cut(self, names: str = ".*") -> int:
        """Cut all connections whose name matches: both ends see a reset. Return the number of them."""
        found = [link for link in self._links if re.fullmatch(names, link.name)]
        for link in found:
            link.cut()
        return len(found)

    def hold(self, names: str) -> int:
        """Let nothing pass on connections whose name matches, new ones too; none of them is closed."""
        self._held = re.compile(names)
        found = [link for link in self._links if self._held.fullmatch(link.name)]
        for link in found:
            link.flowing.clear()
        return len(found)

    def release(self) -> None:
        """Let the held data arrive now, late, as after a partition that healed."""
        self._held = _NONE
        for link in self._links:
            link.flowing.set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        task = asyncio.create_task(self._serve(reader, writer), name="proxied connection")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # However the task ends: cancelled before it began, it closes nothing.
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, there_writer)
        self._links.add(link)
        try:
            await self._forward(link, reader, there_reader)
        finally:
            self._links.discard(link)
            there_writer.close()

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
        late: _Late = asyncio.Queue(_LATE)
        reading = asyncio.create_task(self._read(reader, late), name="proxied reads")
        try:
            await self._deliver(link, late, writer)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader, late: _Late) -> None:
        """Read ahead, so that a delay does not bound the rate. No bytes are the end."""
        chunk = b"..."
        while chunk:
            with suppress(*_GONE):
                chunk = b""
                chunk = await reader.read(_CHUNK)
            await late.put((asyncio.get_running_loop().time() + self._delay, chunk))

    async def _deliver(self, link: _Link, late: _Late, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with suppress(*_GONE):
            while (found := await late.get())[1]:
                due, chunk = found
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                await link.flowing.wait()
                if self._is_lost(link, chunk, answers=writer is link.ends[0]):
                    link.cut()
                    return
                writer.write(chunk)
                await writer.drain()
        # Not a reset: what is on its way still arrives.
        for end in link.ends:
            end.close()

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
        self.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def tcp_proxy(target: str) -> AsyncIterator[TcpProxy]:
    """A proxy in front of the server at the URL `target` while the block runs."""
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        try:
            yield proxy
        finally:
            await proxy.close()
