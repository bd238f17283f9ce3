from __future__ import annotations

import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import bson
import orjson
import pytest
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from eventsync.domain.access.redaction import Redaction
from eventsync.domain.bson_scan.opaque import WRAPPER, Opaque, UnreadableDocument
from eventsync.domain.events import Event, TransactionPart, place
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.declarations import spec_of
from eventsync.domain.predicates.definitions import define
from eventsync.domain.predicates.keys import MAX_KEYS
from eventsync.domain.routes import Router, Routes, body_for, joined, redacted_body, redacted_row, split
from eventsync.domain.values.extended_json import CODEC, JSON_CODEC, decode
from eventsync.errors import InvalidPredicate

AT = datetime(2026, 11, 23, 5, 22, 46, 405_000, tzinfo=UTC)
DEFINITION = define("by_board", "orders", {"board": "$board"}, {"board": ["any"]})
BY_BOARD = Router([DEFINITION])
A, B, C = (DEFINITION.bind({"board": board}).key for board in (1, 2, 3))


def routes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Routes:
    found, closed = BY_BOARD.routes("orders", before, after)
    assert found is not None
    assert not closed
    return found


def test_a_collection_without_definitions_has_no_routes() -> None:
    assert BY_BOARD.routes("users", None, {"board": 1}) == (None, ())
    assert Router().routes("orders", None, {"board": 1}) == (None, ())


def test_a_document_of_no_part_has_no_routes() -> None:
    by_open = Router([define("open", "orders", {"board": "$board", "open": True}, {"board": ["int"]})])
    assert by_open.routes("orders", {"board": 1}, {"board": 2}) == (None, ())


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


def test_transitions_of_a_conjunction_need_a_key_of_each_clause() -> None:
    found = routes({"board": [1, 2]}, {"board": [2, 3]})
    cases = {("A", "C"): None, ("A", "B"): "leave", ("C", "B"): "enter", ("B", "AC"): "stay", ("B", "B"): "stay"}
    named = {"A": A, "B": B, "C": C}
    for clauses, expected in cases.items():
        assert found.transition(*({named[name] for name in clause} for clause in clauses)) == expected, clauses
    assert found.transition() == "stay", "everything is seen"
    created = routes(None, {"board": [1, 2]})
    assert (created.transition({A}, {B}), created.transition({A}, {C})) == ("stay", None)


def test_transitions_of_several_keys_are_over_their_union() -> None:
    found = routes({"board": [1, 3]}, {"board": [2, 3]})
    assert found.transition({A, B}) == "stay", "it was in the union before, and is afterwards"
    assert found.transition({A, C}) == "stay"
    assert (found.transition({A}), found.transition([B])) == ("leave", "enter")


@pytest.mark.parametrize("where", [{"_sync.by": "$by"}, {"board": "$by", "$or": [{"_sync": {"$exists": True}}]}])
def test_a_filter_can_not_see_the_stamp(where: Mapping[str, Any]) -> None:
    with pytest.raises(InvalidPredicate, match="_sync is eventsync's own field"):
        define("by_stamp", "orders", where, {"by": ["text"]})


def test_an_unreadable_document_belongs_to_nothing() -> None:
    unreadable = UnreadableDocument({"_id": 1, WRAPPER: Opaque(3, b"x"), "board": 1})
    assert BY_BOARD.routes("orders", None, unreadable) == (None, ("by_board",))
    assert BY_BOARD.routes("orders", {"board": 1}, unreadable) == (Routes((A,), leaves=frozenset([A])), ("by_board",))


def test_a_document_with_too_many_keys_belongs_to_nothing() -> None:
    found, closed = BY_BOARD.routes("orders", {"board": 1}, {"board": list(range(MAX_KEYS + 1))})
    assert found == Routes((A,), leaves=frozenset([A]))
    assert closed == ("by_board",)


VALUES = [1, 1.5, Int64(1), Decimal128("1"), "a", None, True, AT, b"x", Binary(b"x", 5), {"a": AT}, [AT, "b"]]


@pytest.mark.parametrize("value", VALUES)
def test_keys_are_equal_however_the_document_was_decoded(value: Any) -> None:
    raw = bson.encode({"_id": 1, "board": value, "_sync": {"v": Int64(1)}}, codec_options=CODEC)
    assert DEFINITION.keys(decode(raw, JSON_CODEC)) == DEFINITION.keys(decode(raw)) != frozenset()


TRICKY_VALUES: list[Any] = [1, 1.0, True, Int64(1), Decimal128("1"), "1", None, [1], [True], [1, 1.0], [[1]], {"a": 1}]


@pytest.mark.parametrize("before", [{}, *({"board": value} for value in TRICKY_VALUES)])
def test_unchanged_fields_are_recognized_by_type_and_value(before: Mapping[str, Any]) -> None:
    absent = define("absent", "orders", {"board": {"$exists": False}, "n": "$n"}, {"n": ["null"]})
    router = Router([DEFINITION, absent])
    for after in ({}, *({"board": value} for value in TRICKY_VALUES)):
        had, has = (DEFINITION.keys(each) | absent.keys(each) for each in (before, after))
        found, _ = router.routes("orders", before, after)
        assert found is not None
        assert (frozenset(found.keys), found.enters, found.leaves) == (had | has, has - had, had - has)


@pytest.mark.parametrize("field", ["board", "owner", "state"])
@pytest.mark.parametrize(("was", "now"), [(1, 2), ([1], [1, 2]), (1, [1]), (None, 1), ("open", "closed"), (1, 1.0)])
def test_an_update_is_routed_as_if_each_state_was_routed_alone(field: str, was: Any, now: Any) -> None:
    owned = define("owned", "orders", {"owner": "$owner", "state": {"$ne": "closed"}}, {"owner": ["any"]})
    router, rest = Router([DEFINITION, owned]), {"board": 7, "owner": ["ada", 1], "state": "open"}
    before, after = rest | {field: was}, rest | {field: now}
    had, has = (frozenset(_keys(router, each)) for each in (before, after))
    assert router.routes("orders", before, after) == (Routes(tuple(sorted(had | has)), has - had, had - has), ())


def _keys(router: Router, document: Mapping[str, Any]) -> tuple[bytes, ...]:
    found, closed = router.routes("orders", None, document)
    assert found is not None
    assert not closed
    return found.keys


def test_all_definitions_that_a_document_can_not_be_routed_by_are_named() -> None:
    owned = define("owned", "orders", {"owner": "$owner"}, {"owner": ["any"]})
    router, many = Router([DEFINITION, owned]), list(range(MAX_KEYS + 1))
    _, closed = router.routes("orders", {"board": 1, "owner": many}, {"board": many, "owner": many})
    assert sorted(closed) == ["by_board", "owned"]
    # A definition that reads no field is asked again, too, if the states can't be compared.
    everything = define("all", "orders", {}, {})
    unreadable = UnreadableDocument({"_id": 1, WRAPPER: Opaque(3, b"x")})
    found, closed = Router([everything]).routes("orders", {"board": 1}, unreadable)
    assert closed == ("all",)
    assert found == Routes(tuple(everything.bind({}).keys), leaves=everything.bind({}).keys)


def test_the_fields_of_a_definition_are_those_that_its_keys_depend_on() -> None:
    where = {"a.b": "$x", "$or": [{"c": 1}, {"$and": [{"d.0": {"$elemMatch": {"e": 1}}}]}], "$nor": [{"f": 1}]}
    assert define("any", "orders", where, {"x": ["any"]}).fields == {"a", "c", "d", "f"}


def test_a_router_that_was_sent_to_another_process_computes_the_same() -> None:
    sent = pickle.loads(pickle.dumps(Router([DEFINITION], revision=7)))  # noqa: S301 - made here
    assert sent.routes("orders", None, {"board": 1}) == (Routes((A,)), ())
    assert sent.revision == 7
    assert [spec_of(each) for each in sent.definitions] == [spec_of(DEFINITION)]


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


# --- redaction ----------------------------------------------------------------------------------------------------

HIDDEN = Redaction([("at",), ("text",)])


def test_only_the_content_of_a_redacted_event_changes() -> None:
    for event, member in (
        (UPDATE, b',"patch":'),
        (REPLACE, b',"doc":'),
        (body_for(UPDATE, "enter", DOCUMENT), b',"doc":'),
    ):
        shown = redacted_body(event, HIDDEN)
        at, end = event.index(member) + len(member), event.rindex(b',"at":"')
        assert shown.startswith(event[:at])
        assert shown.endswith(event[end:])
        content = orjson.loads(shown[at : len(shown) - len(event) + end])
        assert content in ([], {"_id": 1}, {"_id": 1, "base": 1})


def test_an_event_without_content_has_nothing_to_redact() -> None:
    left = body_for(UPDATE, "leave", DOCUMENT)
    assert redacted_body(left, HIDDEN) == left


def test_redaction_keeps_each_byte_of_what_is_not_hidden() -> None:
    document = {
        "_id": 1,
        "f": -0.0,
        "g": 1e300,
        "i": 2**63 - 1,
        "t": TRICKY,
        "d": AT,
        "n": Decimal128("1.10"),
        "é": "\u2028",
    }
    event = body("replace", document=document)
    assert redacted_body(event, Redaction([("nothing",)])) is event
    assert redacted_body(body("replace", document=document | {"text": TRICKY}), HIDDEN) == event


def test_a_redacted_row_keeps_its_id_and_version() -> None:
    row = orjson.dumps({"id": TRICKY, "version": 7, "doc": {"_id": TRICKY, "text": 1, "doc": {"text": 2}}})
    assert orjson.loads(redacted_row(row, HIDDEN)) == {
        "id": TRICKY,
        "version": 7,
        "doc": {"_id": TRICKY, "doc": {"text": 2}},
    }
