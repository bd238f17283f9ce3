"""Clients that record every frame and judge none: the checker does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.chaos.history import Recorder
from support.clients import TRANSPORTS
from support.replica import Replica, log_of, seq_of
from support.waiting import scaled, within

_BROKEN = (ConnectionClosed, InvalidHandshake, OSError, httpx.HTTPError, TimeoutError)
_SILENCE = 4.0
"""Seconds after which a client gives a silent connection up; the server's heartbeat is far shorter."""


class Cursor(Replica):
    """A replica's position, moved as the protocol says, and nothing else of it."""

    def take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "snapshot" and message["last"]:
            self.position = message["position"]
        elif kind == "events" or (kind == "squashed" and message["last"]):
            self.position = message["to"]
        elif kind == "live":
            self.position, self.live = message["position"], True
        elif kind == "progress":
            self.position = message["vector"].get(self.shape, self.position)
        elif kind == "reset":
            self.position, self.live = None, False


class Follower:
    """Follows a shape over a transport, cut off at random, and again from where it was."""

    def __init__(self, recorder: Recorder, urls: Sequence[str], shape: str, transport: str, seed: int) -> None:
        self.name = f"{transport} of {shape}"
        self.shape = shape
        self.cursor = Cursor(shape)
        self._recorder = recorder
        self._urls = urls
        self._open = TRANSPORTS[transport]
        self._random = random.Random(f"{seed} {self.name}")
        self._moved = asyncio.Condition()
        self._steady = False
        self._over = False
        self._due: str | None = None

    async def run(self) -> None:
        """Follow until the end."""
        while not self._over:
            with suppress(*_BROKEN):
                await self._connection(self._random.randint(1, 60))
            self.cursor.live = False
            await asyncio.sleep(self._random.uniform(0.02, 0.1))

    async def _connection(self, budget: int) -> None:
        self._recorder.frame(self.name, self.shape, {"type": "connect"})
        # Any server will do: positions are those of the log, not of a server.
        async with self._open(self._random.choice(self._urls), self.cursor) as messages:
            while self._steady or budget > 0:
                async with asyncio.timeout(scaled(_SILENCE)):
                    message = await anext(messages)
                if message["type"] == "error" or self._over:
                    return
                self._recorder.frame(self.name, self.shape, message)
                async with self._moved:
                    self.cursor.take(message)
                    self._moved.notify_all()
                budget -= 1

    async def arrive(self, seq: int, log: str, *, seconds: float) -> None:
        """Wait until it `has` come to `seq`, or for so long. From now on it does not disconnect by itself."""
        self._steady, self._due = True, f"{log}:{seq}"
        with suppress(TimeoutError):
            async with within(seconds), self._moved:
                await self._moved.wait_for(lambda: self.has(seq, log))

    def has(self, seq: int, log: str) -> bool:
        """Tell whether it has come to `seq` of this log."""
        own = self.cursor.position
        return own is not None and log_of(own) == log and seq_of(own) >= seq

    def leave(self) -> None:
        """Connect no more, and record nothing more."""
        self._over = True

    def end(self) -> None:
        """Record that this is the end, and where it was to have come to; then leave."""
        self.leave()
        due = {"position": self._due} if self._due else {}
        self._recorder.frame(self.name, self.shape, {"type": "end", **due})


class Visitor:
    """Takes snapshots now and then, each as a new client."""

    def __init__(self, recorder: Recorder, urls: Sequence[str], shapes: Sequence[str], seed: int) -> None:
        self._recorder = recorder
        self._urls = urls
        self._shapes = shapes
        self._random = random.Random(f"{seed} visits")
        self._count = 0
        self._over = False

    async def run(self) -> None:
        """Come again until the end."""
        while not self._over:
            with suppress(*_BROKEN):
                await self._visit()
            await asyncio.sleep(self._random.uniform(0.1, 0.6))

    def leave(self) -> None:
        """Come no more."""
        self._over = True

    async def _visit(self) -> None:
        self._count += 1
        cursor = Cursor(self._random.choice(self._shapes))
        transport = TRANSPORTS[self._random.choice(("http", "websocket"))]
        async with asyncio.timeout(scaled(_SILENCE)), transport(self._random.choice(self._urls), cursor) as messages:
            async for message in messages:
                if message["type"] == "error" or self._over:
                    return
                self._recorder.frame(f"visitor {self._count}", cursor.shape, message)
                cursor.take(message)
                if cursor.live:
                    return
