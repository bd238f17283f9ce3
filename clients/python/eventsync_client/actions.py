"""Actions: the requests of the client without I/O to its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eventsync_client.replica import Json, Update

Why = Literal["connect", "expiring", "refused"]
"""Reason for which the token function is asked."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the token function, and pass its answer to `Core.token`."""

    why: Why


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect, and call `Core.opened`."""


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection; nothing more of it is passed in."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message."""

    message: Json


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Acknowledge a vector by a request (`PUT /v1/state-vectors/…`): the connection has one direction."""

    vector: dict[str, str]


@dataclass(frozen=True, slots=True)
class Refused:
    """The server has refused something, for the application to know. With `forgotten`, a shape is not followed more."""

    message: Json
    forgotten: str | None = None


Action = Acknowledge | Ask | Connect | Cut | Send | Refused | Update
