"""The spans of a feed's deliveries, over a window with subscribers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.delivery_spans import DeliverySpans
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window
from support.spans import SPAN, TRACEPARENT, EndedSpans, parent_of, traced_process

LOG = LogId("aaaa")


@pytest.fixture
def window() -> Window:
    made = Window(1_000_000, PageLimit(1000, 1_000_000))
    made.start(LOG, Seq(0))
    return made


@pytest.fixture
def ended() -> Iterator[EndedSpans]:
    with traced_process() as found:
        yield found


def spans_of_feed() -> DeliverySpans:
    spans = DeliverySpans.of_process()
    assert spans is not None
    return spans


def event(seq: int, collection: str = "orders") -> StoredEvent:
    return StoredEvent(Seq(seq), collection, IdText("1"), b'{"seq":%d}' % seq)


def row(seq: Any, trace: Any = TRACEPARENT, log: Any = LOG) -> dict[str, Any]:
    return {"_id": {"l": log, "n": seq}, "p": trace}


def published(spans: DeliverySpans, window: Window, *events: StoredEvent) -> None:
    window.extend(events)
    spans.published(window, events)


def test_a_delivery_is_one_span_with_the_number_of_its_clients(window: Window, ended: EndedSpans) -> None:
    for shape, accepts in (("orders", True), ("orders", True), ("orders", False), ("others", True)):
        subscriber = window.subscribe(Shape(shape), LightEvent())
        writer = DirectWriter(lambda publication: publication.data, lambda _, accepts=accepts: accepts)  # type: ignore[misc]
        subscriber.attach(Position(LOG, Seq(0)), writer)
    spans = spans_of_feed()
    spans.arrived([row(1), {"_id": {"l": LOG, "n": 2}}])
    published(spans, window, event(1), event(2))
    delivery = ended.one("deliver orders")
    assert parent_of(delivery) == SPAN
    assert delivery.attributes is not None
    assert delivery.attributes["messaging.message.id"] == "aaaa:1"
    assert delivery.attributes["eventsync.clients.written"] == 2
    assert delivery.attributes["eventsync.clients.woken"] == 1
    assert ended.names() == ["deliver orders"]


def test_events_that_are_held_back_end_when_they_are_published(window: Window, ended: EndedSpans) -> None:
    spans = spans_of_feed()
    spans.arrived([row(1), row(2), row(3)])
    published(spans, window, event(1))
    assert ended.names() == ["deliver orders"]
    spans.arrived([row(1)])  # the stream repeats it
    published(spans, window, event(2), event(3))
    assert ended.names() == ["deliver orders"] * 3
    # What is left over is of no event that will come.
    published(spans, window, event(4))
    assert spans._arrived == {}


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"p": TRACEPARENT},
        {"_id": 1, "p": TRACEPARENT},
        row({}),
        row(1, 5),
        row(1, "odd"),
        row(1, log=None),
        row(1, log="bbbb"),
    ],
    ids=str,
)
def test_a_row_of_something_else_has_no_span(window: Window, ended: EndedSpans, odd: dict[str, Any]) -> None:
    spans = spans_of_feed()
    spans.arrived([odd])
    published(spans, window, event(1))
    assert ended.names() == []
