"""The window: the newest events of the log, encoded, once in each server's memory.

Sessions are cursors into it. It knows positions and shapes and nothing of clients; whoever wants to be told of news
listens to the shapes that it wants to hear of: is woken, or is sent the news there and then (`audience.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain import protocol
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.fan_out import Channel, Subscriber
from eventsync.sync.live.pages import PageLimit, page_of

_OVERHEAD = 500
"""What an event costs here besides its body, roughly, in bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An events message and the span of a shape that it covers: `start < seq <= end`."""

    start: Seq
    end: Seq
    data: bytes


_FEW: Final = 16
"""Events of a shape that are kept in a list: nearly every document has no more, and an empty deque takes 760 bytes."""

_Events = deque[StoredEvent] | list[StoredEvent]

_NONE: Final[tuple[Seq, Frame | None]] = Seq(0), None


class Window:
    """Events `floor < seq <= head` of one log, bounded in bytes. Only the feed changes it; nothing here awaits."""

    def __init__(self, limit_bytes: int, frame_limit: PageLimit) -> None:
        self._limit = limit_bytes
        self._frame_limit = frame_limit
        self._audiences: dict[Shape, Channel] = {}
        """Who listens, by shape; none is without members."""
        self.log: LogId | None = None
        self.suspended: str | None = None
        """Why nobody may begin or catch up here for now: what MongoDB holds is not the log that is here."""
        self._clear(Seq(0))

    def _clear(self, seq: Seq) -> None:
        self.floor = seq
        self.head = seq
        self.bytes = 0
        self._all: deque[StoredEvent] = deque()
        self._by_shape: dict[Shape, _Events] = {}
        self._frames: dict[Shape, tuple[Seq, Frame]] = {}
        """The newest frame of a shape, and the first event in it."""

    # --- the feed's side ----------------------------------------------------------------------------------------

    def start(self, log: LogId, seq: Seq) -> None:
        """Begin anew, empty, at `log:seq`. Everybody is woken: their positions may be of another log."""
        self.log = log
        self._clear(seq)
        for audience in self._audiences.values():
            audience.begin_anew(seq)

    def extend(self, events: Iterable[StoredEvent]) -> None:
        """Take the next events: dense, in order, and whole transactions only. Wakes who waits for their shapes."""
        before: dict[Shape, Seq] = {}
        for event in events:
            if event.seq != self.head + 1:
                raise ValueError(f"event {event.seq} does not follow {self.head}")
            self.head = event.seq
            self._all.append(event)
            self.bytes += len(event.body) + _OVERHEAD
            for shape in (Shape(event.collection), Shape(event.collection, event.id)):
                self._keep(shape, event)
                before.setdefault(shape, Seq(event.seq - 1))
        self._evict()
        for shape, after in before.items():
            self._frames.pop(shape, None)
            if audience := self._audiences.get(shape):
                self._tell(audience, after)

    def _keep(self, shape: Shape, event: StoredEvent) -> None:
        events = self._by_shape.get(shape)
        if events is None:
            self._by_shape[shape] = [event]
            return
        if len(events) == _FEW and not isinstance(events, deque):
            events = self._by_shape[shape] = deque(events)
        events.append(event)

    def _tell(self, audience: Channel, after: Seq) -> None:
        shape = audience.shape
        frame = self.frame(shape, after) if self.covers(after, shape) else None
        if self.log is None or frame is None or not self.is_current(shape, frame.end):
            # More than a frame is fetched by each at its own pace.
            audience.wake()
        else:
            audience.tell(frame.data, Position(self.log, frame.end))

    def _evict(self) -> None:
        while self.bytes > self._limit and len(self._all) > 1:
            oldest = self._all.popleft()
            self.floor = oldest.seq
            self.bytes -= len(oldest.body) + _OVERHEAD
            for shape in (Shape(oldest.collection), Shape(oldest.collection, oldest.id)):
                events = self._by_shape[shape]
                if isinstance(events, deque):
                    events.popleft()
                else:
                    del events[0]
                if audience := self._audiences.get(shape):
                    audience.since = oldest.seq
                if not events:
                    del self._by_shape[shape]
                    self._frames.pop(shape, None)

    @property
    def mean(self) -> float:
        """Bytes of an event here on average; 0 where there is none."""
        return (self.bytes / len(self._all) - _OVERHEAD) if self._all else 0.0

    # --- the sessions' side -------------------------------------------------------------------------------------

    @property
    def newest(self) -> StoredEvent | None:
        """The newest event here, None where there is none."""
        return self._all[-1] if self._all else None

    def covers(self, seq: Seq, shape: Shape | None = None) -> bool:
        """Whether every event after `seq` is here, of `shape` or of all."""
        return seq >= self.floor or (shape is not None and seq >= self._since(shape))

    def _since(self, shape: Shape) -> Seq:
        audience = self._audiences.get(shape)
        return audience.since if audience else self.floor

    def is_current(self, shape: Shape, seq: Seq) -> bool:
        """Whether there is nothing of the shape after `seq`."""
        events = self._by_shape.get(shape)
        return self.covers(seq, shape) and (not events or events[-1].seq <= seq)

    def frame(self, shape: Shape, after: Seq) -> Frame | None:
        """The next frame of a shape for a cursor at `after`, which the window must cover; None when there is nothing.

        Its `start` is where the shape's previous event stood, so that every cursor between there and the first event
        is served by the same bytes.
        """
        if self.log is None or not (events := self._by_shape.get(shape)):
            return None
        first, cached = self._frames.get(shape, _NONE)
        # Not for a cursor further on in it: it would send what is there already, to everybody who is live.
        if cached is not None and cached.start <= after < first:
            return cached
        if after >= events[-1].seq:
            return None
        start, following = self._after(shape, after)
        page = page_of(following, self._frame_limit)
        end = page.seqs[-1]
        frame = Frame(start, end, protocol.events(shape, self.log, start, end, page.bodies))
        if not page.full and (cached is None or start >= cached.start):
            self._frames[shape] = page.seqs[0], frame
        return frame

    def _after(self, shape: Shape, after: Seq) -> tuple[Seq, Iterator[StoredEvent]]:
        """The seq of the last event at or before `after`, and those behind it; live cursors find both at the end."""
        events = self._by_shape[shape]
        # Backwards, and no slice from the front: a deque would pass over all that is kept before it.
        following: list[StoredEvent] = []
        for event in reversed(events):
            if event.seq <= after:
                return event.seq, reversed(following)
            following.append(event)
        return self._since(shape), iter(events)

    def events(self, shape: Shape, after: Seq) -> Iterator[StoredEvent]:
        """The shape's events after `after`, which the window must cover."""
        events = self._by_shape.get(shape)
        return self._after(shape, after)[1] if events else iter(())

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Be told of news while the block runs."""
        listener = Listener(self)
        try:
            yield listener
        finally:
            listener.close()

    def join(self, shape: Shape, event: LightEvent) -> Subscriber:
        """Have `event` set when there are news of a shape, unless they go straight to the seat."""
        audience = self._audiences.get(shape)
        if audience is None:
            audience = self._audiences[shape] = Channel(shape, self.floor)
        return audience.join(event)

    def leave(self, shape: Shape, seat: Subscriber) -> None:
        """Give up a seat that `join` gave."""
        audience = self._audiences[shape]
        audience.leave(seat)
        if not audience:
            del self._audiences[shape]

    def wake_all(self) -> None:
        """Wake everybody who listens."""
        for audience in self._audiences.values():
            audience.wake()


class Listener:
    """An event that is set when there are news of one of its shapes, unless they went straight to its seat."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._seats: dict[Shape, Subscriber] = {}
        self.event = LightEvent()

    def add(self, shape: Shape) -> Subscriber:
        """Be told of news of a shape, too, that is not listened to yet."""
        seat = self._seats[shape] = self._window.join(shape, self.event)
        return seat

    def forget(self, shape: Shape) -> None:
        """Be told of news of a shape no longer."""
        if (seat := self._seats.pop(shape, None)) is not None:
            self._window.leave(shape, seat)

    def close(self) -> None:
        """Be told of nothing any more."""
        for shape in list(self._seats):
            self.forget(shape)
