"""A conversation of one client with a server: what comes goes into the client's replicas, which check it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from support.peers.peer import Asked, Ended, Held, Link, Message, Peer, Received, Speaking
from support.replica import Replica, seq_of
from support.waiting import within

PATIENCE = 20.0


def vector_of_id(text: str, shapes: Sequence[str]) -> dict[str, str]:
    """Return what an event's id says of these shapes, in its long or its short form."""
    if "=" in text or not text:
        return dict(parse_qsl(text, strict_parsing=bool(text)))
    vector, log = {}, ""
    for shape, item in zip(shapes, text.partition(".")[2].split(","), strict=True):
        if item:
            vector[shape] = item if ":" in item else f"{log}:{item}"
            log = vector[shape].partition(":")[0]
    return vector


class Copy:
    """A client's data of one shape or several, over any transport."""

    def __init__(self, *shapes: str, token: str | None = None) -> None:
        self.replicas = {shape: Replica(shape) for shape in shapes}
        self.token = token

    def __getitem__(self, shape: str) -> Replica:
        return self.replicas[shape]

    @property
    def only(self) -> Replica:
        """The replica of the one shape."""
        (replica,) = self.replicas.values()
        return replica

    @property
    def asked(self) -> Asked:
        rows = {name: replica.rows for name, replica in self.replicas.items()}
        return Asked(tuple(self.replicas), self.vector, self.token, rows)

    @property
    def vector(self) -> dict[str, str]:
        return {name: position for replica in self.replicas.values() for name, position in replica.vector.items()}

    @property
    def live(self) -> bool:
        return all(replica.live for replica in self.replicas.values())

    def disconnected(self) -> None:
        for replica in self.replicas.values():
            replica.disconnected()

    def take(self, received: Received) -> None:
        message = received.message
        if message["type"] in {"error", "authenticated"}:
            return
        named = [self.replicas[message["shape"]]] if "shape" in message else [*self.replicas.values()]
        for replica in named:
            replica.take(message)
        if received.id is not None:
            self._take_id(vector_of_id(received.id, tuple(self.replicas)), message.get("shape"))
        for name in received.held.keys() & self.replicas.keys():
            _assert_equal(received.held[name], self.replicas[name])

    def _take_id(self, vector: dict[str, str], shape: str | None) -> None:
        """An event's id is where its shape has come to, and the others at least: it is what a reconnect sends."""
        assert vector.keys() == self.vector.keys()
        for name, position in vector.items():
            own = self.replicas[name].position or ""
            assert position == own or (name != shape and seq_of(position) > seq_of(own)), (vector, self.vector)
            self.replicas[name].position = position


def _assert_equal(held: Held, replica: Replica) -> None:
    """Check that a client holds what the replica holds, to the type of each number."""
    assert held.position == replica.position
    if held.position is not None:
        assert json.dumps(held.rows, sort_keys=True) == json.dumps(replica.rows, sort_keys=True)


class Talk:
    """One connection. `seen` is everything that came over it."""

    def __init__(self, link: Link, copy: Copy) -> None:
        self.link = link
        self.copy = copy
        self.seen: list[Message] = []

    async def next(self) -> Message | None:
        """Take the next message and return it; None where the connection has ended."""
        received = await self.link.receive()
        if received is None:
            return None
        self.seen.append(received.message)
        self.copy.take(received)
        return received.message

    async def say(self, **message: Any) -> None:
        """Send the server a message."""
        assert isinstance(self.link, Speaking)
        await self.link.send(message)

    async def until(self, wanted: Callable[[Message], bool], *, seconds: float = PATIENCE) -> Message:
        """Take messages up to the first that is wanted."""
        try:
            async with within(seconds):
                while message := await self.next():
                    if wanted(message):
                        return message
        except TimeoutError as error:
            raise AssertionError(f"not within {seconds:g} s; what came: {self.kinds}") from error
        raise AssertionError(f"the connection ended: {self.link.ended}; what came: {self.kinds}")

    async def live(self) -> None:
        """Take messages until every shape is live."""
        if not self.copy.live:
            await self.until(lambda _: self.copy.live)

    async def has(self, shape: str, key: str, *, seconds: float = PATIENCE) -> None:
        """Take messages until this document is there and its shape is live."""
        replica = self.copy[shape]
        if key not in replica.rows or not replica.live:
            await self.until(lambda _: key in replica.rows and replica.live, seconds=seconds)

    async def over(self, *, seconds: float = PATIENCE) -> Ended:
        """Take messages until the connection ends; return how it did."""
        async with within(seconds):
            while await self.next():
                continue
        assert self.link.ended is not None
        return self.link.ended

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.seen]

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event that came, in order."""
        return [event for message in self.seen if message["type"] == "events" for event in message["events"]]


@asynccontextmanager
async def talking(peer: Peer, url: str, copy: Copy) -> AsyncIterator[Talk]:
    """A connection from where the copy stands, while the block runs. Then it is cut."""
    async with peer.open(url, copy.asked) as link:
        try:
            yield Talk(link, copy)
        finally:
            copy.disconnected()
