"""Redaction of large bodies by a helper process, so that it delays no other client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.offload import Offload
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.routes import Transition
from eventsync.domain.views import View
from eventsync.errors import TooComplex, Unavailable
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.followed import Body, BodyKey, body_key, entered_document, seen_body, shown_body, transition_of

Bodies = Mapping[BodyKey, bytes]
"""Bodies without what is hidden, by event, meaning and redaction."""

NO_BODIES: Final[Bodies] = {}
"""Those that a read has at first."""


class Unredacted(Exception):
    """A large body, of the event `seq`, has to be redacted by a helper process before it can be read."""

    def __init__(self, seq: Seq) -> None:
        super().__init__(f"event {seq}")
        self.seq = seq


class LargeBodies:
    """Redacts the large events of a window, each once for all who wait for the same, and keeps the newest results."""

    def __init__(self, offload: Offload, max_bytes: int) -> None:
        """Keep `max_bytes`, or one larger body: that of a single event may have 90 MiB."""
        self._offload = offload
        self._flights: SingleFlight[bytes] = SingleFlight()
        self._kept: LRUCache[tuple[LogId | None, BodyKey], bytes] = LRUCache(max_bytes, len, keeps_one=True)

    def includes(self, event: StoredEvent) -> bool:
        """Return True if an event is large."""
        return _size(event) > self._offload.above

    async def redacted(
        self, log: LogId | None, event: StoredEvent, transition: Transition, route: Route | View
    ) -> bytes:
        """Return the body of an event of `log` as readers see it. Raises `Unavailable`."""
        key = log, body_key(event, transition, route)
        if (body := self._kept.get(key)) is None:
            body = await self._flights.fetch(key, lambda: _redacted(event, transition, route, self._offload))
            self._kept.keep(key, body)
        return body


async def redacted(events: Iterable[StoredEvent], route: Route | View, offload: Offload) -> Bodies:
    """Return the large bodies as readers see them, if something is hidden from them. Raises `Unavailable`."""
    found: dict[BodyKey, bytes] = {}
    if route.redaction is not None:
        for event in events:
            if _size(event) > offload.above and (transition := transition_of(event, route)) not in (None, "leave"):
                found[body_key(event, transition, route)] = await _redacted(event, transition, route, offload)
    return found


async def _redacted(event: StoredEvent, transition: Transition, route: Route | View, offload: Offload) -> bytes:
    document = entered_document(event)
    try:
        return await offload.run(shown_body, event.body, transition, document, route.redaction, size=_size(event))
    except TooComplex as error:
        # It would take as long on the event loop, and delay everybody. The reader's request is not at fault.
        raise Unavailable("a large event can't be read at present") from error


def prepared(bodies: Bodies, otherwise: Body = seen_body) -> Body:
    """Return the function that gives the body of an event as readers see it, from `bodies` if it is there."""

    def body(event: StoredEvent, transition: Transition, route: Route | View) -> bytes:
        found = bodies.get(body_key(event, transition, route)) if route.redaction is not None else None
        return otherwise(event, transition, route) if found is None else found

    return body if bodies else otherwise


def _size(event: StoredEvent) -> int:
    return len(event.body) + len(entered_document(event) or b"")
