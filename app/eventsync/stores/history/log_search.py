"""Searches of the log, the newest events first, with bounded work: a search reads a part, and says where it stopped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from eventsync.domain.event_body import operation_of, stamp_of
from eventsync.domain.events import NO_COLLECTION
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.events import EventStore
from eventsync.stores.log.stored_event import StoredEvent

_SPAN: Final = 1000
"""Events of the log that are looked at together."""

_MAX_SPANS: Final = 20
"""Spans of a search: at most 20,000 events."""

_IN_SPAN: Final = 5000
"""Events of a document in one span after which the span is too long."""

_SECONDS: Final = 2.0
"""Time after which a search looks at no further span."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The conditions on an event, of which all must hold. `shape` is a collection or a document."""

    shape: Shape | None = None
    by: str | None = None
    op: str | None = None

    def matches(self, event: StoredEvent) -> bool:
        """Return True for an event, of `shape`, that meets the other conditions."""
        if event.collection == NO_COLLECTION:
            return False
        if self.op is not None and operation_of(event.body) != self.op:
            return False
        return self.by is None or stamp_of(event.body).get("by") == self.by


@dataclass(frozen=True, slots=True)
class FoundEvents:
    """The newest matching events, the newest first. All events after `reached` were looked at."""

    events: Sequence[StoredEvent]
    reached: Seq


class LogSearch:
    """Searches both tiers. Raises as `EventStore.read`."""

    def __init__(self, events: EventStore) -> None:
        self._events = events

    async def newest(
        self, log: LogId, wanted: Wanted, *, after: Seq, up_to: Seq, limit: int, max_bytes: int
    ) -> FoundEvents:
        """Search the events with `after < seq <= up_to`, backwards, for at most `limit` with `max_bytes` together."""
        found: list[StoredEvent] = []
        size, looked_at, high, span, began = 0, 0, up_to, _SPAN, time.monotonic()
        is_of_document = wanted.shape is not None and wanted.shape.id is not None
        for _ in range(_MAX_SPANS):
            low = Seq(max(after, high - span))
            part, is_cut, count = await self._within(log, wanted, low, high, limit - len(found), max_bytes - size)
            looked_at += count
            if count > _IN_SPAN:
                span = max(_SPAN, span // 64)
                continue
            # The index finds those of a document. Where it has few, the next span is longer.
            span *= 4 if is_of_document and count < _SPAN // 4 else 1
            found += reversed(part)
            size += sum(len(event.body) for event in part)
            high = Seq(part[0].seq - 1) if is_cut else low
            if is_cut or high <= after or len(found) >= limit or looked_at >= _SPAN * _MAX_SPANS:
                break
            if time.monotonic() - began > _SECONDS:
                break
        return FoundEvents(found, high)

    async def _within(
        self, log: LogId, wanted: Wanted, after: Seq, up_to: Seq, limit: int, max_bytes: int
    ) -> tuple[deque[StoredEvent], bool, int]:
        """Return the newest matching events of a span, at least one, whether older ones were left out, and the number
        of events that were looked at. It gives up once that is over `_IN_SPAN`.
        """
        kept: deque[StoredEvent] = deque()
        size, is_cut, count = 0, False, 0
        async with aclosing(self._events.read(log, after, up_to, shape=wanted.shape)) as events:
            async for event in events:
                if (count := count + 1) > _IN_SPAN:
                    break
                if not wanted.matches(event):
                    continue
                kept.append(event)
                size += len(event.body)
                while len(kept) > 1 and (len(kept) > limit or size > max_bytes):
                    size -= len(kept.popleft().body)
                    is_cut = True
        return kept, is_cut, count
