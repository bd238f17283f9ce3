from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.ids import format_id
from eventsync.domain.names import check_collection
from eventsync.domain.positions import (
    LogId,
    Position,
    Seq,
    scoped,
    vector_from_json,
    vector_from_short,
    vector_from_text,
    vector_to_json,
    vector_to_short,
    vector_to_text,
)
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed


def _is_name(text: str) -> bool:
    try:
        check_collection(text)
    except Malformed:
        return False
    return True


NAMES = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=12).filter(_is_name)
IDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), st.integers(-9, 9)
)
SHAPES = st.builds(Shape, NAMES, st.none() | IDS.map(format_id))
LOGS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=32).map(LogId)
SCOPES = st.text("0123456789abcdef", min_size=8, max_size=8)
SEQS = st.integers(0, 2**63 - 1).map(Seq)
POSITIONS = st.builds(Position, st.one_of(LOGS, st.builds(scoped, LOGS, SCOPES)), SEQS)
VALUES = st.one_of(IDS, st.booleans(), st.none(), st.floats(allow_nan=False))
DECLARED = st.builds(
    RoutedShape.of,
    st.sampled_from(["my_cards", "a.b-c"]),
    st.dictionaries(st.sampled_from(["board", "_x"]), st.lists(VALUES, min_size=1, max_size=3)),
)
VECTORS = st.dictionaries(SHAPES, st.builds(Position, LOGS, SEQS), max_size=6)
ROUTED_VECTORS = st.dictionaries(
    DECLARED.map(lambda declared: Shape(declared.name, None, declared)),
    st.builds(Position, st.builds(scoped, LOGS, SCOPES), SEQS),
    max_size=6,
)
ALL_VECTORS = st.builds(lambda plain, routed: {**plain, **routed}, VECTORS, ROUTED_VECTORS)


@given(POSITIONS)
def test_a_position_comes_back_from_its_text(position: Position) -> None:
    assert Position.parse(str(position)) == position


@given(st.one_of(SHAPES, DECLARED.map(lambda declared: Shape(declared.name, None, declared))))
def test_a_shape_comes_back_from_its_text(shape: Shape) -> None:
    assert Shape.parse(str(shape)) == shape


@given(ALL_VECTORS)
def test_a_vector_comes_back_from_both_forms(vector: dict[Shape, Position]) -> None:
    text = vector_to_text(vector)
    assert text.isascii()
    assert not set(text) & set(" \r\n\0"), "fit for an SSE id and a query string"
    assert vector_from_text(text, limit=12) == vector
    assert vector_from_json(vector_to_json(vector), limit=12) == vector


@given(ALL_VECTORS, st.lists(SHAPES, max_size=3), st.randoms())
def test_a_vector_comes_back_from_its_short_form(
    vector: dict[Shape, Position], others: list[Shape], rng: random.Random
) -> None:
    shapes = list(dict.fromkeys([*vector, *others])) or [Shape("a")]
    rng.shuffle(shapes)
    text = vector_to_short(vector, shapes)
    assert text.isascii()
    assert not set(text) & set("= \r\n\0"), "fit for an SSE id, and told from the long form"
    assert vector_from_short(text, shapes) == vector
    assert vector_from_short(text.partition(".")[2], shapes) == vector
    for foreign in (shapes[1:], [*shapes, Shape("z z")], shapes[::-1]):
        if foreign and foreign != shapes:
            with pytest.raises(Malformed):
                vector_from_short(text, foreign)


@given(VECTORS.filter(bool))
def test_a_vector_over_the_limit_is_refused_in_both_forms(vector: dict[Shape, Position]) -> None:
    with pytest.raises(Malformed):
        vector_from_text(vector_to_text(vector), limit=len(vector) - 1)
    with pytest.raises(Malformed):
        vector_from_json(vector_to_json(vector), limit=len(vector) - 1)


@given(st.text(max_size=40))
def test_noise_is_refused_or_read_never_worse(text: str) -> None:
    shapes = [Shape("a"), Shape("b")]
    for read in (
        Position.parse,
        Shape.parse,
        lambda noise: vector_from_text(noise, limit=3),
        lambda noise: vector_from_short(noise, shapes),
    ):
        try:
            read(text)
        except Malformed:
            continue
