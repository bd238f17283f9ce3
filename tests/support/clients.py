"""Real clients of the three transports. Each follows a shape into a `Replica`, and may be cut off at any message."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from support.peers.peer import Asked, Link, Peer
from support.peers.python import HttpxPolling, HttpxSse, Websockets
from support.replica import Replica, seq_of
from support.waiting import within

Message = dict[str, Any]
Messages = AsyncIterator[Message]
Transport = Callable[[str, Replica], Any]


def _by(peer: Peer) -> Transport:
    """The messages of one connection of this peer, which continues from the replica's vector.

    Raises `ConnectionError` where it ends, by whomever, and as the peer's library does where it never came to be.
    """

    @asynccontextmanager
    async def opened(url: str, replica: Replica) -> AsyncIterator[Messages]:
        async with peer.open(url, Asked((replica.shape,), replica.vector)) as link:
            yield _messages(link)

    return opened


async def _messages(link: Link) -> Messages:
    while (received := await link.receive()) is not None:
        yield received.message
    raise ConnectionError(f"the connection has ended: {link.ended}")


TRANSPORTS: dict[str, Transport] = {peer.transport: _by(peer) for peer in (Websockets(), HttpxSse(), HttpxPolling())}
_BROKEN = (ConnectionClosed, InvalidHandshake, OSError, httpx.TransportError, httpx.HTTPStatusError)


@contextmanager
def _bearing_a_lost_connection() -> Iterator[None]:
    try:
        with suppress(*_BROKEN):
            yield
    except AttributeError as error:
        # anyio asks for the peer of a connection that was lost just after it was made, and finds no socket there.
        if error.name != "getpeername":
            raise


class Follower:
    """A client that lives through disconnects: its own (at random) and the server's."""

    def __init__(self, url: str, shape: str, transport: str, *, seed: int, cut_after: int | None = None) -> None:
        self.replica = Replica(shape)
        self.connections = 0
        self._url = url
        self._open = TRANSPORTS[transport]
        self._random = random.Random(seed)
        self._cut_after = cut_after
        self._progress = asyncio.Condition()
        self._over = False

    def leave(self) -> None:
        """Connect no more: a library that fails while it is cancelled hides that it was."""
        self._over = True

    async def run(self) -> None:
        """Follow until it is to leave."""
        while not self._over:
            budget = self._random.randint(1, self._cut_after) if self._cut_after else None
            with _bearing_a_lost_connection():
                await self._connection(budget)
            self.replica.disconnected()
            # A server that is being restarted refuses at once: do not spin.
            await asyncio.sleep(self._random.uniform(0.0, 0.05))

    async def _connection(self, budget: int | None) -> None:
        async with self._open(self._url, self.replica) as messages:
            self.connections += 1
            async for message in messages:
                if message["type"] == "error":
                    return
                async with self._progress:
                    self.replica.take(message)
                    self._progress.notify_all()
                if budget is not None and (budget := budget - 1) <= 0:
                    return

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
        self._cut_after = None
        async with within(seconds), self._progress:
            await self._progress.wait_for(there)


@asynccontextmanager
async def following(
    url: str, shape: str, transport: str, *, seed: int = 1, cut_after: int | None = None
) -> AsyncIterator[Follower]:
    """A follower that runs while the block does; what it asserts fails the block."""
    follower = Follower(url, shape, transport, seed=seed, cut_after=cut_after)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run(), name=f"follow {shape} over {transport}")
        try:
            yield follower
        finally:
            follower.leave()
            task.cancel()
