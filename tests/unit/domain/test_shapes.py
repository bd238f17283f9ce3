from __future__ import annotations

import pytest

from eventsync.domain.ids import IdText
from eventsync.domain.shapes import MAX_COLLECTION_BYTES, Shape, check_collection, not_tracked
from eventsync.errors import Malformed


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("orders", Shape("orders")),
        ("orders/42", Shape("orders", IdText("42"))),
        ("orders/int:42", Shape("orders", IdText("int:42"))),
        ("orders/a/b", Shape("orders", IdText("a/b"))),
        ("orders.archive/x y", Shape("orders.archive", IdText("x y"))),
        ("orders/str:", Shape("orders", IdText("str:"))),
        ("Größe", Shape("Größe")),
    ],
)
def test_a_shape_and_its_text(text: str, shape: Shape) -> None:
    assert Shape.parse(text) == shape
    assert str(shape) == text


def test_the_error_of_an_untracked_collection_names_the_remedy() -> None:
    assert not_tracked("orders").message.endswith("`eventsync track orders` changes that")
    assert not_tracked("my orders").message.endswith("`eventsync track 'my orders'` changes that")
    assert not_tracked("*").message == "the collection '*' is not tracked; there is no wildcard: name one collection"


def test_equal_shapes_have_equal_text() -> None:
    assert Shape.parse("orders/str:42") == Shape.parse("orders/42")
    assert str(Shape.parse("orders/str:42")) == "orders/42"


@pytest.mark.parametrize(
    "text", [None, 5, "", "/", "/42", "orders/", "orders/int:x", "a$b", "a?b", "system.users/1", "a..b", ".a/1", "a."]
)
def test_texts_that_name_no_shape_are_refused(text: object) -> None:
    with pytest.raises(Malformed):
        Shape.parse(text)


@pytest.mark.parametrize(
    "name",
    [None, "", "system.profile", ".a", "a.", "a$", "a/b", "a?b", "a\0b", "a\nb", "\u200b", "x" * 121, "é" * 61],
)
def test_names_that_no_tracked_collection_can_have_are_refused(name: object) -> None:
    with pytest.raises(Malformed):
        check_collection(name)


@pytest.mark.parametrize("name", ["a", "a.b", "with space", "-", "é", "systems", "x" * MAX_COLLECTION_BYTES])
def test_names_that_a_collection_can_have(name: str) -> None:
    assert check_collection(name) == name
