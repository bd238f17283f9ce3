"""The events of a route or a view as its readers see them. Pure.

A document that enters appears to them as created, and one that leaves as deleted. A transaction counts only the events
that they see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from eventsync.domain.events import TransactionPart, recounted
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.routes import Transition, body_for, redacted_body
from eventsync.domain.views import Redactor, View
from eventsync.stores.log.stored_event import StoredEvent

Body = Callable[[StoredEvent, Transition, Route | View], bytes]
"""Returns the body of an event that means this to the readers of a route or view: `seen_body`, or a cache of it."""


BodyKey = tuple[int, Transition, bytes]
"""An event, what it means, and what is hidden: all that decides a body as readers see it."""


def body_key(event: StoredEvent, transition: Transition, route: Route | View) -> BodyKey:
    """Return the key of a body."""
    return event.seq, transition, b"" if route.redaction is None else route.redaction.digest


def seen_body(event: StoredEvent, transition: Transition, route: Route | View) -> bytes:
    """Return the body of an event as readers see it, before its transaction is counted."""
    return shown_body(event.body, transition, entered_document(event), route.redaction)


def entered_document(event: StoredEvent) -> bytes | None:
    """Return the document beside an event, for those that it enters."""
    return event.routes.document if event.routes else None


def shown_body(body: bytes, transition: Transition, document: bytes | None, redaction: Redactor | None) -> bytes:
    """Return the body of an event that means this, without what is hidden. A helper process may do it."""
    body = body_for(body, transition, document)
    return body if redaction is None else redacted_body(body, redaction)


def transition_of(event: StoredEvent, route: Route | View) -> Transition | None:
    """Return what an event of the collection, or of its document, means to readers; None if it is nothing to them."""
    if not route.clauses:
        return "stay"
    return None if event.routes is None else event.routes.transition(*route.clauses)


def followed(events: Iterable[StoredEvent], route: Route | View, body: Body = seen_body) -> Iterator[StoredEvent]:
    """Yield `events` as readers see them, without those that are nothing to them. Each transaction must be whole."""
    for name, run in groupby(events, _transaction):
        if name is None:
            yield from _seen(run, route, body)
        else:
            yield from _counted(list(_seen(run, route, body)), name)


def _transaction(event: StoredEvent) -> str | None:
    return None if event.transaction is None else event.transaction.id


def _seen(events: Iterable[StoredEvent], route: Route | View, body: Body) -> Iterator[StoredEvent]:
    for event in events:
        if (transition := transition_of(event, route)) is None:
            continue
        shown = event.body if transition == "stay" and route.redaction is None else body(event, transition, route)
        yield event if shown is event.body else event._replace(body=shown)


def _counted(events: list[StoredEvent], name: str) -> Iterator[StoredEvent]:
    """Yield the events of one transaction, numbered among themselves."""
    of = len(events)
    for n, event in enumerate(events, start=1):
        was, now = event.transaction, TransactionPart(name, n, of) if of > 1 else None
        if was is None or was == now:
            # They see the whole transaction, so they get the bytes that everybody gets.
            yield event
        else:
            yield event._replace(body=recounted(event.body, was, now), transaction=now)
