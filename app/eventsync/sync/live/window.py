"""The window: the newest events of the log, encoded, once in each server's memory.

Sessions are cursors into it. The window knows positions and shapes, and nothing of clients: a session subscribes to the
channels of its shapes, and the window publishes new events to them (`fan_out.py`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Final

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.waiting import LightEvent
from eventsync.domain import protocol
from eventsync.domain.positions import START, LogId, Position, Seq, scoped
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.routes import Transition
from eventsync.domain.shapes import Shape, Topic
from eventsync.domain.views import View
from eventsync.errors import Unavailable
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.fan_out import Channel, Subscriber
from eventsync.sync.live.figures import DeliveryFigures
from eventsync.sync.live.followed import BodyKey, body_key, followed, seen_body, transition_of
from eventsync.sync.live.pages import PageLimit, page_of
from eventsync.sync.live.redacting import NO_BODIES, Bodies, RedactedBodies, Unredacted, prepared, size_of

_OVERHEAD = 500
"""Approximate memory of an event besides its body, in bytes."""

_KEY: Final = 200
"""Approximate memory of a key of an event, in bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An `events` message with all events of a shape in `start < seq <= end`; `events` is their number."""

    start: Seq
    end: Seq
    data: bytes
    events: int = 0


_FEW: Final = 16
"""Events of a shape up to which a list holds them. Few documents have more, and an empty deque takes 760 bytes."""

_Events = deque[StoredEvent] | list[StoredEvent]

_REDACTED: Final = 16
"""Redacted bodies may take as much memory as this part of the window, and those that readers wait for as much again.

All views that hide the same share them.
"""

_AT_ONCE: Final = 256 * 1024
"""Bytes of events that are redacted without a pause."""

_SHORT: Final = 1024
"""Bytes of a short body."""

_NONE: Final[tuple[Seq, Frame | None]] = Seq(0), None


class Window:
    """Events `floor < seq <= head` of one log, bounded in bytes. Only the feed changes it; nothing that does awaits."""

    def __init__(self, limit_bytes: int, frame_limit: PageLimit, offload: Offload | None = None) -> None:
        """`offload` takes what is hidden out of large events; without it, that is done on the event loop."""
        self._limit = limit_bytes
        self._awaited = RedactedBodies(offload or inline(), limit_bytes // _REDACTED)
        self._left = _AT_ONCE
        """Bytes of events that may still be redacted without a pause."""
        self.frame_limit = frame_limit
        self._channels: dict[Topic, Channel] = {}
        """Channels by topic of their shape; each has subscribers."""
        self.figures = DeliveryFigures()
        self._by_source: dict[Topic, dict[Channel, None]] = {}
        """Those of shapes whose events are not kept by their topic, by what they are kept by."""
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
        self._redacted: LRUCache[BodyKey, bytes] = LRUCache(self._limit // _REDACTED, _cost)
        """Those that no reader had to wait for."""

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
        self._left = _AT_ONCE
        before: dict[Topic, Seq] = {}
        oldest: StoredEvent | None = None
        for event in events:
            oldest = oldest or event
            if event.seq != self.head + 1:
                raise ValueError(f"event {event.seq} does not follow {self.head}")
            self.head = event.seq
            self._all.append(event)
            self.bytes += _memory(event)
            for topic in _topics(event):
                self._keep(topic, event)
                # Nothing is published before all events are kept: a frame has to hold a whole transaction.
                before.setdefault(topic, Seq(event.seq - 1))
        self._drop_oldest()
        published: dict[Channel, Seq] = {}
        for topic, after in before.items():
            # A frame that was cached lacks the new events.
            self._frames.pop(topic, None)
            for channel in self._followers(topic):
                # A view may be found by several keys. Its message begins before the first event of any of them.
                published[channel] = min(after, published.get(channel, after))
        for channel, after in published.items():
            self._frames.pop(channel.shape.topic, None)
            self._publish(channel, after)
        if oldest is not None:
            self.figures.published(oldest.body, self.head - oldest.seq + 1, is_followed=bool(published))

    def seen_by(self, event: StoredEvent) -> set[Channel]:
        """Return the channels whose subscribers see an event."""
        channels = {channel for topic in _topics(event) for channel in self._followers(topic)}
        return {channel for channel in channels if _is_seen(event, channel.shape)}

    def _followers(self, topic: Topic) -> Collection[Channel]:
        """Return the channels of which the events of a topic are a part."""
        channel, others = self._channels.get(topic), self._by_source.get(topic, ())
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
        newest = self._newest_after(shape, after)
        if newest is not None:
            channel.newest = newest
        elif self.covers(after, shape):
            return  # nothing of it is seen
        try:
            frame = self._frame(shape, after, NO_BODIES) if self.covers(after, shape) else None
        except Unredacted:
            frame = None
        if self.log is None or frame is None or frame.end != newest:
            # More than one frame, or one that takes much work: each session reads the frames at its own pace.
            channel.wake()
        else:
            end = Position(scoped(self.log, shape.scope), frame.end)
            written = channel.publish(frame.data, end, frame.start, frame.events)
            self.figures.direct += written * frame.events

    def _drop_oldest(self) -> None:
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
                    if _is_seen(oldest, channel.shape):
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
        if not self.covers(seq, shape):
            return False
        if shape.is_selective and (channel := self._channels.get(shape.topic)) is not None:
            return channel.newest <= seq
        return self._newest_after(shape, seq) is None

    def _newest_after(self, shape: Shape, seq: Seq) -> Seq | None:
        """Return the seq of the newest event of a shape after `seq`, or None."""
        for event in self._newest_first(shape):
            if event.seq <= seq:
                return None
            if _is_seen(event, shape):
                return event.seq
        return None

    def _newest_first(self, shape: Shape) -> Iterator[StoredEvent]:
        """Yield the events among which those of a shape are, as they are in the log, the newest first."""
        # Backwards: cursors of live clients are near the end, and a deque is slow to index from the front.
        if shape.route is None:
            return reversed(self._by_topic.get(shape.topic, ()))
        lists = [events for source in shape.sources if (events := self._by_topic.get(source))]
        if len(lists) < 2:
            return reversed(lists[0]) if lists else iter(())
        return _once_each(heapq.merge(*map(reversed, lists), key=lambda event: -event.seq))

    def frame(self, shape: Shape, after: Seq, bodies: Bodies = NO_BODIES) -> Frame | None:
        """Return the shape's next frame after `after`, which the window must cover; None if there are no events.

        The frame's `start` is the seq of the shape's previous event: every cursor from there up to the first event gets
        the same bytes. Raises `Unredacted` if it lacks one of `bodies`: `redact` makes it.
        """
        self._left = _AT_ONCE
        return self._frame(shape, after, bodies)

    def _frame(self, shape: Shape, after: Seq, bodies: Bodies) -> Frame | None:
        if self.log is None:
            return None
        topic = shape.topic
        first, cached = self._frames.get(topic, _NONE)
        # Not for a cursor inside it: the frame would repeat events that the client has.
        if cached is not None and cached.start <= after < first:
            return cached
        following, earlier = self._split(shape, after)
        page = page_of(self._shown(shape, reversed(following), bodies), self.frame_limit)
        if not page.seqs:
            return None
        start = next((event.seq for event in earlier if _is_seen(event, shape)), self._since(shape))
        end = page.seqs[-1]
        data = protocol.events(shape, scoped(self.log, shape.scope), start, end, page.bodies)
        frame = Frame(start, end, data, len(page.seqs))
        # Only the newest frame is kept: nearly all cursors of a shape are near its end. One that is not dropped with
        # the events of its topic is dropped by its channel.
        is_newest = not page.full and (cached is None or start >= cached.start)
        if is_newest and (topic in self._channels or not _sources(shape)):
            self._frames[topic] = page.seqs[0], frame
        return frame

    def _split(self, shape: Shape, after: Seq) -> tuple[list[StoredEvent], Iterator[StoredEvent]]:
        """Return the events after `after` and those before, as they are in the log, the newest first."""
        following: list[StoredEvent] = []
        newest_first = self._newest_first(shape)
        for event in newest_first:
            if event.seq <= after:
                return following, chain((event,), newest_first)
            following.append(event)
        return following, iter(())

    def events(self, shape: Shape, after: Seq, bodies: Bodies = NO_BODIES) -> Iterator[StoredEvent]:
        """Return the shape's events after `after`, which the window must cover, as its readers see them.

        To iterate raises `Unredacted` if it lacks one of `bodies`: `redact` makes it.
        """
        self._left = _AT_ONCE
        return self._shown(shape, reversed(self._split(shape, after)[0]), bodies)

    async def redact(self, shape: Shape, first: Unredacted, bodies: Bodies) -> Bodies:
        """Return `bodies` with the one that a read of a shape lacked first, and perhaps some that it would lack next.

        The window may have changed then. Raises `Unavailable`.
        """
        log, route, found = self.log, shape.route, dict(bodies)
        originals = self.originals(shape, Seq(first.seq - 1), self.head)
        following = [(event, transition) for event, transition in originals if transition != "leave"]
        # Twice as many each time: the page may be full at the first, or have a thousand of which little is shown.
        for event, transition in reversed(following[-max(1, len(bodies)) :]):
            if route is not None:
                found[body_key(event, transition, route)] = await self._awaited.body(log, event, transition, route)
        if self.log != log:
            raise Unavailable("a new log was begun meanwhile: ask again")
        return found

    def originals(self, shape: Shape, after: Seq, up_to: Seq) -> Iterator[tuple[StoredEvent, Transition]]:
        """Yield the shape's events in `after < seq <= up_to` as the log has them, and what each means to its readers.

        The newest first. Those that have left the window are missing.
        """
        for event in self._newest_first(shape):
            if event.seq <= after:
                return
            if event.seq > up_to:
                continue
            transition = "stay" if shape.route is None else transition_of(event, shape.route)
            if transition is not None:
                yield event, transition

    def _shown(self, shape: Shape, events: Iterator[StoredEvent], bodies: Bodies) -> Iterator[StoredEvent]:
        return events if shape.route is None else followed(events, shape.route, prepared(bodies, self._body))

    def _body(self, event: StoredEvent, transition: Transition, route: Route | View) -> bytes:
        """Return the body of an event as readers see it. What is redacted is redacted once for all who see the same."""
        if route.redaction is None or transition == "leave":
            return seen_body(event, transition, route)
        key = body_key(event, transition, route)
        if (body := self._redacted.get(key)) is None:
            self._left -= size_of(event)
            if self._left < 0 or self._awaited.takes_helper(event):
                raise Unredacted(event.seq)
            body = seen_body(event, transition, route)
            # A short one of which nothing is hidden is found again as fast as it would be looked up.
            if body is not event.body or len(body) > _SHORT:
                self._redacted.keep(key, body)
        return body

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
            if shape.is_selective:
                channel.newest = self._newest_after(shape, START) or START
            for source in _sources(shape):
                self._by_source.setdefault(source, {})[channel] = None
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
        if sources := _sources(channel.shape):
            self._frames.pop(topic, None)
        for source in sources:
            followers = self._by_source[source]
            del followers[channel]
            if not followers:
                del self._by_source[source]

    def wake_all(self) -> None:
        """Detach and wake all subscribers."""
        self.wake(lambda _: True)

    def wake(self, is_concerned: Callable[[Shape], bool]) -> None:
        """Detach and wake the subscribers of some shapes."""
        for channel in self._channels.values():
            if is_concerned(channel.shape):
                channel.wake()


def _topics(event: StoredEvent) -> tuple[Topic, ...]:
    """Return what an event is kept by: its collection, its document, and its keys."""
    if event.routes is None:
        return event.collection, (event.collection, event.id)
    return event.collection, (event.collection, event.id), *event.routes.keys


def _sources(shape: Shape) -> Collection[Topic]:
    """Return what the events of a shape are kept by, unless that is its topic."""
    if shape.route is None:
        return ()
    sources = shape.sources
    return () if len(sources) == 1 and shape.topic in sources else sources


def _is_seen(event: StoredEvent, shape: Shape) -> bool:
    """Return True if an event that was found for a shape is one of it."""
    return not shape.is_selective or (shape.route is not None and transition_of(event, shape.route) is not None)


def _once_each(events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
    """Yield events without those that are the same as the one before."""
    seq = None
    for event in events:
        if event.seq != seq:
            seq = event.seq
            yield event


def _cost(body: bytes) -> int:
    return len(body) + _OVERHEAD


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
