"""Checks that the routes in a log are those of its states, one document and event at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.definitions import Definition
from eventsync.domain.predicates.keys import NO_KEYS
from eventsync.domain.replay import State
from eventsync.domain.routes import Transition
from eventsync.domain.segments.format import SealedEvent
from eventsync.domain.values.extended_json import to_json

_MAX_UNEXPLAINED: Final = 10_000
"""Most keys of former definitions that are remembered."""


@dataclass(frozen=True, slots=True)
class ActiveKeys:
    """A definition whose keys the events after `since` carry."""

    definition: Definition
    since: Seq


class RouteCheck:
    """Checks all active definitions of a collection. `take` has the states of each document in order.

    The first fault is in `wrong`; nothing is checked after it.
    """

    def __init__(self, active: Sequence[ActiveKeys], watched: Iterable[bytes] = ()) -> None:
        """`watched` are keys of which `found` is to have the documents."""
        self._active = active
        self.found: dict[bytes, set[IdText]] = {key: set() for key in watched}
        """The documents that have some keys at the end, by the events."""
        self.wrong: str | None = None
        self._keys: dict[IdText, list[frozenset[bytes]]] = {}
        self._routed: dict[IdText, set[bytes]] = {}
        self._unexplained: dict[bytes, str] = {}
        """Keys of events that no definition makes of their documents: those of removed definitions, or wrong ones."""

    def take(self, text: IdText, event: SealedEvent | None, state: State) -> None:
        """Take the state of a document at the beginning, or after an event."""
        if self.wrong is not None:
            return
        # Before the first state that is taken, there is none.
        had = self._keys.get(text) or [NO_KEYS] * len(self._active)
        document = None if state is None else state[1]
        has = [NO_KEYS if document is None else active.definition.keys(document) for active in self._active]
        self._keys[text] = has
        if event is None:
            self._routed[text] = set().union(*has)
            return
        op = orjson.loads(event.body)["op"]
        self.wrong = self._wrong(event, op, state, had, has)
        self._follow(text, event, op, had, has)

    def _wrong(
        self,
        event: SealedEvent,
        op: str,
        state: State,
        had: Sequence[frozenset[bytes]],
        has: Sequence[frozenset[bytes]],
    ) -> str | None:
        is_kept = op not in {"create", "delete"}
        where = f"event {event.seq} ({op} of {event.collection}/{event.id})"
        explained: set[bytes] = set()
        enters_any = False
        for active, before, after in zip(self._active, had, has, strict=True):
            explained |= before | after
            if event.seq <= active.since:
                continue
            for key in before | after:
                is_stay = not is_kept or (key in before and key in after)
                expected: Transition = "stay" if is_stay else "enter" if key in after else "leave"
                found = event.routes.transition({key}) if event.routes else None
                enters_any |= expected == "enter"
                if found != expected:
                    said = f"is to {found}" if found else "has no key"
                    return f"{where} {said} where its document is to {expected} in a route of {active.definition.name}"
        for key in event.routes.keys if event.routes else ():
            if key not in explained and len(self._unexplained) < _MAX_UNEXPLAINED:
                self._unexplained.setdefault(key, where)
        if enters_any and op == "update" and state is not None:
            document = event.routes.document if event.routes else None
            if document is None or orjson.loads(document) != orjson.loads(to_json(state[1])):
                return f"{where} has not beside it the document that enters a route"
        return None

    def _follow(
        self,
        text: IdText,
        event: SealedEvent,
        op: str,
        had: Sequence[frozenset[bytes]],
        has: Sequence[frozenset[bytes]],
    ) -> None:
        """Bring the routes of a document to those behind an event, by what the event says."""
        routed = self._routed.setdefault(text, set())
        if op == "delete":
            routed.clear()
        elif event.routes is not None:
            routed.update(event.routes.keys if op == "create" else event.routes.enters)
            routed -= event.routes.leaves
        # Events up to there carry no keys of the definition.
        for active, before, after in zip(self._active, had, has, strict=True):
            if event.seq <= active.since:
                routed -= before - after
                routed |= after

    def finish(self, rows: Mapping[IdText, State]) -> None:
        """Take the last states of some documents, and forget all that were taken since the last call."""
        for text, state in rows.items():
            if self.wrong is not None or state is None:
                break
            routed = self._routed.get(text, set())
            for active in self._active:
                keys = active.definition.keys(state[1])
                if not keys <= routed:
                    self.wrong = f"{text} is in a route of {active.definition.name}, but not by its events"
                for key in keys & self._unexplained.keys():
                    self.wrong = f"{self._unexplained[key]} has the key of a route that its document is not in"
            for key in routed & self.found.keys():
                self.found[key].add(text)
        self._keys.clear()
        self._routed.clear()
