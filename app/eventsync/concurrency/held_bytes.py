"""A bound on the memory that all requests of one process hold together: bodies, stored documents, responses."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from eventsync.errors import RateLimited, Unavailable

FREE: Final = 64 * 1024
"""Bytes that every request may hold regardless of others, so that a few large ones do not block small work."""

DOCUMENT_WEIGHT: Final = 4
"""Memory that a stored document takes during a request, as a multiple of its size: BSON, JSON and response."""


class HeldBytes:
    """Counts the bytes that requests hold. There is one for each server process."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held = 0
        self.refused = 0

    def request(self) -> AbstractContextManager[Reservation]:
        """Account for the bytes needed by this task within the block, and release them at the end."""
        return _Request(self)

    def grant(self, reservation: Reservation, size: int) -> None:
        """Let a request hold `size` bytes in total. Raises `Unavailable` if other requests hold too much."""
        if reservation.share is not None:
            reservation.share.check(reservation.size, size)
        others = self.held - reservation.size
        # A request that is alone is not refused here: what a single one may hold is limited elsewhere.
        if size > FREE and others > 0 and others + size > self._max_bytes:
            self.refused += 1
            raise Unavailable.busy("the requests in progress use all the memory they may", 1.0, 5.0)
        self.held = others + size
        if reservation.share is not None:
            reservation.share.held += size - reservation.size
        reservation.size = size


@dataclass(slots=True)
class Share:
    """The bytes that all requests of one principal may hold together; 0: no limit."""

    max_bytes: int
    held: int = 0

    def check(self, before: int, size: int) -> None:
        """Raise `RateLimited` if a request that holds `before` bytes may not hold `size`."""
        others = self.held - before
        if self.max_bytes and size > FREE and others > 0 and others + size > self.max_bytes:
            raise RateLimited("your requests in progress use all the memory that they may")


class Reservation:
    """The bytes held by one request."""

    def __init__(self, held: HeldBytes) -> None:
        self.held_bytes = held
        self._closed = False
        self.size = 0
        self.share: Share | None = None
        """The principal's part, which counts these bytes, too."""

    def enter(self) -> None:
        """Account for what the current task needs from now on here."""
        _current.set(self)

    def need(self, size: int) -> None:
        """Hold at least `size` bytes. Raises `Unavailable`."""
        # Work shared by several requests may outlive the request that began it.
        if size > self.size and not self._closed:
            self.held_bytes.grant(self, size)

    def settle(self, size: int) -> None:
        """Release all but `size` bytes."""
        if size < self.size:
            self.held_bytes.held -= self.size - size
            if self.share is not None:
                self.share.held -= self.size - size
            self.size = size

    def close(self) -> None:
        """Release everything. Later calls of `need` have no effect."""
        self.settle(0)
        self._closed = True


class _Request:
    """The block of a request. A class, because a generator takes three times as long."""

    __slots__ = ("_reservation", "_token")

    def __init__(self, held: HeldBytes) -> None:
        self._reservation = Reservation(held)

    def __enter__(self) -> Reservation:
        self._token: Token[Reservation | None] = _current.set(self._reservation)
        return self._reservation

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        self._reservation.close()


_current: ContextVar[Reservation | None] = ContextVar("reservation", default=None)


def part() -> Reservation:
    """Return a reservation for a part of the current request. The caller closes it."""
    whole = _current.get()
    reservation = Reservation(HeldBytes(sys.maxsize) if whole is None else whole.held_bytes)
    reservation.share = None if whole is None else whole.share
    return reservation


def belong_to(share: Share) -> None:
    """Count what the current request holds, and needs from now on, as part of a share, too."""
    if (reservation := _current.get()) is not None and reservation.share is None:
        reservation.share = share
        share.held += reservation.size


def need(size: int) -> None:
    """Reserve at least `size` bytes for the current request, if there is one. Raises `Unavailable`.

    Calls do not add up, so a retry reserves no more than the first attempt.
    """
    if (reservation := _current.get()) is not None:
        reservation.need(size)
