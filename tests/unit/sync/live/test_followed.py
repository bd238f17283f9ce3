from __future__ import annotations

from typing import Any

import orjson

from eventsync.domain.events import TransactionPart, place
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.routes import Routes
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.followed import followed
from support.logs_by_hand import view_of

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
OF_A = view_of("orders", {A})
PATCHED = b'"id":"1","op":"update","base":4,"version":5,"patch":[],"at":"2026-01-01T00:00:00.000Z"'
MADE = b'"id":"1","op":"create","base":null,"version":1,"doc":{"op":1},"at":"2026-01-01T00:00:00.000Z"'


def change(
    seq: int, routes: Routes | None, encoded: bytes = PATCHED, part: TransactionPart | None = None
) -> StoredEvent:
    return StoredEvent(Seq(seq), "orders", IdText("1"), place(encoded, Seq(seq), part), part, routes)


def shown(events: list[StoredEvent], *keys: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(event.body) for event in followed(events, view_of("orders", keys))]


def test_an_event_that_stays_is_shown_as_it_is() -> None:
    event = change(7, Routes((A, B), frozenset({B})))
    assert list(followed([event], OF_A)) == [event]
    created = change(8, Routes((A,)), MADE)
    assert list(followed([created], OF_A)) == [created]


def test_a_document_that_enters_is_created_and_one_that_leaves_is_deleted_without_its_content() -> None:
    event = change(7, Routes((A, B), frozenset({A}), frozenset({B}), b'{"_id":"1","n":2}'))
    (entered,) = shown([event], A)
    assert (entered["op"], entered["enter"], entered["doc"]) == ("create", True, {"_id": "1", "n": 2})
    assert "patch" not in entered
    (left,) = shown([event], B)
    assert (left["op"], left["leave"]) == ("delete", True)
    assert left.keys().isdisjoint({"patch", "doc"})
    (stays,) = shown([event], A, B)
    assert (stays["op"], stays["patch"]) == ("update", [])


def test_a_transaction_counts_the_events_that_are_shown() -> None:
    routes = Routes((A,))
    events = [change(n, routes, part=TransactionPart("t", n, 5)) for n in (2, 3, 5)]
    assert [item["txn"] for item in shown(events, A)] == [{"id": "t", "n": n, "of": 3} for n in (1, 2, 3)]
    assert [item.transaction for item in followed(events, OF_A)][-1] == TransactionPart("t", 3, 3)
    (alone,) = shown(events[:1], A)
    assert "txn" not in alone


def test_transactions_side_by_side_are_counted_apart() -> None:
    routes = Routes((A,))
    events = [change(n, routes, part=TransactionPart(name, 1, 2)) for n, name in ((2, "t"), (4, "u"))]
    assert ["txn" in item for item in shown([*events, change(9, routes)], A)] == [False, False, False]
