"""Redaction of large bodies by a helper process, so that it delays no other client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from eventsync.concurrency.offload import Offload
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.routes import Transition
from eventsync.domain.views import View
from eventsync.errors import TooComplex, Unavailable
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.followed import Body, BodyKey, body_key, entered_document, seen_body, shown_body, transition_of


async def redacted(
    events: Iterable[StoredEvent], routes_of: Callable[[StoredEvent], Iterable[Route | View]], offload: Offload
) -> Mapping[BodyKey, bytes]:
    """Return the large bodies as the readers of these routes and views see them, if something is hidden from them.

    What a helper can't do at present is left out.
    """
    found: dict[BodyKey, bytes] = {}
    for event in events:
        if (size := _size(event)) <= offload.above:
            continue
        for route in routes_of(event):
            transition = None if route.redaction is None else transition_of(event, route)
            if transition in (None, "leave") or (key := body_key(event, transition, route)) in found:
                continue
            document = entered_document(event)
            try:
                found[key] = await offload.run(shown_body, event.body, transition, document, route.redaction, size=size)
            except (TooComplex, Unavailable):
                # `seen_body` then does it on the event loop: that delays others, but shows nothing that is hidden.
                continue
    return found


def prepared(bodies: Mapping[BodyKey, bytes], otherwise: Body = seen_body) -> Body:
    """Return the function that gives the body of an event as readers see it, from `bodies` if it is there."""

    def body(event: StoredEvent, transition: Transition, route: Route | View) -> bytes:
        found = bodies.get(body_key(event, transition, route)) if route.redaction is not None else None
        return otherwise(event, transition, route) if found is None else found

    return body if bodies else otherwise


def _size(event: StoredEvent) -> int:
    return len(event.body) + len(entered_document(event) or b"")
