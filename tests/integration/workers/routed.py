"""The routes of a log, as MongoDB itself sees them: each state of each document, asked for by each route's filter."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import Any

import orjson

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Definition, Route
from eventsync.domain.replay import State, applied
from eventsync.domain.routes import Routes
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import CODEC, to_json
from eventsync.errors import InvalidPredicate
from eventsync.stores.stores import Stores

SIMPLE = {"locale": "simple"}


def routes_of_values(definition: Definition, values: Iterable[Any]) -> list[Route]:
    """Return the routes for these values, each for all parameters, except for those that a definition does not take."""
    found = []
    for value in values:
        try:
            taken = {name: [value] if name in definition.lists else value for name in definition.types}
            found.append(definition.bind(taken))
        except InvalidPredicate:
            continue
    return found


class RoutesInMongodb:
    """All states of a collection's documents by the log, in a collection of their own: `_id` is their event."""

    def __init__(self, stores: Stores, name: str) -> None:
        self._stores = stores
        self._name = name
        self._states = stores.data.get_collection("all_states", codec_options=CODEC)
        self._before: dict[Seq, Seq | None] = {}
        self._json: dict[Seq, bytes | None] = {}

    async def take(self, log: LogId, up_to: Seq) -> None:
        """Replay the log, and store every state."""
        states: dict[IdText, State] = {}
        last: dict[IdText, Seq] = {}
        reader = self._stores.history.reader
        async with aclosing(reader.in_order(log, Shape(self._name), after=Seq(0), up_to=up_to)) as changes:
            async for change in changes:
                state = states[change.id] = applied(states.get(change.id), change)
                seq = Seq(change.seq)
                self._before[seq], last[change.id] = last.get(change.id), seq
                self._json[seq] = None if state is None else to_json(state[1])
                if state is not None:
                    await self._states.insert_one({**state[1], "_id": seq})

    async def check(self, rows: dict[Seq, Routes | None], routes: Iterable[Route]) -> int:
        """Compare the routes of all rows with what MongoDB finds; return how many keys were compared."""
        expected: dict[Seq, dict[bytes, str]] = {seq: {} for seq in self._before}
        asked: set[bytes] = set()
        for route in routes:
            if len(route.keys) > 1:
                continue
            asked.add(route.key)
            cursor = self._states.find(dict(route.filter), {"_id": 1}, collation=SIMPLE)
            matching = {row["_id"] async for row in cursor}
            for seq, before in self._before.items():
                if transition := self._transition(seq in matching, before in matching, seq, before):
                    expected[seq][route.key] = transition
        assert rows.keys() == expected.keys()
        for seq, routed in rows.items():
            keys = asked.intersection(routed.keys) if routed else set()
            found = {key: routed.transition({key}) for key in keys} if routed else {}
            assert found == expected[seq], (seq, self._json[seq])
            if routed is not None and routed.document is not None:
                # A patch may move a field behind others.
                assert orjson.loads(routed.document) == orjson.loads(self._json[seq] or b"null"), seq
        return sum(map(len, expected.values()))

    def _transition(self, now: bool, was: bool, seq: Seq, before: Seq | None) -> str | None:
        if not now and not was:
            return None
        # A created document and a deleted one are sent as they are.
        if now == was or before is None or self._json[before] is None or self._json[seq] is None:
            return "stay"
        return "enter" if now else "leave"


async def routed_rows(stores: Stores, log: LogId, name: str) -> dict[Seq, Routes | None]:
    """Return the routes of all events of a collection, as readers get them."""
    return {event.seq: event.routes async for event in stores.events.read(log, Seq(0)) if event.collection == name}
