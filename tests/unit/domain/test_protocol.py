from __future__ import annotations

import json
from typing import Any

import pytest

from eventsync.domain import protocol
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.protocol import Ack, Hello, Ping, Subscribe, UnreadableMessage, Unsubscribe, parse
from eventsync.domain.shapes import InvalidShape, Shape
from eventsync.errors import Malformed, NotTracked, Unavailable

LOG = LogId("k3f9ab2c")
SHAPE = Shape("orders", IdText('a"b'))
POSITION = Position(LOG, Seq(128))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (protocol.welcome("s", "c", 25.0, {SHAPE: POSITION}),
         {"type": "welcome", "session": "s", "client_id": "c", "protocol": 1, "heartbeat": 25.0,
          "vector": {'orders/a"b': "k3f9ab2c:128"}}),
        (b"".join(protocol.snapshot(POSITION, SHAPE, 0, [b'{"id":"1"}', b'{"id":"2"}'], last=False)),
         {"type": "snapshot", "shape": 'orders/a"b', "position": "k3f9ab2c:128", "part": 0, "last": False,
          "docs": [{"id": "1"}, {"id": "2"}]}),
        (b"".join(protocol.snapshot(POSITION, SHAPE, 3, [], last=True)),
         {"type": "snapshot", "shape": 'orders/a"b', "position": "k3f9ab2c:128", "part": 3, "last": True, "docs": []}),
        (protocol.events(SHAPE, LOG, Seq(1), Seq(3), [b'{"seq":2}', b'{"seq":3}']),
         {"type": "events", "shape": 'orders/a"b', "from": "k3f9ab2c:1", "to": "k3f9ab2c:3",
          "events": [{"seq": 2}, {"seq": 3}]}),
        (protocol.live(SHAPE, POSITION), {"type": "live", "shape": 'orders/a"b', "position": "k3f9ab2c:128"}),
        (protocol.progress({Shape("orders"): POSITION}), {"type": "progress", "vector": {"orders": "k3f9ab2c:128"}}),
        (protocol.reset(SHAPE, "future"), {"type": "reset", "shape": 'orders/a"b', "reason": "future"}),
        (protocol.error(NotTracked("no"), "orders"),
         {"type": "error", "code": "not_tracked", "message": "no", "shape": "orders"}),
        (protocol.error(Unavailable("down", retry_after=2.0)),
         {"type": "error", "code": "unavailable", "message": "down", "retry_after": 2.0}),
        (protocol.PONG, {"type": "pong"}),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_messages_of_the_server_are_encoded(data: bytes, message: dict[str, Any]) -> None:
    assert json.loads(data) == message


def test_a_log_page_and_an_events_message_say_the_same() -> None:
    bodies = [b'{"seq":2}']
    page = json.loads(b"".join(protocol.events_page(SHAPE, LOG, Seq(1), Seq(2), bodies, live=False)))
    message = json.loads(protocol.events(SHAPE, LOG, Seq(1), Seq(2), bodies))
    assert page | {"type": "events"} == message | {"live": False}


@pytest.mark.parametrize(
    ("message", "request_"),
    [
        ({"type": "hello"}, Hello(None, None, (), None)),
        ({"type": "hello", "client_id": "c 1", "token": "t", "shapes": ["orders", "orders/str:42", "orders/42"],
          "vector": {"orders": "k:1"}, "unknown": {}},
         Hello("c 1", "t", (Shape("orders"), Shape("orders", IdText("42"))),
               {Shape("orders"): Position(LogId("k"), Seq(1))})),
        ({"type": "hello", "vector": None}, Hello(None, None, (), None)),
        ({"type": "hello", "vector": {}}, Hello(None, None, (), {})),
        ({"type": "subscribe", "shape": "orders"}, Subscribe(Shape("orders"), None)),
        ({"type": "subscribe", "shape": "orders", "position": "k:5"},
         Subscribe(Shape("orders"), Position(LogId("k"), Seq(5)))),
        ({"type": "unsubscribe", "shape": "orders/42"}, Unsubscribe(Shape("orders", IdText("42")))),
        ({"type": "ack", "vector": {"orders": "k:5"}}, Ack({Shape("orders"): Position(LogId("k"), Seq(5))})),
        ({"type": "ping", "more": 1}, Ping()),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_messages_of_a_client_are_parsed(message: dict[str, Any], request_: protocol.Request) -> None:
    assert parse(json.dumps(message), max_shapes=3) == request_
    assert parse(json.dumps(message).encode(), max_shapes=3) == request_


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", '"hello"', "{}", '{"type": 5}', '{"type": null}', "NaN", b"\xff", "[" * 5000]
)
def test_text_that_is_no_message_is_unreadable(text: str | bytes) -> None:
    with pytest.raises(UnreadableMessage):
        parse(text, max_shapes=3)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "write", "collection": "orders"},
        {"type": ""},
        {"type": "x" * 10_000},
        {"type": "hello", "shapes": "orders"},
        {"type": "hello", "shapes": [str(n) for n in range(31)]},
        {"type": "hello", "shapes": [5]},
        {"type": "hello", "token": 5},
        {"type": "hello", "client_id": ""},
        {"type": "hello", "client_id": "x" * 129},
        {"type": "hello", "client_id": "ü"},
        {"type": "hello", "client_id": "a\n"},
        {"type": "hello", "client_id": 5},
        {"type": "hello", "vector": [1]},
        {"type": "hello", "vector": {"orders": "x"}},
        {"type": "subscribe"},
        {"type": "subscribe", "shape": 5},
        {"type": "unsubscribe"},
        {"type": "ack"},
        {"type": "ack", "vector": {"a": "k:1", "b": "k:1", "c": "k:1", "d": "k:1"}},
    ],
)
def test_malformed_messages_differ_from_unreadable_ones(message: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as caught:
        parse(json.dumps(message), max_shapes=3)
    assert not isinstance(caught.value, UnreadableMessage)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("text", ["", "orders/", "orders/int:x", "a$b", "orders?a=b=%", "orders/" + "x" * 20_000])
def test_text_that_is_no_shape_keeps_its_place_and_its_name(text: str) -> None:
    hello = parse(json.dumps({"type": "hello", "shapes": [text, "orders", text]}), max_shapes=3)
    assert isinstance(hello, Hello)
    invalid, valid = hello.shapes
    assert valid == Shape("orders") != invalid
    for kind, request_ in (("subscribe", Subscribe(invalid, None)), ("unsubscribe", Unsubscribe(invalid))):
        assert parse(json.dumps({"type": kind, "shape": text}), max_shapes=3) == request_
    assert isinstance(invalid, InvalidShape)
    assert str(invalid) == text
    assert invalid.error.code in {"malformed", "invalid_predicate"}


@pytest.mark.parametrize("position", ["x", 5])
def test_position_that_can_not_be_read_is_an_error_of_its_shape(position: object) -> None:
    message = {"type": "subscribe", "shape": "orders/str:7", "position": position}
    request = parse(json.dumps(message), max_shapes=3)
    assert isinstance(request, Subscribe)
    assert isinstance(request.shape, InvalidShape)
    assert str(request.shape) == "orders/7"
    assert "position" in request.shape.error.message


def test_client_ids() -> None:
    assert protocol.check_client_id(None) is None
    assert protocol.check_client_id("x" * protocol.MAX_CLIENT_ID) == "x" * 128


def test_squashed() -> None:
    rows = [b'{"id":"a","version":1,"doc":{"_id":"a"}}', b'{"id":"b","deleted":true}']
    start, end = Position(LOG, Seq(5)), Position(LOG, Seq(9))
    said = json.loads(b"".join(protocol.squashed(start, end, SHAPE, 2, rows, last=True)))
    assert said == {
        "type": "squashed",
        "shape": 'orders/a"b',
        "from": "k3f9ab2c:5",
        "to": "k3f9ab2c:9",
        "part": 2,
        "last": True,
        "docs": [json.loads(row) for row in rows],
    }
    assert json.loads(b"".join(protocol.squashed(start, end, SHAPE, 0, [], last=False)))["last"] is False


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 100])
def test_rows_are_listed_however_many_they_are(count: int) -> None:
    rows = [b'{"id":"%d"}' % number for number in range(count)]
    pieces = protocol.snapshot(POSITION, SHAPE, 0, rows, last=True)
    assert [row["id"] for row in json.loads(b"".join(pieces))["docs"]] == [str(number) for number in range(count)]
    assert len(pieces) < 10


def test_a_large_row_among_many_is_not_copied() -> None:
    small, large = [b'{"id":"%d"}' % number for number in range(10)], b'{"id":"' + b"x" * 70_000 + b'"}'
    pieces = protocol.events_page(SHAPE, LOG, Seq(0), Seq(21), [*small, large, *small], live=True)
    assert any(piece is large for piece in pieces)
    assert len(pieces) < 10
    assert len(json.loads(b"".join(pieces))["events"]) == 21
