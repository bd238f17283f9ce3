"""Real clients of the three transports. Each follows a shape into a `Replica`, and may be cut off at any message."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.peers.peer import Asked, Peer
from support.peers.python import HttpxPolling, HttpxSse, Websockets
from support.replica import Replica, seq_of
from support.waiting import within

PEERS: dict[str, Peer] = {peer.transport: peer for peer in (Websockets(), HttpxSse(), HttpxPolling())}
BROKEN = (ConnectionClosed, InvalidHandshake, OSError, httpx.HTTPError)
"""Errors of a connection that was lost, or never came to be."""

TLS: Final = ssl.create_default_context()
"""For clients of `httpx`. Each would read the system's certificates otherwise, which costs as much as 50 requests."""

_AWAY = 0.1
"""Share of the connections after which a client may stay away for longer."""


@contextmanager
def bearing_a_lost_connection() -> Iterator[None]:
    """Let the block end where a connection is lost."""
    try:
        with suppress(*BROKEN):
            yield
    except AttributeError as error:
        # anyio asks for the peer of a connection that was lost just after it was made, and finds no socket there.
        if error.name != "getpeername":
            raise


class Follower:
    """A client that lives through disconnects: its own (at random, after `cut_after` messages at most) and others.

    Each connection is to any of `urls`. `silence`: seconds after which it gives a silent connection up. `away`: the
    most seconds that it sometimes stays away.
    """

    def __init__(
        self,
        urls: Sequence[str],
        shape: str,
        transport: str,
        *,
        seed: int | str = 1,
        cut_after: int | None = None,
        silence: float | None = None,
        away: float = 0.05,
        token: str | None = None,
    ) -> None:
        self.name = f"{transport} of {shape}"
        self.replica = Replica(shape)
        self.connections = 0
        self._urls = urls
        self._peer = PEERS[transport]
        self._random = random.Random(seed)
        self._cut_after = cut_after
        self._silence = silence
        self._away = away
        self._token = token
        self._progress = asyncio.Condition()
        self._over = False

    def leave(self) -> None:
        """Connect no more: a library that fails while it is cancelled hides that it was."""
        self._over = True

    async def run(self) -> None:
        """Follow until it is to leave."""
        while not self._over:
            with bearing_a_lost_connection():
                await self._connection(self._random.randint(1, self._cut_after or 1))
            self.replica.disconnected()
            # A server that is being restarted refuses at once: do not spin.
            away = self._away if self._cut_after and self._random.random() < _AWAY else 0.05
            await asyncio.sleep(self._random.uniform(0.0, away))

    async def _connection(self, budget: int) -> None:
        asked = Asked((self.replica.shape,), self.replica.vector, self._token)
        async with self._peer.open(self._random.choice(self._urls), asked) as link:
            self.connections += 1
            while self._cut_after is None or budget > 0:
                async with asyncio.timeout(self._silence):
                    received = await link.receive()
                if received is None or received.message["type"] == "error" or self._over:
                    return
                async with self._progress:
                    self._take(received.message)
                    self._progress.notify_all()
                budget -= 1

    def _take(self, message: dict[str, Any]) -> None:
        self.replica.take(message)

    async def reached(self, position: str, *, seconds: float = 20.0) -> None:
        """Wait until the replica has everything up to `position` and is live."""

        def there() -> bool:
            own = self.replica.position
            return own is not None and self.replica.live and seq_of(own) >= seq_of(position)

        await self._until(there, seconds)

    async def has(self, key: str, *, seconds: float = 20.0) -> None:
        """Wait until the replica has a document with this id."""
        await self._until(lambda: key in self.replica.rows, seconds)

    async def _until(self, there: Callable[[], bool], seconds: float) -> None:
        """Wait; from now on it does not disconnect by itself."""
        self._cut_after = None
        async with within(seconds), self._progress:
            await self._progress.wait_for(there)


@asynccontextmanager
async def following(
    url: str, shape: str, transport: str, *, seed: int = 1, cut_after: int | None = None, token: str | None = None
) -> AsyncIterator[Follower]:
    """A follower that runs while the block does; what it asserts fails the block."""
    follower = Follower([url], shape, transport, seed=seed, cut_after=cut_after, token=token)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run(), name=f"follow {shape} over {transport}")
        try:
            yield follower
        finally:
            follower.leave()
            task.cancel()
