"""The counts of a window of its publications."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.event_body import committed_at
from eventsync.domain.events import timestamp
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live import figures
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window

LOG = LogId("aaaa")
AT = datetime(2026, 11, 23, 5, 22, 46, 405000, tzinfo=UTC)


def body(at: float = 0.0, seq: int = 1) -> bytes:
    text = timestamp(datetime.fromtimestamp(at, UTC))
    return b'{"seq":%d,"doc":{},"at":"%b","external":true}' % (seq, text.encode())


def event(seq: int, collection: str = "orders", at: float = 0.0) -> StoredEvent:
    return StoredEvent(Seq(seq), collection, IdText("1"), body(at, seq))


@pytest.mark.parametrize(
    "text",
    [
        b'{"seq":1,"doc":{"at":"1999-01-01T00:00:00.000Z"},"at":"2026-11-23T05:22:46.405Z","external":true}',
        b'{"seq":1,"at":"2026-11-23T05:22:46.405Z","op_id":"x","by":"\\",\\"at\\":\\"1999-01-01T00:00:00.000Z"}',
        b'{"seq":1,"at":"2026-11-23T05:22:46.405Z","external":true,"txn":{"id":"a","n":1,"of":2}}',
    ],
)
def test_commit_time_is_the_event_s_own(text: bytes) -> None:
    assert committed_at(text) == AT.timestamp()


@pytest.mark.parametrize("text", [b"{}", b'{"at":"soon"}', b'{"at":"\xff026-11-23T05:22:46.405Z"}'])
def test_a_body_without_a_time_has_none(text: bytes) -> None:
    assert committed_at(text) is None


def test_deliveries_are_events_times_attached_clients() -> None:
    window, shape, taken = Window(1_000_000, PageLimit(1000, 1_000_000)), Shape("orders"), list[bytes]()
    window.start(LOG, Seq(0))
    encode = bytes

    def write(data: bytes) -> bool:
        taken.append(data)
        return True

    for writes in (write, write, lambda _: False):
        subscriber = window.subscribe(shape, LightEvent())
        subscriber.attach(Position(LOG, Seq(0)), DirectWriter(lambda publication: encode(publication.data), writes))
    window.extend([event(1), event(2), event(3, "others")])
    assert len(taken) == 2
    assert (window.figures.events, window.figures.direct) == (3, 4)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time that is read, in Unix seconds."""
    at = 1795500000.0
    monkeypatch.setattr(figures, "time", SimpleNamespace(time=lambda: at))
    return at


def test_the_delay_is_that_of_the_oldest_event_and_only_where_somebody_follows(now: float) -> None:
    window = Window(1_000_000, PageLimit(1000, 1_000_000))
    window.start(LOG, Seq(0))
    window.extend([event(1, at=now - 5)])
    assert sum(window.figures.delay.counts) == 0
    window.subscribe(Shape("orders"), LightEvent())
    window.extend([event(2, at=now - 5), event(3, at=now)])
    assert sum(window.figures.delay.counts) == 2
    assert window.figures.delay.sum == pytest.approx(2 * 5)


def test_delays_are_those_since_the_last_call(now: float) -> None:
    counted = figures.DeliveryFigures()
    counted.published(body(now - 60), 1, is_followed=True)
    assert counted.take_delays() == [60.0]
    counted.published(body(now + 60), 1, is_followed=True)
    assert counted.take_delays() == [0.0]  # a clock that is ahead
    assert counted.take_delays() == []
