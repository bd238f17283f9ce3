"""The events of a route as its followers see them. Pure.

A document that enters appears to them as created, and one that leaves as deleted. A transaction counts only the events
that they see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from eventsync.domain.events import TransactionPart, recounted
from eventsync.domain.routes import body_for
from eventsync.stores.log.stored_event import StoredEvent


def followed(events: Iterable[StoredEvent], keys: frozenset[bytes]) -> Iterator[StoredEvent]:
    """Yield `events`, each of which has one of `keys`, as followers see them. Each transaction must be whole."""
    for name, run in groupby(events, _transaction):
        if name is None:
            yield from (_seen(event, keys) for event in run)
        else:
            yield from _counted([_seen(event, keys) for event in run], name)


def _transaction(event: StoredEvent) -> str | None:
    return None if event.transaction is None else event.transaction.id


def _seen(event: StoredEvent, keys: frozenset[bytes]) -> StoredEvent:
    routes = event.routes
    if routes is None or not (routes.enters or routes.leaves):
        return event
    body = body_for(event.body, routes.transition(keys) or "stay", routes.document)
    return event if body is event.body else event._replace(body=body)


def _counted(events: list[StoredEvent], name: str) -> Iterator[StoredEvent]:
    """Yield the events of one transaction, numbered among themselves."""
    of = len(events)
    for n, event in enumerate(events, start=1):
        was, now = event.transaction, TransactionPart(name, n, of) if of > 1 else None
        if was is None or was == now:
            yield event
        else:
            yield event._replace(body=recounted(event.body, was, now), transaction=now)
