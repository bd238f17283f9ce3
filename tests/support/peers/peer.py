"""Interface of a client of any make: connect from a state vector, receive the protocol's messages, be cut off."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

Message = dict[str, Any]
Rows = Mapping[str, tuple[int, dict[str, Any]]]
"""Id → (version, document)."""
TransportName = Literal["websocket", "sse", "http"]

SUBPROTOCOL: Final = "eventsync.v1"


@dataclass(frozen=True, slots=True)
class Asked:
    """Request of a client: these shapes, continued from this vector, with a credential if rules are in force.

    `rows` is what is held at the vector, by shape, for a client that keeps a copy itself.
    """

    shapes: tuple[str, ...]
    vector: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None
    rows: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """The credential as a header."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True, slots=True)
class Held:
    """A client's own copy of a shape. `rows` count only at a position."""

    position: str | None
    rows: Rows


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came; `id` is the event's id where the transport has ids (SSE).

    `held` is what a client that keeps a copy itself holds after the message, by shape.
    """

    message: Message
    id: str | None = None
    held: Mapping[str, Held] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """End of a connection, as far as this client knows it: a close code, or the HTTP status of a refusal."""

    code: int | None
    reason: str = ""


class Link(Protocol):
    """One connection; for plain HTTP, one run of polls."""

    ended: Ended | None

    async def receive(self) -> Received | None:
        """The next message; None once the connection has ended, and `ended` says how."""


@runtime_checkable
class Speaking(Link, Protocol):
    """One that goes both ways: a WebSocket's."""

    async def send(self, message: Message) -> None:
        """Send the server a message."""


class Peer(Protocol):
    """One kind of client."""

    @property
    def name(self) -> str: ...

    @property
    def transport(self) -> TransportName: ...

    def open(self, url: str, asked: Asked) -> AbstractAsyncContextManager[Link]:
        """Connect to the server at `url`; the connection is cut where the block ends, without a goodbye."""


WAIT: Final = 1.0
"""Seconds that one round of polls waits for news."""

_LIMIT: Final = "500"


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is 0, and `body` says why, where there was none."""

    status: int
    body: bytes


Get = Callable[[str, dict[str, str]], Awaitable[Answer]]


class Polling:
    """A `Link` of polls, the shapes in turn. Pages become `events`, with `live` behind the first that says so.

    It catches up without `wait`, so that caches know the pages, and waits once all of them have.
    """

    def __init__(self, get: Get, asked: Asked) -> None:
        self.ended: Ended | None = None
        self._get = get
        self._turns = deque(asked.shapes)
        self._positions: dict[str, str] = {
            shape: asked.vector[shape] for shape in asked.shapes if shape in asked.vector
        }
        self._live: set[str] = set()
        self._ready: deque[Message] = deque()

    async def receive(self) -> Received | None:
        while not self._ready and self.ended is None:
            shape = self._turns[0]
            self._turns.rotate(-1)
            await (self._page(shape) if shape in self._positions else self._snapshot(shape))
        return Received(self._ready.popleft()) if self._ready else None

    async def _snapshot(self, shape: str) -> None:
        answer = await self._get("/v1/sync/snapshot", {"shape": shape})
        if answer.status != 200:
            self._refused(answer)
            return
        head, *rows = [json.loads(line) for line in answer.body.splitlines()]
        assert head["shape"] == shape
        self._positions[shape] = head["position"]
        span = {"shape": shape, "position": head["position"]}
        self._ready.append({"type": "snapshot", **span, "part": 0, "last": True, "docs": rows})

    async def _page(self, shape: str) -> None:
        query = {"shape": shape, "position": self._positions[shape], "limit": _LIMIT}
        if len(self._live) == len(self._turns):
            query["wait"] = str(WAIT / len(self._turns))
        answer = await self._get("/v1/sync/log", query)
        if answer.status == 409:
            self._ready.append({"type": "reset", "shape": shape, "reason": json.loads(answer.body)["reason"]})
            del self._positions[shape]
            self._live.discard(shape)
            return
        if answer.status != 200:
            self._refused(answer)
            return
        page = json.loads(answer.body)
        assert (page["shape"], page["from"]) == (shape, self._positions[shape])
        self._positions[shape] = page["to"]
        self._ready.append(page | {"type": "events"})
        if page["live"] and shape not in self._live:
            self._live.add(shape)
            self._ready.append({"type": "live", "shape": shape, "position": page["to"]})

    def _refused(self, answer: Answer) -> None:
        self.ended = Ended(answer.status or None, answer.body[:200].decode(errors="replace"))
