"""The newest events of the log under two sets of rules: what principals would have seen more, or less."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from eventsync.domain.access.grants import EVERYTHING, ReadGrant
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.replay import patched
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import Document, copied, from_tree
from eventsync.errors import EventsyncError, Unavailable
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores

MAX_EVENTS: Final = 100_000
_SHOWN: Final = 20
"""Documents that are named for a principal."""


@dataclass(slots=True)
class Seen:
    """The events of a collection that a principal sees: under both rules, and only under the old or the new ones.

    `redacted` counts those that are seen under both with other hidden fields. `documents` has some of those that
    differ, with `+` where they are seen more, `-` where less, and `~` where other fields are hidden.
    """

    both: int = 0
    more: int = 0
    less: int = 0
    redacted: int = 0
    documents: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Replay:
    """The result: for each principal by number and collection, what it sees. `unknown` counts events whose document
    is not known, because the history before them is not kept.
    """

    events: int = 0
    unknown: int = 0
    seen: dict[tuple[int, str], Seen] = field(default_factory=dict)


async def replayed(
    stores: Stores, old: AccessRules | None, new: AccessRules | None, principals: Sequence[Principal], count: int
) -> Replay:
    """Replay the newest `count` events. Rules that are None allow everything. Raises `Unavailable`."""
    result, grants = Replay(), _Grants(old, new, principals)
    async for event, before, after in _changes(stores, count):
        result.events += 1
        if before is None and after is None:
            result.unknown += 1
            continue
        states = [state for state in (before, after) if state is not None]
        for number, (first, second) in enumerate(grants.of(event.collection)):
            seen = result.seen.setdefault((number, event.collection), Seen())
            _count(seen, f"{event.collection}/{event.id}", first, second, states)
    return result


class _Grants:
    """The grants of each principal under the old and the new rules, by collection."""

    def __init__(self, old: AccessRules | None, new: AccessRules | None, principals: Sequence[Principal]) -> None:
        self._rules = (old, new)
        self._principals = principals
        self._known: dict[str, list[tuple[ReadGrant | None, ReadGrant | None]]] = {}

    def of(self, collection: str) -> list[tuple[ReadGrant | None, ReadGrant | None]]:
        if collection not in self._known:
            old, new = self._rules
            self._known[collection] = [
                (_grant(old, principal, collection), _grant(new, principal, collection))
                for principal in self._principals
            ]
        return self._known[collection]


def _grant(rules: AccessRules | None, principal: Principal, collection: str) -> ReadGrant | None:
    return EVERYTHING if rules is None else rules.grant(principal, collection)


def _count(
    seen: Seen, name: str, first: ReadGrant | None, second: ReadGrant | None, states: Sequence[Document]
) -> None:
    saw, sees = (grant is not None and any(map(grant.allows, states)) for grant in (first, second))
    if not saw and not sees:
        return
    if saw and sees:
        seen.both += 1
        hid, hides = (grant.redaction if grant else None for grant in (first, second))
        if hid == hides:
            return
        seen.redacted += 1
        mark = "~"
    elif sees:
        seen.more += 1
        mark = "+"
    else:
        seen.less += 1
        mark = "-"
    if name in seen.documents or len(seen.documents) < _SHOWN:
        seen.documents[name] = mark


async def _changes(stores: Stores, count: int) -> AsyncIterator[tuple[StoredEvent, Document | None, Document | None]]:
    """Yield the newest events with the states of their documents before and after, as far as they are known."""
    current = await stores.logs.current()
    if current is None:
        raise Unavailable("there is no event log yet: no worker has run")
    head = await stores.events.head(current.id)
    time_travel = TimeTravel(stores)
    known: dict[tuple[str, str], Document | None] = {}
    async with aclosing(stores.events.read(current.id, Seq(max(0, head - count)), head)) as events:
        async for event in events:
            at = (event.collection, event.id)
            if at not in known:
                known[at] = await _before(time_travel, current.id, event)
            before = known[at]
            known[at] = after = _after(before, orjson.loads(event.body))
            yield event, before, after


async def _before(time_travel: TimeTravel, log: LogId, event: StoredEvent) -> Document | None:
    """Return the document before an event; None if there was none, or if that is not kept."""
    try:
        reading = await time_travel.document(Shape(event.collection, event.id), Position(log, Seq(event.seq - 1)))
    except EventsyncError:
        return None
    return None if reading.state is None else reading.state[1]


def _after(before: Document | None, event: Mapping[str, Any]) -> Document | None:
    if event["op"] == "delete":
        return None
    if "doc" in event:
        document: Document = from_tree(event["doc"])
        return document
    if before is None:
        return None
    try:
        return patched(copied(before), from_tree(event["patch"]))
    except (LookupError, TypeError, ValueError):
        return None
