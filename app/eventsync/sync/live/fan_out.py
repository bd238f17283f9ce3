"""Fan-out: the subscribers of each shape on this server, and publishing to them.

A subscriber is either attached or waiting. While it is attached, publications are written to its connection directly;
while it waits, they only set its event, and its session reads the window itself.

A subscriber attaches only when its client has, and knows that it has, every event of the shape. All attached
subscribers are thus at the same position: a publication is encoded once for each kind of connection, and their position
is kept once, in the channel. One more client costs one more write.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.positions import START, Position, Seq
from eventsync.domain.shapes import Shape


@dataclass(frozen=True, slots=True)
class Publication:
    """An `events` message for clients that have everything before it; `end` is their position afterwards.

    `events` is the number of events in it, which come after `start`.
    """

    shape: Shape
    data: bytes
    end: Position
    start: Seq = START
    events: int = 0


Encode = Callable[[Publication], bytes]
"""Encodes a publication for connections of one kind."""

Write = Callable[[bytes], bool]
"""Writes all bytes to a connection and returns True, or writes nothing and returns False. Must not block."""


@dataclass(frozen=True, slots=True)
class DirectWriter:
    """Writes publications to one connection. All writers with the same `encode` are given the same bytes."""

    encode: Encode
    write: Write


class Subscriber:
    """One subscription of one session to a channel. Created by `Channel.subscribe`."""

    __slots__ = ("_encode", "_position", "channel", "event", "last_sent")

    def __init__(self, channel: Channel, event: LightEvent) -> None:
        self.channel = channel
        self.event = event
        """Set by each publication while the subscriber is not attached."""
        self.last_sent = 0.0
        """Monotonic time of the last direct write before the last detach."""
        self._position: Position | None = None
        self._encode: Encode | None = None

    @property
    def position(self) -> Position | None:
        """Position of the client after all direct writes; None before the first `attach`."""
        return self.channel.end if self._was_written_to() else self._position

    @property
    def is_attached(self) -> bool:
        """True while publications are written directly: the client has every event of the shape."""
        return self._encode is not None

    def attach(self, position: Position, writer: DirectWriter) -> None:
        """Write publications directly from now on. The client is at `position` and has everything before it."""
        self._position, self._encode = position, writer.encode
        self.channel.waiting.discard(self)
        self.channel.attached.setdefault(writer.encode, {})[self] = writer.write

    def detach(self) -> None:
        """Stop direct writes; publications set the event again. `position` keeps its value."""
        if self._encode is None:
            return
        # Noted now: once detached, it no longer moves with the channel.
        if self._was_written_to():
            self._position, self.last_sent = self.channel.end, self.channel.last_published
        del self.channel.attached[self._encode][self]
        self.channel.waiting.add(self)
        self._encode = None

    def _was_written_to(self) -> bool:
        """Return True if a publication was written since the subscriber attached, and it still is."""
        end, position = self.channel.end, self._position
        return self._encode is not None and end is not None and position is not None and end.seq > position.seq


class Channel:
    """The subscribers of one shape. Only the window publishes to it."""

    __slots__ = ("attached", "end", "last_published", "newest", "shape", "since", "waiting")

    def __init__(self, shape: Shape, since: Seq) -> None:
        self.shape = shape
        self.since = since
        """The window holds every event of the shape after this seq.

        It may be lower than the window's floor: a shape with rare events does not fall behind when others have many.
        """
        self.newest = START
        """Seq of the newest event of the shape in the window, if the shape is a selective one."""
        self.end: Position | None = None
        """Position of all subscribers that were attached at the last publication."""
        self.last_published = 0.0
        """Monotonic time of the last publication."""
        self.waiting: set[Subscriber] = set()
        self.attached: dict[Encode, dict[Subscriber, Write]] = {}
        """Changed only by `Subscriber.attach` and `Subscriber.detach`, like `waiting`."""

    def __len__(self) -> int:
        return len(self.waiting) + sum(map(len, self.attached.values()))

    def subscribe(self, event: LightEvent) -> Subscriber:
        """Add a subscriber, which waits until it is attached."""
        subscriber = Subscriber(self, event)
        self.waiting.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        subscriber.detach()
        self.waiting.discard(subscriber)
        self.tidy()

    def tidy(self) -> None:
        """Forget kinds of connections that no attached subscriber has, for which each publication is encoded."""
        for encode in [encode for encode, attached in self.attached.items() if not attached]:
            del self.attached[encode]

    def publish(self, data: bytes, end: Position, start: Seq = START, events: int = 0) -> int:
        """Write an `events` message to all attached subscribers, and set the event of all others.

        Returns the number of subscribers that it was written to.

        The message must begin at the position of the attached subscribers, and ends at `end`. The call never waits for
        a client: a subscriber whose connection does not accept the whole message at once receives none of it, is
        detached at its old position, and is woken.
        """
        publication, written = Publication(self.shape, data, end, start, events), 0
        for encode, attached in self.attached.items():
            encoded = encode(publication)
            # Detached only after the loop: a detach changes the dictionary that the loop goes through.
            refused: list[Subscriber] = []
            for subscriber, write in attached.items():
                if not write(encoded):
                    refused.append(subscriber)
            # Before `end` advances: these have not received this publication.
            written += len(attached) - len(refused)
            for subscriber in refused:
                subscriber.detach()
        self.end, self.last_published = end, time.monotonic()
        self._wake_waiting()
        return written

    def reset(self, since: Seq) -> None:
        """Detach and wake all, and forget the position: the window restarts at `since`, maybe with another log."""
        self.wake()
        self.since, self.end, self.newest = since, None, START

    def wake(self) -> None:
        """Detach all, and set the event of each subscriber."""
        for attached in self.attached.values():
            for subscriber in list(attached):
                subscriber.detach()
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        for subscriber in self.waiting:
            subscriber.event.set()
