"""The spans of deliveries: one for each traced event on each server, however many clients follow it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from eventsync.domain.positions import Seq
from eventsync.stores.log.hot_tier import TRACE
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.window import Window
from eventsync.tracing.process import current

if TYPE_CHECKING:  # it imports OpenTelemetry
    from eventsync.tracing.spans import Tracing

_MOST: Final = 10_000
"""Events whose context is held until they are published: those of a transaction wait for its end."""


class DeliverySpans:
    """The spans of one feed. They begin when a row arrives, and end when its event is handed to the connections.

    Only events that come by the change stream have one. What a server reads from the log later is old.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._arrived: dict[tuple[Any, Seq], tuple[str, int]] = {}
        """The `traceparent` of each row and the time of its arrival, by its log and number."""

    @classmethod
    def of_process(cls) -> DeliverySpans | None:
        """Return the spans of a feed; None if this process does not trace."""
        tracing = current()
        return None if tracing is None else cls(tracing)

    def arrived(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Note the rows that have the context of a trace. They may be anything."""
        now = time.time_ns()
        for row in rows:
            trace, key = row.get(TRACE), row.get("_id")
            if not isinstance(trace, str) or not isinstance(key, dict) or len(self._arrived) >= _MOST:
                continue
            log, seq = key.get("l"), key.get("n")
            if isinstance(log, str) and isinstance(seq, int):
                self._arrived[log, Seq(seq)] = trace, now

    def published(self, window: Window, events: Iterable[StoredEvent]) -> None:
        """End the spans of events that the window has just published."""
        if not self._arrived:
            return
        for event in events:
            if (noted := self._arrived.pop((window.log, event.seq), None)) is not None:
                self._delivered(window, event, *noted)
        # Without rows that came twice, and those of another log.
        self._arrived = {
            (log, seq): noted for (log, seq), noted in self._arrived.items() if log == window.log and seq > window.head
        }

    def _delivered(self, window: Window, event: StoredEvent, trace: str, began: int) -> None:
        channels = window.seen_by(event)
        attributes: dict[str, Any] = {
            "messaging.system": "eventsync",
            "messaging.operation.name": "deliver",
            "messaging.operation.type": "send",
            "messaging.destination.name": event.collection,
            "messaging.message.id": f"{window.log}:{event.seq}",
            "messaging.message.body.size": len(event.body),
            # After the publication: a connection that did not accept it waits by now.
            "eventsync.clients.written": sum(len(channel) - len(channel.waiting) for channel in channels),
            "eventsync.clients.woken": sum(len(channel.waiting) for channel in channels),
        }
        span = self._tracing.begin(f"deliver {event.collection}", trace, attributes, kind="producer", at=began)
        if span is not None:
            span.end()
