"""Everybody here who follows one shape, and how news of it go straight to those who wait for nothing else.

A member rests while it has every event of the shape and knows that, and its connection takes bytes there and then. All
who rest stand at the same place, so what comes next is the same for all of them: it is encoded once for each kind of
connection, and where they stand afterwards is said once. What a client costs is its write, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.positions import Position, Seq
from eventsync.domain.shapes import Shape


@dataclass(frozen=True, slots=True)
class Publication:
    """An events message of a shape, for who has all that is before it; `end` is what the client has behind it."""

    shape: Shape
    data: bytes
    end: Position


Encode = Callable[[Publication], bytes]
"""News as connections of a kind send them."""

Write = Callable[[bytes], bool]
"""Writes to a connection at once, the whole or nothing; says which. It must not wait."""


@dataclass(frozen=True, slots=True)
class DirectWriter:
    """How news go straight to a client. Those with the same `encode` are sent the same bytes."""

    encode: Encode
    write: Write


class Channel:
    """The members, each on a seat of its own. Only the window tells it news."""

    def __init__(self, shape: Shape, since: Seq) -> None:
        self.shape = shape
        self.since = since
        """After which seq the window has all events of the shape, wherever its floor is.

        Who waits for something rare is not behind because much else happens.
        """
        self.end: Position | None = None
        """What those have who rested when news were told last."""
        self.told = 0.0
        """When that was, on the monotonic clock."""
        self._awake: set[Subscriber] = set()
        self._resting: dict[Encode, dict[Subscriber, Write]] = {}

    def __len__(self) -> int:
        return len(self._awake) + sum(map(len, self._resting.values()))

    def join(self, event: LightEvent) -> Subscriber:
        """A new member, which `event` wakes."""
        seat = Subscriber(self, event)
        self._awake.add(seat)
        return seat

    def tell(self, data: bytes, end: Position) -> None:
        """Send news to all who rest, and wake the others. The news begin where those who rest stand."""
        news = Publication(self.shape, data, end)
        for encode, resting in self._resting.items():
            encoded = encode(news)
            for seat in [seat for seat, write in resting.items() if not write(encoded)]:
                # Before `end` moves on: it has not got this.
                seat.rouse()
        self.end, self.told = end, time.monotonic()
        self._wake_awake()

    def begin_anew(self, since: Seq) -> None:
        """Nothing before `since` counts any more: positions may be of another log. Everybody is woken."""
        self.wake()
        self.since, self.end = since, None

    def wake(self) -> None:
        """Wake everybody; nobody rests any more."""
        for resting in self._resting.values():
            for seat in list(resting):
                seat.rouse()
        self._wake_awake()

    def _wake_awake(self) -> None:
        for seat in self._awake:
            seat.event.set()

    def seat_rests(self, seat: Subscriber, straight: DirectWriter) -> None:
        """For `Subscriber` only."""
        self._awake.discard(seat)
        self._resting.setdefault(straight.encode, {})[seat] = straight.write

    def seat_wakes(self, seat: Subscriber, encode: Encode) -> None:
        """For `Subscriber` only."""
        del self._resting[encode][seat]
        self._awake.add(seat)

    def leave(self, seat: Subscriber) -> None:
        """A member less."""
        seat.rouse()
        self._awake.discard(seat)


class Subscriber:
    """A member's place in an audience. While it does not rest, `event` is set whenever there are news."""

    __slots__ = ("_audience", "_encode", "_position", "event", "sent")

    def __init__(self, audience: Channel, event: LightEvent) -> None:
        self.event = event
        self.sent = 0.0
        """When something was last sent to it before it was roused, on the monotonic clock."""
        self._audience = audience
        self._position: Position | None = None
        self._encode: Encode | None = None

    @property
    def position(self) -> Position | None:
        """What the client has, with all that it was sent straight; None before it has rested."""
        return self._audience.end if self._was_told() else self._position

    def rest(self, position: Position, straight: DirectWriter) -> None:
        """Have news sent straight from now on. The client stands at `position`, and knows of all events before it."""
        self._position, self._encode = position, straight.encode
        self._audience.seat_rests(self, straight)

    def rouse(self) -> None:
        """Have nothing sent straight any more. `position` stays where it is."""
        if self._encode is None:
            return
        if self._was_told():
            self._position, self.sent = self._audience.end, self._audience.told
        encode, self._encode = self._encode, None
        self._audience.seat_wakes(self, encode)

    def _was_told(self) -> bool:
        """Whether it rests, and was sent anything since it does."""
        end, position = self._audience.end, self._position
        return self._encode is not None and end is not None and position is not None and end.seq > position.seq
