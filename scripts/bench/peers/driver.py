"""A peer's source of events: a clock, told over a pipe what to send, a JSON line each, and answering with one.

`{"do": "steady", …}` is the method `steady` of `Driver` with its arguments.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence

import orjson

from scripts.bench.peers import frames

Broadcast = Callable[[Sequence[bytes]], None]
"""Sends messages to all clients that there are."""


class Driver:
    """Sends each event when it is due. `head` is the newest one."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self.head = 0

    async def begin(self, seq: int) -> dict[str, object]:
        """Clients that come now are at `seq`. The answer says that the server listens."""
        self.head = seq
        return {"log": frames.LOG}

    async def steady(self, count: int, rate: float, size: int) -> dict[str, object]:
        """One event after the other, each at its intended time."""
        began = time.monotonic()
        for number in range(count):
            due = began + number / rate
            await asyncio.sleep(due - time.monotonic())
            self.head += 1
            self._broadcast([frames.event(self.head, due, size)])
        return {"head": self.head}

    async def obey(self) -> None:
        """Do what is asked, one thing after the other, until the end of the input."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for line in reader:
            asked = orjson.loads(line)
            answer = await getattr(self, asked.pop("do"))(**asked)
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
