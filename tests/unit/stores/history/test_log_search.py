"""The members that a search of the log reads from an event's JSON without parsing all of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventsync.domain.event_body import committed_at, operation_of, stamp_of, without_content
from eventsync.domain.events import Event, TransactionPart, place
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.stores.history.log_search import Wanted
from eventsync.stores.log.stored_event import StoredEvent

AT = datetime(2026, 11, 23, 5, 22, 46, 405000, UTC)
TRICKY = {"_id": 1, "at": "2001-01-01T00:00:00.000Z", "op": "delete", "by": "nobody", "x": '"at":"1","op":"create"'}


def event(seq: int = 1, *, at: datetime = AT, transaction: TransactionPart | None = None, **fields: Any) -> StoredEvent:
    """Return an event whose content looks like the members that are searched for."""
    made = Event("orders", IdText('"op":"delete"'), "replace", 1, 2, at, TRICKY, **fields)
    return StoredEvent(Seq(seq), "orders", IdText("x"), place(made.encode(), Seq(seq), transaction))


@pytest.mark.parametrize("transaction", [None, TransactionPart("t", 1, 2)])
def test_members_are_found_around_any_content(transaction: TransactionPart | None) -> None:
    ours = event(op_id='"at":"', by="ada", transaction=transaction)
    assert operation_of(ours.body) == "replace"
    assert stamp_of(ours.body)["by"] == "ada"
    assert committed_at(ours.body) == AT.timestamp()
    external = event(transaction=transaction)
    assert stamp_of(external.body)["external"] is True
    assert committed_at(external.body) == AT.timestamp()


def test_content_is_left_out() -> None:
    found = without_content(event(op_id="k", by="ada").body)
    assert found.keys() == {"seq", "collection", "id", "op", "base", "version", "at", "op_id", "by"}
    assert found["id"] == '"op":"delete"'
    patched = Event("o", IdText("x"), "update", 1, 2, AT, patch=[{"op": "replace", "path": "/a", "value": "secret"}])
    assert without_content(place(patched.encode(), Seq(1), None))["paths"] == ["/a"]
    deleted = Event("o", IdText("x"), "delete", 1, 2, AT)
    assert without_content(place(deleted.encode(), Seq(1), None))["op"] == "delete"


def test_damaged_body_has_no_time_and_no_author() -> None:
    assert committed_at(b"{}") is None
    assert committed_at(b'{"at":"never"}') is None
    assert stamp_of(b"{") == {}


def test_conditions_must_all_hold() -> None:
    ours = event(op_id="k", by="ada")
    assert Wanted().matches(ours)
    assert Wanted(by="ada", op="replace").matches(ours)
    assert not Wanted(by="ada", op="delete").matches(ours)
    assert not Wanted(by="nobody").matches(ours)
    assert not Wanted(by="ada").matches(event())
