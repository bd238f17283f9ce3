"""Any input of a client becomes a message or `Malformed`, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain import protocol
from eventsync.domain.positions import LogId, Position, Seq, scoped, vector_from_text, vector_to_json, vector_to_text
from eventsync.domain.protocol import MAX_NAMED, Ack, Hello, Subscribe, parse
from eventsync.domain.shapes import InvalidShape, Shape
from eventsync.errors import Malformed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=10,
)
LOGS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=8).map(LogId)
SCOPES = st.none() | st.text("0123456789abcdef", min_size=8, max_size=8)
POSITIONS = st.builds(Position, st.builds(scoped, LOGS, SCOPES), st.integers(0, 2**63 - 1).map(Seq))
NAMES = st.text("abcXYZ09_-.$", min_size=1, max_size=12)
PAIRS = st.tuples(st.sampled_from(["board", "_x", "7"]), st.text("ab7:%24&=/?ü", max_size=12)).map("=".join)
QUERIES = st.text(max_size=12) | st.lists(PAIRS, max_size=3).map("&".join)
SHAPE_TEXTS = st.one_of(
    NAMES, st.tuples(NAMES, st.text(max_size=12)).map("/".join), st.tuples(NAMES, QUERIES).map("?".join)
)


@st.composite
def near_messages(draw: st.DrawFn) -> dict[str, Any]:
    """Objects that look like messages: each field is sometimes right, and sometimes anything."""
    message: dict[str, Any] = {
        "type": draw(st.sampled_from(["hello", "subscribe", "unsubscribe", "ack", "ping", "welcome"]) | JSON)
    }
    vectors = st.dictionaries(SHAPE_TEXTS, POSITIONS.map(str) | JSON, max_size=4)
    fields = {
        "client_id": st.text(max_size=140) | JSON,
        "token": st.text(max_size=20) | JSON,
        "shapes": st.lists(SHAPE_TEXTS | JSON, max_size=5) | JSON,
        "vector": vectors | JSON,
        "shape": SHAPE_TEXTS | JSON,
        "position": POSITIONS.map(str) | JSON,
    }
    for name in draw(st.sets(st.sampled_from(sorted(fields)))):
        message[name] = draw(fields[name])
    return message


def understood(text: str | bytes) -> protocol.Request | None:
    try:
        return parse(text, max_shapes=3)
    except Malformed as error:
        check_refusal(error)
        return None


def check_refusal(error: Malformed) -> None:
    assert len(error.message) < 1000, "what is refused is not repeated at length"


@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_anything_at_all(text: str | bytes) -> None:
    understood(text)


@given(near_messages())
def test_anything_like_a_message(message: dict[str, Any]) -> None:
    request = understood(json.dumps(message))
    if isinstance(request, Hello):
        assert len(request.shapes) <= 3 * MAX_NAMED
        assert request.vector is None or len(request.vector) <= 3 * MAX_NAMED
    if isinstance(request, Hello | Ack) and request.vector:
        # What is understood can be said again, in both forms.
        vector = dict(request.vector)
        assert vector_from_text(vector_to_text(vector), limit=3) == vector
        assert understood(json.dumps({"type": "ack", "vector": vector_to_json(vector)})) == Ack(vector)
    if isinstance(request, Subscribe):
        if isinstance(request.shape, InvalidShape):
            check_refusal(request.shape.error)
        else:
            assert Shape.parse(str(request.shape)) == request.shape


@given(st.integers(1, 100_000), st.sampled_from(["[", '{"a":', '{"type":"hello","shapes":[']))
def test_nesting_without_end(depth: int, opening: str) -> None:
    assert understood(opening * depth) is None
