from __future__ import annotations

import pytest

from eventsync.domain.ids import IdText
from eventsync.domain.positions import (
    LogId,
    Position,
    Seq,
    new_log_id,
    vector_from_json,
    vector_from_short,
    vector_from_text,
    vector_to_json,
    vector_to_short,
    vector_to_text,
)
from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed

VECTOR = {
    Shape("orders"): Position(LogId("k3f9ab2c"), Seq(128)),
    Shape("orders", IdText("42")): Position(LogId("k3f9ab2c"), Seq(131)),
}


@pytest.mark.parametrize("text", ["k3f9ab2c:128", "k3f9ab2c:0", f"a:{2**63 - 1}"])
def test_a_position_and_its_text(text: str) -> None:
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [None, 5, "", "k3f9ab2c", "k3f9ab2c:", ":5", "k:05", "k:-1", "k:+1", "K:1", "k:1 ", "k:1\n", "k:٣", f"k:{2**63}",
     "k:1:2", "k" * 33 + ":1"],
)  # fmt: skip
def test_texts_that_name_no_position_are_refused(text: object) -> None:
    with pytest.raises(Malformed) as caught:
        Position.parse(text)
    assert "log:seq" in caught.value.message


def test_log_ids_are_fresh_and_readable_in_a_position() -> None:
    ids = {new_log_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(Position.parse(f"{log}:1").log == log for log in ids)


def test_the_forms_of_a_state_vector() -> None:
    assert vector_to_json(VECTOR) == {"orders": "k3f9ab2c:128", "orders/42": "k3f9ab2c:131"}
    assert vector_to_text(VECTOR) == "orders=k3f9ab2c:128&orders%2F42=k3f9ab2c:131"
    assert vector_from_json(vector_to_json(VECTOR), limit=2) == VECTOR
    assert vector_from_text(vector_to_text(VECTOR), limit=2) == VECTOR
    assert vector_from_text("", limit=0) == {}


def test_a_vector_text_survives_names_that_a_url_would_split() -> None:
    vector = {Shape("a=b", IdText("c&d+e f%20/ü")): Position(LogId("k"), Seq(1))}
    assert vector_from_text(vector_to_text(vector), limit=1) == vector


@pytest.mark.parametrize(
    "text", ["orders", "orders=", "=k:1", "orders=k:1&", "orders=k", "a=k:1&b=k:1&c=k:1", "orders=%ff", "a=k:1&a=k:2"]
)
def test_vector_texts_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        vector_from_text(text, limit=2)


@pytest.mark.parametrize(
    "value",
    [None, [], "orders", {"orders": 5}, {"orders": None}, {"": "k:1"}, {"a": "k:1", "b": "k:1", "c": "k:1"},
     {"orders/42": "k:1", "orders/str:42": "k:2"}],
)  # fmt: skip
def test_vector_objects_that_cannot_be_read_are_refused(value: object) -> None:
    with pytest.raises(Malformed):
        vector_from_json(value, limit=2)


def test_the_short_form_names_no_shape() -> None:
    shapes = [Shape.parse(text) for text in ("a", "b", "c", "d", "e")]
    log, other = LogId("k3f9ab2c"), LogId("zzzzzzzz")
    vector = {
        shapes[0]: Position(log, Seq(128)),
        shapes[1]: Position(log, Seq(131)),
        shapes[3]: Position(other, Seq(5)),
        shapes[4]: Position(other, Seq(6)),
    }
    text = vector_to_short(vector, shapes)
    assert text.partition(".")[2] == "k3f9ab2c:128,131,,zzzzzzzz:5,6"
    assert vector_from_short(text, shapes) == vector
    for wrong in ("5", ",,,", "a:1,,,,x", ":1,,,,", "00000000.a:1,,,,", "a:1,2,3,4,5,6"):
        with pytest.raises(Malformed):
            vector_from_short(wrong, shapes)


def test_the_short_form_has_positions_with_a_scope() -> None:
    shapes = [Shape.parse(text) for text in ("cards?board=7", "cards?board=8", "cards", "cards/1", "cards?board=9")]
    log = LogId("abcdef01")
    vector = {
        shapes[0]: Position(LogId(f"{log}.5f2c81ab"), Seq(128)),
        shapes[1]: Position(LogId(f"{log}.00000000"), Seq(128)),
        shapes[2]: Position(log, Seq(129)),
        shapes[3]: Position(log, Seq(130)),
    }
    for order in (shapes, shapes[::-1], shapes[2:], shapes[1:]):
        kept = {shape: vector[shape] for shape in order if shape in vector}
        text = vector_to_short(kept, order)
        assert vector_from_short(text, order) == kept
        assert vector_from_short(text.partition(".")[2], order) == kept
    text = vector_to_short(vector, shapes)
    assert text.partition(".")[2] == "abcdef01.5f2c81ab:128,abcdef01.00000000:128,abcdef01:129,130,"
    for foreign in (shapes[1:], [*shapes[::-1]], [shapes[0], *shapes[2:], shapes[1]]):
        with pytest.raises(Malformed):
            vector_from_short(text, foreign)


def test_the_short_form_of_other_shapes_is_refused_whatever_the_log_is_called() -> None:
    """Its digest and a log's id could be read as a log's id and a scope."""
    shape, other = Shape.parse("cards"), Shape.parse("orders")
    for _ in range(5_000):
        text = vector_to_short({shape: Position(new_log_id(), Seq(1))}, [shape])
        with pytest.raises(Malformed):
            vector_from_short(text, [other])


def test_a_position_in_a_scope_is_a_point_of_the_log() -> None:
    assert Position.parse_in_log("aaaa.5f2c81ab:7") == Position.parse_in_log("aaaa:7") == Position.parse("aaaa:7")
    assert Position.parse("aaaa.5f2c81ab:7") != Position.parse("aaaa:7")
