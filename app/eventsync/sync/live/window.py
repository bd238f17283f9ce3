"""The window: the newest events of the log, encoded, once in each server's memory.

Sessions are cursors into it. The window knows positions and shapes, and nothing of clients: a session subscribes to the
channels of its shapes, and the window publishes new events to them (`fan_out.py`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain import protocol
from eventsync.domain.positions import LogId, Position, Seq, scoped
from eventsync.domain.shapes import Shape, Topic
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.fan_out import Channel, Subscriber
from eventsync.sync.live.followed import followed
from eventsync.sync.live.pages import PageLimit, page_of

_OVERHEAD = 500
"""Approximate memory of an event besides its body, in bytes."""

_KEY: Final = 200
"""Approximate memory of a key of an event, in bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An `events` message with all events of a shape in `start < seq <= end`."""

    start: Seq
    end: Seq
    data: bytes


_FEW: Final = 16
"""Events of a shape up to which a list holds them. Few documents have more, and an empty deque takes 760 bytes."""

_Events = deque[StoredEvent] | list[StoredEvent]

_NONE: Final[tuple[Seq, Frame | None]] = Seq(0), None


class Window:
    """Events `floor < seq <= head` of one log, bounded in bytes. Only the feed changes it; nothing here awaits."""

    def __init__(self, limit_bytes: int, frame_limit: PageLimit) -> None:
        self._limit = limit_bytes
        self._frame_limit = frame_limit
        self._channels: dict[Topic, Channel] = {}
        """Channels by topic of their shape; each has subscribers."""
        self._by_key: dict[Topic, dict[Channel, None]] = {}
        """Those of shapes with several keys, by each of them. A shape with one key has that as its topic."""
        self.log: LogId | None = None
        self.suspended: str | None = None
        """Reason why no client may begin or catch up here; None normally.

        Set while MongoDB does not hold the log that this window was read from.
        """
        self._clear(Seq(0))

    def _clear(self, seq: Seq) -> None:
        self.floor = seq
        self.head = seq
        self.bytes = 0
        self._all: deque[StoredEvent] = deque()
        self._by_topic: dict[Topic, _Events] = {}
        """Events by collection, document and key."""
        self._frames: dict[Topic, tuple[Seq, Frame]] = {}
        """The newest frame of each shape, by its topic, and the seq of its first event."""

    # --- the feed's side ----------------------------------------------------------------------------------------

    def start(self, log: LogId, seq: Seq) -> None:
        """Restart, empty, at `log:seq`. Wakes all subscribers: their positions may be of another log."""
        self.log = log
        self._clear(seq)
        for channel in self._channels.values():
            channel.reset(seq)

    def extend(self, events: Iterable[StoredEvent]) -> None:
        """Append the next events, and publish them to the channels of their shapes.

        They must be dense, in order, and whole transactions.
        """
        before: dict[Topic, Seq] = {}
        for event in events:
            if event.seq != self.head + 1:
                raise ValueError(f"event {event.seq} does not follow {self.head}")
            self.head = event.seq
            self._all.append(event)
            self.bytes += _memory(event)
            for topic in _topics(event):
                self._keep(topic, event)
                # Nothing is published before all events are kept: a frame has to hold a whole transaction.
                before.setdefault(topic, Seq(event.seq - 1))
        self._evict()
        published: dict[Channel, Seq] = {}
        for topic, after in before.items():
            # A frame that was cached lacks the new events.
            self._frames.pop(topic, None)
            for channel in self._followers(topic):
                published[channel] = min(after, published.get(channel, after))
        for channel, after in published.items():
            self._frames.pop(channel.shape.topic, None)
            self._publish(channel, after)

    def _followers(self, topic: Topic) -> Collection[Channel]:
        """Return the channels of which the events of a topic are a part."""
        channel, others = self._channels.get(topic), self._by_key.get(topic, ())
        return others if channel is None else (channel, *others)

    def _keep(self, topic: Topic, event: StoredEvent) -> None:
        events = self._by_topic.get(topic)
        if events is None:
            self._by_topic[topic] = [event]
            return
        if len(events) == _FEW and not isinstance(events, deque):
            events = self._by_topic[topic] = deque(events)
        events.append(event)

    def _publish(self, channel: Channel, after: Seq) -> None:
        shape = channel.shape
        frame = self.frame(shape, after) if self.covers(after, shape) else None
        if self.log is None or frame is None or not self.is_current(shape, frame.end):
            # More than one frame: each session reads the frames at its own pace.
            channel.wake()
        else:
            channel.publish(frame.data, Position(scoped(self.log, shape.scope), frame.end))

    def _evict(self) -> None:
        # The newest event stays, however large it is: the feed compares it with the log to detect a restored backup.
        while self.bytes > self._limit and len(self._all) > 1:
            oldest = self._all.popleft()
            self.floor = oldest.seq
            self.bytes -= _memory(oldest)
            for topic in _topics(oldest):
                events = self._by_topic[topic]
                if isinstance(events, deque):
                    events.popleft()
                else:
                    del events[0]
                for channel in self._followers(topic):
                    channel.since = oldest.seq
                    if not events:
                        self._frames.pop(channel.shape.topic, None)
                if not events:
                    del self._by_topic[topic]
                    self._frames.pop(topic, None)

    def log_of(self, shape: Shape) -> LogId | None:
        """Return the log of a shape's positions: the window's, with the shape's scope."""
        return None if self.log is None else scoped(self.log, shape.scope)

    @property
    def mean(self) -> float:
        """Mean size of the events' bodies in bytes; 0 without events."""
        return (self.bytes / len(self._all) - _OVERHEAD) if self._all else 0.0

    # --- the sessions' side -------------------------------------------------------------------------------------

    @property
    def newest(self) -> StoredEvent | None:
        """The newest event, or None without events."""
        return self._all[-1] if self._all else None

    def covers(self, seq: Seq, shape: Shape | None = None) -> bool:
        """Return True if the window holds every event after `seq`, of `shape` or of all shapes."""
        return seq >= self.floor or (shape is not None and seq >= self._since(shape))

    def _since(self, shape: Shape) -> Seq:
        channel = self._channels.get(shape.topic)
        return channel.since if channel else self.floor

    def is_current(self, shape: Shape, seq: Seq) -> bool:
        """Return True if the shape has no event after `seq`."""
        events = self._events(shape)
        return self.covers(seq, shape) and (not events or events[-1].seq <= seq)

    def _events(self, shape: Shape) -> _Events | None:
        """Return the events of a shape, as they are in the log."""
        if shape.route is None:
            return self._by_topic.get(shape.topic)
        lists = [events for key in shape.route.keys if (events := self._by_topic.get(key))]
        if len(lists) < 2:
            return lists[0] if lists else None
        merged = heapq.merge(*lists, key=lambda event: event.seq)
        return list({event.seq: event for event in merged}.values())

    def frame(self, shape: Shape, after: Seq) -> Frame | None:
        """Return the shape's next frame after `after`, which the window must cover; None if there are no events.

        The frame's `start` is the seq of the shape's previous event: every cursor from there up to the first event gets
        the same bytes.
        """
        if self.log is None or not (events := self._events(shape)):
            return None
        topic = shape.topic
        first, cached = self._frames.get(topic, _NONE)
        # Not for a cursor inside it: the frame would repeat events that the client has.
        if cached is not None and cached.start <= after < first:
            return cached
        if after >= events[-1].seq:
            return None
        start, following = self._after(shape, after, events)
        page = page_of(following, self._frame_limit)
        end = page.seqs[-1]
        frame = Frame(start, end, protocol.events(shape, scoped(self.log, shape.scope), start, end, page.bodies))
        # Only the newest frame is kept: nearly all cursors of a shape are near its end. That of a shape with several
        # keys is dropped by its channel.
        is_newest = not page.full and (cached is None or start >= cached.start)
        if is_newest and (topic in self._channels or not _several_keys(shape)):
            self._frames[topic] = page.seqs[0], frame
        return frame

    def _after(self, shape: Shape, after: Seq, events: _Events) -> tuple[Seq, Iterator[StoredEvent]]:
        """Return the seq of the last event at or before `after`, and the events after it, as followers see them."""
        # Backwards: cursors of live clients are near the end, and a deque is slow to index from the front.
        following: list[StoredEvent] = []
        start = None
        for event in reversed(events):
            if event.seq <= after:
                start = event.seq
                break
            following.append(event)
        shown = reversed(following)
        return (
            self._since(shape) if start is None else start,
            shown if shape.route is None else followed(shown, shape.route.keys),
        )

    def events(self, shape: Shape, after: Seq) -> Iterator[StoredEvent]:
        """Return the shape's events after `after`, which the window must cover, as followers see them."""
        events = self._events(shape)
        return self._after(shape, after, events)[1] if events else iter(())

    @contextmanager
    def subscribers(self) -> Iterator[Subscribers]:
        """Provide the subscribers of one session or poll; they are removed at the end of the block."""
        subscribers = Subscribers(self)
        try:
            yield subscribers
        finally:
            subscribers.close()

    def subscribe(self, shape: Shape, event: LightEvent) -> Subscriber:
        """Add a subscriber to the channel of a shape; `event` is set by publications while it is not attached."""
        topic = shape.topic
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = Channel(shape, self.floor)
            for key in _several_keys(shape):
                self._by_key.setdefault(key, {})[channel] = None
        return channel.subscribe(event)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber that `subscribe` returned."""
        channel = subscriber.channel
        channel.unsubscribe(subscriber)
        if not channel:
            self._remove(channel)

    def _remove(self, channel: Channel) -> None:
        topic = channel.shape.topic
        del self._channels[topic]
        if keys := _several_keys(channel.shape):
            self._frames.pop(topic, None)
        for key in keys:
            followers = self._by_key[key]
            del followers[channel]
            if not followers:
                del self._by_key[key]

    def wake_all(self) -> None:
        """Detach and wake all subscribers."""
        for channel in self._channels.values():
            channel.wake()


def _topics(event: StoredEvent) -> tuple[Topic, ...]:
    """Return what an event is kept by: its collection, its document, and its keys."""
    if event.routes is None:
        return event.collection, (event.collection, event.id)
    return event.collection, (event.collection, event.id), *event.routes.keys


def _several_keys(shape: Shape) -> Collection[bytes]:
    """Return the keys of a shape that has several; none for others."""
    return () if shape.route is None or len(shape.route.keys) == 1 else shape.route.keys


def _memory(event: StoredEvent) -> int:
    size = len(event.body) + _OVERHEAD
    if event.routes is not None:
        size += _KEY * len(event.routes.keys) + len(event.routes.document or b"")
    return size


class Subscribers:
    """The subscribers of one session or poll, by shape. They share one event."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._by_shape: dict[Shape, Subscriber] = {}
        self.event = LightEvent()

    def add(self, shape: Shape) -> Subscriber:
        """Subscribe to a shape that is not subscribed to yet."""
        subscriber = self._by_shape[shape] = self._window.subscribe(shape, self.event)
        return subscriber

    def remove(self, shape: Shape) -> None:
        """Unsubscribe from a shape, if it is subscribed to."""
        if (subscriber := self._by_shape.pop(shape, None)) is not None:
            self._window.unsubscribe(subscriber)

    def close(self) -> None:
        """Unsubscribe from all shapes."""
        for shape in list(self._by_shape):
            self.remove(shape)
