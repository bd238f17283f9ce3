"""Routers that are broken on purpose, on a real MongoDB: the checker finds each by what a client of a shape gets."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import orjson
import pytest
from chaos.test_broken_sequencers import LOG, NAMES, Bench, Change, Reader, now, promises, right, sequence

from eventsync.domain.events import TransactionPart, place
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.definitions import define
from eventsync.domain.routes import Router, Routes
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from eventsync.sync.live.followed import followed
from eventsync_workers.sequencing.converter import convert, decode_change, encode_change
from eventsync_workers.sequencing.images import enable_images
from support.chaos.evidence import Violation
from support.chaos.rules import bound
from support.logs_by_hand import view_of

SHAPE = "cards?board=a"
CARDS = define("cards", "orders", {"board": "$board", "state": {"$ne": "closed"}}, {"board": ["text"]})
FILTER = {"board": "a", "state": {"$ne": "closed"}}
BEFORE_IT_CHANGED = define("cards", "orders", {"board": "$board"}, {"board": ["text"]})
KEYS = CARDS.bind({"board": "a"}).keys

PAD = "x" * 500
"""It makes a patch shorter than its document."""

Answer = tuple[Routes | None, tuple[str, ...]]
Document = Mapping[str, Any] | None


class Leaveless(Router):
    """It forgets that documents leave: their events look as if they stayed."""

    def routes(self, collection: str, before: Document, after: Document) -> Answer:
        routes, closed = super().routes(collection, before, after)
        return routes and routes._replace(leaves=frozenset()), closed


class AfterOnly(Router):
    """It knows the keys of the document afterwards only: who has left is not among the event's readers."""

    def routes(self, collection: str, before: Document, after: Document) -> Answer:
        routes, closed = super().routes(collection, before, after)
        left = tuple(key for key in routes.keys if key not in routes.leaves) if routes and after else ()
        return routes and (routes._replace(keys=left) if left else None), closed


class BeforeOnly(Router):
    """It knows the keys of the document before only: a document that enters has no readers yet."""

    def routes(self, collection: str, before: Document, after: Document) -> Answer:
        return super().routes(collection, before, before if before is not None else after)


class Stale(Router):
    """It routes by the definition that was there before, under the keys of the present one."""

    def routes(self, collection: str, before: Document, after: Document) -> Answer:
        (old,), (new,) = BEFORE_IT_CHANGED.bind({"board": "a"}).keys, KEYS
        routes, closed = Router([BEFORE_IT_CHANGED]).routes(collection, before, after)
        if routes is None:
            return None, closed

        def moved(keys: Iterable[bytes]) -> frozenset[bytes]:
            return frozenset(new if key == old else key for key in keys)

        return Routes(tuple(moved(routes.keys)), moved(routes.enters), moved(routes.leaves)), closed


class Misplaced(Router):
    """It routes the documents of every board to every reader."""

    def routes(self, collection: str, before: Document, after: Document) -> Answer:
        _, closed = super().routes(collection, before, after)
        return Routes(tuple(KEYS)), closed


Server = Literal["right", "leaves with content", "numbers of all", "another scope"]


class Wire(NamedTuple):
    """The system between MongoDB and a client: a router, and a server that is right or not."""

    router: Router
    server: Server = "right"

    def events(self, changes: list[Change]) -> list[dict[str, Any]]:
        """Return what a client of the shape is sent about these changes."""
        stored = [event for event in self._stored(changes) if event.routes and KEYS & set(event.routes.keys)]
        events: list[dict[str, Any]] = [orjson.loads(event.body) for event in followed(stored, view_of("mine?", KEYS))]
        for event, own in zip(events, stored, strict=True):
            body = orjson.loads(own.body)
            if self.server == "leaves with content" and "leave" in event:
                event["patch"] = body["patch"]
            if self.server == "numbers of all" and "txn" in body:
                event["txn"] = body["txn"]
        return events

    def _stored(self, changes: list[Change]) -> list[StoredEvent]:
        found: list[StoredEvent] = []
        for name, members in itertools.groupby(changes, key=lambda change: change.transaction):
            together = list(members)
            for n, change in enumerate(together, 1):
                mark = TransactionPart(name, n, len(together)) if name and len(together) > 1 else None
                decoded = decode_change(change.raw)
                event = encode_change(convert(decoded), decoded, self.router)
                assert event is not None
                seq = Seq(len(found) + 1)
                body = place(event.encoded, seq, mark)
                found.append(StoredEvent(seq, event.collection, event.id, body, mark, event.routes))
        return found


@pytest.fixture
async def bench(client: Client, settings: Settings, stores: Stores) -> Bench:
    await enable_images(stores.data, NAMES)
    return Bench(client, settings, stores, Reader(stores, NAMES, await now(stores)))


async def verdict(bench: Bench, wire: Wire) -> list[Violation]:
    """Write, let a client follow the shape from the beginning over `wire`, and judge what it got."""
    await bench.write("orders/1", board="a", pad=PAD)
    await bench.write("orders/2", board="b", pad=PAD)
    await bench.write("orders/1", note="stays")
    await bench.write("orders/2", board="a")  # enters
    await bench.write("orders/1", board="b", secret="s")  # leaves
    await bench.write("orders/2", state="closed")  # leaves by what is constant in the filter
    await bench.write("orders/1", "stock/1", "orders/3", "orders/4", board="a")  # 3 of 4 in a transaction
    changes = await bench.reader.read()
    await sequence(bench.reader, right, seed=1)
    scoped = f"{LOG}.{bound(SHAPE, CARDS, FILTER).scope if wire.server != 'another scope' else '00000000'}"
    end = f"{scoped}:{len(changes)}"
    for message in (
        {"type": "connect"},
        {"type": "snapshot", "position": f"{scoped}:0", "docs": [], "part": 0, "last": True},
        {"type": "events", "from": f"{scoped}:0", "to": end, "events": wire.events(changes)},
        {"type": "live", "position": end},
        {"type": "end"},
    ):
        bench.recorder.frame("client", SHAPE, message)
    return await bench.verdict(bound(SHAPE, CARDS, FILTER))


def scope_faults(found: list[Violation]) -> set[str]:
    return {violation.message for violation in found if violation.promise == "scope"}


async def test_a_router_that_is_right_passes(bench: Bench) -> None:
    assert await verdict(bench, Wire(Router([CARDS]))) == []


async def test_a_leave_that_is_lost(bench: Bench) -> None:
    found = scope_faults(await verdict(bench, Wire(Leaveless([CARDS]))))
    assert "client got the content of 1, which leaves" in found


async def test_keys_of_the_state_afterwards_alone(bench: Bench) -> None:
    found = scope_faults(await verdict(bench, Wire(AfterOnly([CARDS]))))
    assert {"client got no leave of 1", "client got no leave of 2"} <= found


async def test_keys_of_the_state_before_alone(bench: Bench) -> None:
    assert "client got no enter of 2" in scope_faults(await verdict(bench, Wire(BeforeOnly([CARDS]))))


async def test_a_stale_definition(bench: Bench) -> None:
    found = scope_faults(await verdict(bench, Wire(Stale([CARDS]))))
    assert "client got the content of 2, which leaves" in found


async def test_events_of_others(bench: Bench) -> None:
    found = scope_faults(await verdict(bench, Wire(Misplaced([CARDS]))))
    assert "client got an event of others: create of 2" in found


async def test_content_in_a_leave(bench: Bench) -> None:
    found = scope_faults(await verdict(bench, Wire(Router([CARDS]), "leaves with content")))
    assert "client got the content of 1, which leaves" in found


async def test_the_numbers_of_a_whole_transaction(bench: Bench) -> None:
    found = scope_faults(await verdict(bench, Wire(Router([CARDS]), "numbers of all")))
    assert any("of a transaction" in message for message in found)


async def test_positions_of_another_scope(bench: Bench) -> None:
    found = await verdict(bench, Wire(Router([CARDS]), "another scope"))
    assert promises(found) == {"scope"}
    assert any("has the scope of no definition" in message for message in scope_faults(found))
