from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from eventsync.domain.bson_scan.opaque import WRAPPER, Opaque, UnreadableDocument
from eventsync.domain.events import Event, TransactionPart, place
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.routes import MAX_KEYS, Router, Routes, body_for, joined, split
from support.routes import Field, key_of

AT = datetime(2026, 11, 23, 5, 22, 46, 405_000, tzinfo=UTC)
A, B, C = (key_of("board", value) for value in (1, 2, 3))
BY_BOARD = Router([Field("board")])


def routes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, router: Router = BY_BOARD) -> Routes:
    found = router.routes("orders", before, after)
    assert found is not None
    return found


def test_a_collection_without_definitions_has_no_routes() -> None:
    assert BY_BOARD.routes("users", None, {"board": 1}) is None
    assert Router().routes("orders", None, {"board": 1}) is None


def test_a_document_of_no_part_has_no_routes() -> None:
    assert BY_BOARD.routes("orders", {"x": 1}, {"x": 2}) is None


def test_created_and_deleted_documents_stay() -> None:
    for found in (routes(None, {"board": 1}), routes({"board": 1}, None)):
        assert found == Routes((A,))
        assert found.transition({A}) == "stay"
        assert found.transition({B}) is None


def test_an_update_without_effect_on_the_keys_stays() -> None:
    assert routes({"board": 1, "n": 1}, {"board": 1, "n": 2}) == Routes((A,))


def test_a_move_leaves_one_part_and_enters_another() -> None:
    found = routes({"board": 1}, {"board": 2})
    assert found == Routes(tuple(sorted((A, B))), frozenset([B]), frozenset([A]))
    assert [found.transition({key}) for key in (A, B, C)] == ["leave", "enter", None]


def test_transitions_of_several_keys_are_over_their_union() -> None:
    found = routes({"board": [1, 3]}, {"board": [2, 3]})
    assert found.transition({A, B}) == "stay", "it was in the union before, and is afterwards"
    assert found.transition({A, C}) == "stay"
    assert (found.transition({A}), found.transition([B])) == ("leave", "enter")


def test_the_stamp_is_no_part_of_a_document() -> None:
    by_stamp = Router([Field("_sync")])
    assert by_stamp.routes("orders", None, {"_sync": {"v": 1}}) is None


def test_documents_that_can_not_be_evaluated_leave_and_belong_to_nothing() -> None:
    @dataclass
    class Failing(Field):
        def keys(self, document: Mapping[str, Any]) -> frozenset[bytes] | None:
            if document.get("odd"):
                raise TypeError
            return super().keys(document)

    found = routes({"board": 1}, {"board": 1, "odd": True}, Router([Failing("board")]))
    assert found == Routes((A,), leaves=frozenset([A]), closed=("board",))


def test_an_unreadable_document_belongs_to_nothing() -> None:
    unreadable = UnreadableDocument({"_id": 1, WRAPPER: Opaque(3, b"x"), "board": 1})
    assert routes(None, unreadable) == Routes((), closed=("board",))
    assert routes({"board": 1}, unreadable).transition({A}) == "leave"


def test_too_many_keys_are_none() -> None:
    found = routes({"board": 1}, {"board": list(range(MAX_KEYS + 1))})
    assert (found.keys, found.leaves, found.closed) == ((A,), {A}, ("board",))


def test_a_router_can_be_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(Router([Field("board")], revision=7)))
    assert sent.routes("orders", None, {"board": 1}) == Routes((A,))
    assert sent.revision == 7


def test_joined_keys_are_split_again() -> None:
    assert split(joined({A, B})) == {A, B}
    with pytest.raises(ValueError, match="17 bytes"):
        split(b"x" * 17)


# --- bodies -------------------------------------------------------------------------------------------------------

TRICKY = ',"op":"x","base":,"at":"y","doc":,"patch":'
"""Text that looks like the members of an event."""


def body(op: Any, *, op_id: str | None = "one", **content: Any) -> bytes:
    event = Event("orders", IdText(TRICKY), op, 4, 5, AT, op_id=op_id, by=op_id and TRICKY, **content)
    return place(event.encode(), Seq(9), TransactionPart(TRICKY, 1, 2))


UPDATE = body("update", patch=[{"op": "add", "path": "/at", "value": {"at": "x", "doc": {}, "text": TRICKY}}])
REPLACE = body("replace", document={"_id": 1, "at": "x", "text": TRICKY, "base": 1}, op_id=None)
DOCUMENT = orjson.dumps({"_id": 1, "at": "y", "text": TRICKY})


def test_an_event_that_stays_is_what_it_was() -> None:
    assert body_for(UPDATE, "stay", DOCUMENT) is UPDATE


@pytest.mark.parametrize(("event", "document"), [(UPDATE, DOCUMENT), (REPLACE, None), (REPLACE, DOCUMENT)])
def test_an_event_that_enters_creates_the_document(event: bytes, document: bytes | None) -> None:
    told, was = orjson.loads(body_for(event, "enter", document)), orjson.loads(event)
    expected = orjson.loads(DOCUMENT) if "patch" in was else was["doc"]
    assert told == {k: v for k, v in was.items() if k != "patch"} | {"op": "create", "enter": True, "doc": expected}
    order = ["seq", "collection", "id", "op", "enter", "base", "version", "doc", "at"]
    assert list(told) == [*order, *(name for name in ("external", "op_id", "by") if name in was), "txn"]


@pytest.mark.parametrize("event", [UPDATE, REPLACE])
def test_an_event_that_leaves_deletes_it_and_shows_nothing(event: bytes) -> None:
    told, was = orjson.loads(body_for(event, "leave", DOCUMENT)), orjson.loads(event)
    hidden = {"patch", "doc"}
    assert told == {k: v for k, v in was.items() if k not in hidden} | {"op": "delete", "leave": True}


def test_an_update_can_not_enter_without_its_document() -> None:
    with pytest.raises(ValueError, match="no document"):
        body_for(UPDATE, "enter")
