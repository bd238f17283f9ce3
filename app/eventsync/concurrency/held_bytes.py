"""A bound on the bytes that the requests of one process hold together: bodies, documents that were read, answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from eventsync.errors import Unavailable

FREE: Final = 64 * 1024
"""Bytes that each request may hold whatever others do, so that a few large ones keep nobody from small work."""

DOCUMENT_WEIGHT: Final = 4
"""Memory of a stored document that is read for a request, in times its size: as read, as JSON, in the answer."""


class HeldBytes:
    """Counts what requests hold. One for a server process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        self.refused = 0

    @contextmanager
    def request(self) -> Iterator[Reservation]:
        """Count what is needed within the block, in its task, and give it back at the end."""
        share = Reservation(self)
        token = _current.set(share)
        try:
            yield share
        finally:
            _current.reset(token)
            share.close()

    def grant(self, share: Reservation, size: int) -> None:
        """Let a request hold `size` bytes in all. Raises `Unavailable` where others hold too much."""
        others = self.held - share.size
        if size > FREE and others > 0 and others + size > self._most:
            self.refused += 1
            raise Unavailable.busy("the requests under way hold as many bytes as they may", 1.0, 5.0)
        self.held = others + size
        share.size = size


class Reservation:
    """The part of one request."""

    def __init__(self, held: HeldBytes) -> None:
        self._held = held
        self._closed = False
        self.size = 0

    def need(self, size: int) -> None:
        """Hold at least `size` bytes. Raises `Unavailable`."""
        # Work that several requests wait for may outlive the one that began it.
        if size > self.size and not self._closed:
            self._held.grant(self, size)

    def settle(self, size: int) -> None:
        """Give back all but `size` bytes."""
        if size < self.size:
            self._held.held -= self.size - size
            self.size = size

    def close(self) -> None:
        """Give back everything, for good."""
        self.settle(0)
        self._closed = True


_current: ContextVar[Reservation | None] = ContextVar("share", default=None)


def need(size: int) -> None:
    """Have the request that is being answered, if one is, hold at least `size` bytes. Raises `Unavailable`.

    What is tried again holds no more than before.
    """
    if (share := _current.get()) is not None:
        share.need(size)
