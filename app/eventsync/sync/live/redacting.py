"""Redaction of bodies that is much work: of large ones by a helper process, of many with pauses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from eventsync.concurrency.lru_cache import LRUCache
from eventsync.concurrency.offload import Offload
from eventsync.concurrency.single_flight import SingleFlight
from eventsync.concurrency.slices import SLICE, turn
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.routes import Transition
from eventsync.domain.views import View
from eventsync.errors import TooComplex, Unavailable
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.followed import Body, BodyKey, body_key, entered_document, seen_body, shown_body, transition_of

Bodies = Mapping[BodyKey, bytes]
"""Bodies without what is hidden, by event, meaning and redaction."""

_SHORT: Final = 1024
"""Bytes of a short event."""

NO_BODIES: Final[Bodies] = {}
"""Those that a read has at first."""


class Unredacted(Exception):
    """Before a read can continue, the body of the event `seq` is to be redacted: it is large, or one too many."""

    def __init__(self, seq: Seq) -> None:
        super().__init__(f"event {seq}")
        self.seq = seq


class RedactedBodies:
    """Redacts events of a window, each once for all who wait for the same, and keeps the newest results."""

    def __init__(self, offload: Offload, max_bytes: int) -> None:
        """Keep `max_bytes`, or one larger body: that of a single event may have 90 MiB."""
        self._offload = offload
        self._flights: SingleFlight[bytes] = SingleFlight()
        self._kept: LRUCache[tuple[LogId | None, BodyKey], bytes] = LRUCache(max_bytes, len, keeps_one=True)

    def takes_helper(self, event: StoredEvent) -> bool:
        """Return True if an event is so large that a helper redacts it."""
        return size_of(event) > self._offload.above

    async def body(self, log: LogId | None, event: StoredEvent, transition: Transition, route: Route | View) -> bytes:
        """Return the body of an event of `log` as readers see it. Raises `Unavailable`."""
        key = log, body_key(event, transition, route)
        if (body := self._kept.get(key)) is None:
            body = await self._flights.fetch(key, lambda: _redacted(event, transition, route, self._offload))
            self._kept.keep(key, body)
        return body


async def redacted(events: Iterable[StoredEvent], route: Route | View, offload: Offload) -> Bodies:
    """Return bodies as readers see them, if something is hidden from them. Raises `Unavailable`.

    Some short ones are left out, for which there is room in this iteration of the event loop.
    """
    found: dict[BodyKey, bytes] = {}
    if route.redaction is None:
        return found
    short = 0
    for event in events:
        if (size := size_of(event)) <= _SHORT and short + size <= SLICE:
            short += size
        elif (transition := transition_of(event, route)) not in (None, "leave"):
            found[body_key(event, transition, route)] = await _redacted(event, transition, route, offload)
    if short:
        await turn(short)
    return found


async def _redacted(event: StoredEvent, transition: Transition, route: Route | View, offload: Offload) -> bytes:
    document = entered_document(event)
    try:
        return await offload.call(size_of(event), shown_body, event.body, transition, document, route.redaction)
    except TooComplex as error:
        # It would take as long on the event loop, and delay everybody. The reader's request is not at fault.
        raise Unavailable("a large event can't be read at present") from error


def prepared(bodies: Bodies, otherwise: Body = seen_body) -> Body:
    """Return the function that gives the body of an event as readers see it, from `bodies` if it is there."""

    def body(event: StoredEvent, transition: Transition, route: Route | View) -> bytes:
        found = bodies.get(body_key(event, transition, route)) if route.redaction is not None else None
        return otherwise(event, transition, route) if found is None else found

    return body if bodies else otherwise


def size_of(event: StoredEvent) -> int:
    """Return the bytes of an event that are read to redact it."""
    return len(event.body) + len(entered_document(event) or b"")
