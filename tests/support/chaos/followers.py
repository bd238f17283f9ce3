"""Clients that record every frame and judge none: the checker does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from support.chaos.history import Recorder
from support.clients import PEERS, Follower, bearing_a_lost_connection
from support.peers.peer import Asked
from support.replica import Replica, log_of, seq_of
from support.waiting import scaled

_SILENCE = 4.0
"""Seconds after which a client gives a silent connection up; the server's heartbeat is far shorter."""

_AWAY = 8.0
"""The most seconds that a client stays away: so many events later it gets squashed documents, or a snapshot."""


class Cursor(Replica):
    """A replica's position, moved as the protocol says, and nothing else of it."""

    def disconnected(self) -> None:
        self.live = False

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


class Recording(Follower):
    """A follower that records each frame, and moves a cursor by it."""

    def __init__(self, recorder: Recorder, urls: Sequence[str], shape: str, transport: str, seed: int) -> None:
        own = f"{seed} {transport} of {shape}"
        super().__init__(urls, shape, transport, seed=own, cut_after=60, silence=scaled(_SILENCE), away=_AWAY)
        self.replica = Cursor(shape)
        self._recorder = recorder
        self._due: str | None = None

    async def _connection(self, budget: int) -> None:
        self._recorder.frame(self.name, self.replica.shape, {"type": "connect"})
        await super()._connection(budget)

    def _take(self, message: dict[str, Any]) -> None:
        self._recorder.frame(self.name, self.replica.shape, message)
        self.replica.take(message)

    async def arrive(self, seq: int, log: str, *, seconds: float) -> None:
        """Wait until it has arrived at `seq`, or for so long."""
        self._due = f"{log}:{seq}"
        with suppress(TimeoutError):
            await self._until(lambda: self.arrived(seq, log), seconds)

    def arrived(self, seq: int, log: str) -> bool:
        """Return True if it has everything up to `seq` of this log."""
        own = self.replica.position
        # A declared shape's position has a scope behind the log's id.
        return own is not None and log_of(own).partition(".")[0] == log and seq_of(own) >= seq

    def end(self) -> None:
        """Record the end, and the position that was due by then; then leave."""
        self.leave()
        due = {"position": self._due} if self._due else {}
        self._recorder.frame(self.name, self.replica.shape, {"type": "end", **due})


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
            with bearing_a_lost_connection():
                await self._visit()
            await asyncio.sleep(self._random.uniform(0.1, 0.6))

    def leave(self) -> None:
        """Come no more."""
        self._over = True

    async def _visit(self) -> None:
        self._count += 1
        cursor = Cursor(self._random.choice(self._shapes))
        peer, url = PEERS[self._random.choice(("http", "websocket"))], self._random.choice(self._urls)
        async with asyncio.timeout(scaled(_SILENCE)), peer.open(url, Asked((cursor.shape,))) as link:
            while not (self._over or cursor.live) and (received := await link.receive()):
                if received.message["type"] == "error":
                    return
                self._recorder.frame(f"visitor {self._count}", cursor.shape, received.message)
                cursor.take(received.message)
