"""Acknowledgements: which positions are durable here, and which of them the server knows of. Without I/O.

The server takes an `ack` of a position that it has brought on this connection, and of no other one.
Source: `docs/reference/protocol.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from eventsync_client.positions import Position
from eventsync_client.replica import Held

_INTERVAL: Final = 1.0
"""Seconds in which what becomes durable makes one `ack`."""


class Acks:
    """The acknowledgements of one client."""

    def __init__(self, held: Mapping[str, Held]) -> None:
        """`held` are the shapes that are followed, kept by the client."""
        self.due: float | None = None
        """Time of the next one; None if there is nothing to acknowledge."""
        self._held = held
        self._durable: dict[str, str] = {}
        self._acked: dict[str, str] = {}

    def keep(self, shape: str, position: str | None) -> None:
        """Know that a shape's state at a position is durable; None: that it has none."""
        if position is None:
            self._durable.pop(shape, None)
        elif shape in self._held:
            self._durable[shape] = position

    def forget(self, shape: str) -> None:
        """Forget a shape that is not followed any more."""
        self._durable.pop(shape, None)
        self._acked.pop(shape, None)

    def disconnected(self) -> None:
        """Acknowledge everything again on the next connection."""
        self.due = None
        self._acked.clear()

    def plan(self, now: float) -> None:
        """Plan the next one if there is something to acknowledge."""
        if self.due is None and self._open():
            self.due = now + _INTERVAL

    def take(self) -> dict[str, str]:
        """Return what is to be acknowledged now; the server knows of it from now on."""
        self.due = None
        vector = self._open()
        self._acked |= vector
        return vector

    def _open(self) -> dict[str, str]:
        """Return the durable positions that the server does not know of, and that it has brought on this connection."""
        return {
            shape: position
            for shape, position in self._durable.items()
            if self._acked.get(shape) != position and _is_brought(self._held[shape], position)
        }


def _is_brought(held: Held, position: str) -> bool:
    return held.live and held.position is not None and held.position.reaches(Position.parse(position))
