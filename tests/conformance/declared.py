"""Declared shapes of the suite's system, and what its clients are held against."""

from __future__ import annotations

import tomllib
from typing import Any, Final

import httpx
import pytest

from eventsync.domain.predicates.declarations import read_rules
from eventsync.domain.predicates.definitions import Definition
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from support.peers.makes import MAKES, of_transport
from support.peers.served import Rows, Served
from support.peers.talk import Talk
from support.replay import eventually
from support.replica import to_tree
from support.waiting import patience
from support.writers import documents_of

REFETCHED: Final = {"snapshot", "squashed", "reset"}
"""The kinds of messages with states in place of events."""

RULES: Final = """
[shapes.my_cards]
collection = "cards"
where = { board = "$board", archived = { "$ne" = true } }
parameters = { board = { type = "text" } }

[shapes.boards]
collection = "cards"
where = { board = { "$in" = "$boards" } }
parameters = { boards = { type = "text" } }

[shapes.readable]
collection = "cards"
where = { readers = "$reader" }
parameters = { reader = { type = "text" } }

[shapes.of_value]
collection = "values"
where = { value = "$value" }
parameters = { value = { type = ["text", "int", "number", "bool", "date", "oid", "uuid", "null"] } }

[shapes.pinned]
collection = "cards"
where = { pinned = true }
"""

everybody = pytest.mark.parametrize("peer", MAKES, indirect=True)
streams = pytest.mark.parametrize("peer", of_transport("websocket", "sse"), indirect=True)
event_sources = pytest.mark.parametrize("peer", ["node-eventsource", "chromium-eventsource"], indirect=True)


class Rules:
    """The declared shapes of the system. `extra` is one more shape."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._store = Stores.of(served.client, served.settings).definitions

    async def apply(self, extra: str = "") -> dict[str, Definition]:
        """Declare the shapes of `RULES` and `extra`, and no others."""
        declarations = read_rules(tomllib.loads(RULES + extra))
        assert not declarations.problems
        await self._store.apply([Declaration.of(definition) for definition in declarations.definitions.values()])
        return dict(declarations.definitions)

    async def active(self, extra: str = "", **parameters: str) -> str:
        """Declare the shapes; once the server serves the last one by its present definition, return its text."""
        name, definition = [*(await self.apply(extra)).items()][-1]
        route = definition.bind(parameters)
        async with httpx.AsyncClient(base_url=self._served.url, timeout=patience(20)) as client:

            async def is_served() -> bool | None:
                answer = await client.get("/v1/sync/snapshot", params={"shape": str(route.shape)})
                return True if answer.status_code == 200 and f".{route.scope}:" in answer.text else None

            await eventually(Stores.of(self._served.client, self._served.settings), "shapes", is_served)
        assert route.shape.name == name
        return str(route.shape)


async def found(served: Served, name: str, query: dict[str, Any]) -> Rows:
    """Return the rows that MongoDB finds."""
    whole = await documents_of(served.collection(name))
    ids = {document["_id"] async for document in served.collection(name).find(query, {"_id": 1})}
    return {text: to_tree(document) for text, document in whole.items() if document["_id"] in ids}


def told(talk: Talk) -> list[dict[str, Any]]:
    """Return all that came of events, without times, seqs and the collection."""
    kept = ("id", "op", "enter", "leave", "base", "version", "patch", "doc", "txn")
    return [{name: event[name] for name in kept if name in event} for event in talk.events]
