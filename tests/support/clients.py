"""Real clients of the three transports. Each follows a shape into a `Replica`, and may be cut off at any message."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
import httpx_sse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from support.replica import Replica, seq_of, vector_text

Message = dict[str, Any]
Messages = AsyncIterator[Message]


@asynccontextmanager
async def websocket(url: str, replica: Replica) -> AsyncIterator[Messages]:
    """The messages of one WebSocket connection that goes on from the replica's vector."""
    address = url.replace("http", "ws") + "/v1/sync"
    async with connect(address, subprotocols=[Subprotocol("eventsync.v1")], max_size=None) as socket:
        hello = {"type": "hello", "shapes": [replica.shape], "vector": replica.vector}
        await socket.send(json.dumps(hello))

        async def messages() -> Messages:
            async for text in socket:
                yield json.loads(text)

        yield messages()


@asynccontextmanager
async def sse(url: str, replica: Replica) -> AsyncIterator[Messages]:
    """The messages of one event stream; a reconnect sends the last event's id, as a browser does."""
    headers = {"Last-Event-ID": vector_text(replica.vector)} if replica.vector else {}
    params = {"shape": replica.shape}
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(20)) as client,
        httpx_sse.aconnect_sse(client, "GET", f"{url}/v1/sync/sse", params=params, headers=headers) as source,
    ):
        if source.response.status_code == 503:
            raise httpx.ConnectError("not ready")
        source.response.raise_for_status()

        async def messages() -> Messages:
            async for event in source.aiter_sse():
                message = event.json()
                assert message["type"] == event.event
                yield message

        yield messages()


@asynccontextmanager
async def polling(url: str, replica: Replica) -> AsyncIterator[Messages]:
    """The same by plain HTTP: a snapshot where there is no position, then page after page."""
    async with httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(20)) as client:

        async def messages() -> Messages:
            while True:
                if replica.position is None:
                    yield await _snapshot(client, replica.shape)
                    continue
                query: dict[str, str | int] = {"shape": replica.shape, "position": replica.position, "wait": 1}
                answer = await client.get("/v1/sync/log", params=query | {"limit": 50})
                if answer.status_code == 409:
                    yield {"type": "reset", "reason": answer.json()["reason"]}
                    continue
                page = answer.raise_for_status().json()
                yield page | {"type": "events"}
                if page["live"]:
                    yield {"type": "live", "position": page["to"]}

        yield messages()


async def _snapshot(client: httpx.AsyncClient, shape: str) -> Message:
    answer = await client.get("/v1/sync/snapshot", params={"shape": shape})
    head, *rows = answer.raise_for_status().text.splitlines()
    position = json.loads(head)["position"]
    return {
        "type": "snapshot",
        "position": position,
        "part": 0,
        "last": True,
        "docs": [json.loads(row) for row in rows],
    }


Transport = Callable[[str, Replica], Any]
TRANSPORTS: dict[str, Transport] = {"websocket": websocket, "sse": sse, "http": polling}
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

    async def run(self) -> None:
        """Follow for ever."""
        while True:
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
        async with asyncio.timeout(seconds), self._progress:
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
            task.cancel()
