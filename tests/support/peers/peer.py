"""Interface of a client of any make: connect from a state vector, receive the protocol's messages, be cut off."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

Message = dict[str, Any]
TransportName = Literal["websocket", "sse", "http"]

SUBPROTOCOL: Final = "eventsync.v1"


@dataclass(frozen=True, slots=True)
class Asked:
    """Request of a client: these shapes, continued from this vector."""

    shapes: tuple[str, ...]
    vector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came; `id` is the event's id where the transport has ids (SSE)."""

    message: Message
    id: str | None = None


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
