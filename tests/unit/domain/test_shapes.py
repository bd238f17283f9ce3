from __future__ import annotations

import pytest

from eventsync.domain.ids import IdText
from eventsync.domain.shapes import Shape
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


def test_equal_shapes_have_equal_text() -> None:
    assert Shape.parse("orders/str:42") == Shape.parse("orders/42")
    assert str(Shape.parse("orders/str:42")) == "orders/42"


@pytest.mark.parametrize(
    "text", [None, 5, "", "/", "/42", "orders/", "orders/int:x", "a$b", "a?b", "system.users/1", "a..b", ".a/1", "a."]
)
def test_texts_that_name_no_shape_are_refused(text: object) -> None:
    with pytest.raises(Malformed):
        Shape.parse(text)
