"""Counts of what a server sends. Each step is an addition: a delivery may not pay for being counted."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Final

from eventsync.domain.event_body import committed_at
from eventsync.metrics.instruments import Histogram

_RECENT: Final = 200
"""Delays that are kept for an overview."""


class DeliveryFigures:
    """The deliveries of a server process. A delivery is one event for one client."""

    def __init__(self) -> None:
        self.events = 0
        """Events of the log that were published."""
        self.direct = 0
        """Deliveries that were written to connections directly."""
        self.sent = 0
        """Deliveries in messages of sessions."""
        self.polled = 0
        """Deliveries in pages of polls."""
        self.delay = Histogram()
        """Seconds from the commit of events until they were handed to all caught-up connections."""
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self.answers: Counter[str] = Counter()
        self.resets: Counter[str] = Counter()

    def published(self, oldest: bytes, count: int, *, is_followed: bool) -> None:
        """Count `count` events that were published together. `oldest` is the body of the first of them.

        One time is read for all of them, and only if somebody follows one of their shapes.
        """
        self.events += count
        if is_followed and (committed := committed_at(oldest)) is not None:
            # By this server's clock, which may differ from MongoDB's.
            delay = max(0.0, time.time() - committed)
            self.delay.observe(delay, count)
            self._recent.append(delay)

    @property
    def deliveries(self) -> int:
        """All deliveries so far."""
        return self.direct + self.sent + self.polled

    def take_delays(self) -> list[float]:
        """Return the newest of the seconds in `delay` that were observed since the last call."""
        taken = [round(delay, 6) for delay in self._recent]
        self._recent.clear()
        return taken
