from __future__ import annotations

import json
from typing import Any

import pytest

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.routes import Transition
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Frame, Subscribers, Window
from support.logs_by_hand import event, seen_shape, transaction

LOG = LogId("aaaa")
ORDERS, USERS, ONE = Shape("orders"), Shape("users"), Shape("orders", IdText("1"))
ALL = PageLimit(1000, 1_000_000)


def window(*, limit: int = 1_000_000, frame: PageLimit = ALL, at: int = 0) -> Window:
    made = Window(limit, frame)
    made.start(LOG, Seq(at))
    return made


def read(frame: Frame | None) -> tuple[int, int, list[int]]:
    assert frame is not None
    start, end, seqs = span(frame.data)
    assert (start, end) == (frame.start, frame.end)
    return start, end, seqs


def span(data: bytes) -> tuple[int, int, list[int]]:
    message: dict[str, Any] = json.loads(data)
    assert message["type"] == "events"
    start, end = Position.parse(message["from"]), Position.parse(message["to"])
    assert start.log == end.log == LOG
    return start.seq, end.seq, [item["seq"] for item in message["events"]]


def test_empty_window_covers_only_its_head() -> None:
    empty = window(at=7)
    assert (empty.floor, empty.head, empty.covers(Seq(7)), empty.covers(Seq(6))) == (7, 7, True, False)
    assert empty.frame(ORDERS, Seq(7)) is None
    assert list(empty.events(ORDERS, Seq(7))) == []


def test_window_before_start_has_no_log_and_no_frames() -> None:
    assert Window(1000, ALL).frame(ORDERS, Seq(0)) is None
    assert Window(1000, ALL).log is None


def test_frame_spans_from_the_previous_event_of_its_shape() -> None:
    def frame(shape: Shape, after: int) -> Frame | None:
        filled = window(at=10)
        filled.extend([event(11), event(12, "users"), event(13, key="2"), event(14, "users"), event(15)])
        return filled.frame(shape, Seq(after))

    assert read(frame(ORDERS, 10)) == (10, 15, [11, 13, 15])
    assert read(frame(ORDERS, 11)) == (11, 15, [13, 15])
    assert read(frame(ORDERS, 12)) == (11, 15, [13, 15])
    assert read(frame(ONE, 12)) == (11, 15, [15])
    assert read(frame(USERS, 13)) == (12, 14, [14])
    assert frame(USERS, 14) is None
    assert frame(ORDERS, 15) is None
    assert frame(Shape("orders", IdText("3")), 10) is None


def test_originals_look_at_no_event_after_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def transition_of(item: StoredEvent, _: object) -> Transition:
        asked.append(item.seq)
        return "stay"

    monkeypatch.setattr("eventsync.sync.live.window.transition_of", transition_of)
    filled = window()
    filled.extend(event(seq) for seq in range(1, 10))
    assert [item.seq for item, _ in filled.originals(seen_shape("orders"), Seq(2), Seq(4))] == [4, 3]
    assert asked == [4, 3]


def test_frame_is_the_same_object_for_all_live_cursors() -> None:
    filled = window()
    filled.extend([event(1), event(2, "users"), event(3)])
    first = filled.frame(ORDERS, Seq(1))
    assert filled.frame(ORDERS, Seq(2)) is first
    filled.extend([event(4, "users")])
    assert filled.frame(ORDERS, Seq(2)) is first
    filled.extend([event(5)])
    assert read(filled.frame(ORDERS, Seq(2))) == (1, 5, [3, 5])


def test_frame_for_a_cursor_behind_the_cached_frame_is_longer() -> None:
    filled = window()
    filled.extend([event(seq) for seq in range(1, 5)])
    assert read(filled.frame(ORDERS, Seq(3))) == (3, 4, [4])
    assert read(filled.frame(ORDERS, Seq(1))) == (1, 4, [2, 3, 4])


def test_frames_of_a_long_run_join() -> None:
    filled = window(frame=PageLimit(2, 1_000_000))
    filled.extend([event(seq) for seq in range(1, 6)])
    assert read(filled.frame(ORDERS, Seq(0))) == (0, 2, [1, 2])
    assert read(filled.frame(ORDERS, Seq(2))) == (2, 4, [3, 4])
    assert read(filled.frame(ORDERS, Seq(4))) == (4, 5, [5])


def test_frame_never_splits_a_transaction() -> None:
    filled = window(frame=PageLimit(1, 1))
    filled.extend([*transaction(1, [("orders", "1"), ("users", "1"), ("orders", "2")]), event(4)])
    assert read(filled.frame(ORDERS, Seq(0))) == (0, 3, [1, 3])
    assert read(filled.frame(ORDERS, Seq(3))) == (3, 4, [4])


def test_extend_refuses_events_that_are_not_dense() -> None:
    filled = window(at=3)
    for wrong in (3, 5):
        with pytest.raises(ValueError, match="does not follow 3"):
            filled.extend([event(wrong)])


def test_full_window_drops_the_oldest_events_and_all_state_of_their_shapes() -> None:
    filled = window(limit=3000)
    for seq in range(1, 101):
        filled.extend([event(seq, key=str(seq))])
        assert filled.frame(Shape("orders", IdText(str(seq))), Seq(seq - 1)) is not None
    assert filled.bytes <= 3000
    assert 0 < filled.floor < 100 == filled.head
    assert filled.covers(filled.floor)
    assert not filled.covers(Seq(filled.floor - 1))
    kept = 100 - filled.floor
    assert len(filled._all) == kept
    assert len(filled._by_topic) == kept + 1
    assert len(filled._frames) <= kept + 1
    assert read(filled.frame(ORDERS, filled.floor)) == (filled.floor, 100, list(range(filled.floor + 1, 101)))


def test_event_larger_than_the_window_stays_until_the_next_one() -> None:
    filled = window(limit=1000)
    filled.extend([event(1, size=5000)])
    assert read(filled.frame(ORDERS, Seq(0))) == (0, 1, [1])
    filled.extend([event(2)])
    assert (filled.floor, filled.head) == (1, 2)


def test_start_empties_the_window() -> None:
    filled = window()
    filled.extend([event(1)])
    assert filled.frame(ORDERS, Seq(0)) is not None
    filled.start(LogId("bbbb"), Seq(40))
    assert (filled.log, filled.floor, filled.head, filled.bytes) == ("bbbb", 40, 40, 0)
    assert filled.frame(ORDERS, Seq(40)) is None
    filled.extend([event(41)])
    frame = filled.frame(ORDERS, Seq(40))
    assert frame is not None
    assert b'"from":"bbbb:40"' in frame.data


def test_subscribers_are_woken_by_events_of_their_shapes_only() -> None:
    filled = window()
    with filled.subscribers() as orders, filled.subscribers() as one, filled.subscribers() as users:
        orders.add(ORDERS)
        one.add(ONE)
        users.add(USERS)
        filled.extend([event(1, key="2")])
        assert [item.event.is_set() for item in (orders, one, users)] == [True, False, False]
        filled.extend([event(2, key="1")])
        assert [item.event.is_set() for item in (orders, one, users)] == [True, True, False]
        one.event.clear()
        one.remove(ONE)
        filled.extend([event(3, key="1")])
        assert not one.event.is_set()


def test_start_and_wake_all_wake_every_subscriber() -> None:
    filled = window()
    with filled.subscribers() as subscribers:
        subscribers.add(USERS)
        filled.start(LogId("bbbb"), Seq(0))
        assert subscribers.event.is_set()
        subscribers.event.clear()
        filled.wake_all()
        assert subscribers.event.is_set()


def test_wake_wakes_those_that_it_concerns() -> None:
    filled = window()
    with filled.subscribers() as orders, filled.subscribers() as users:
        orders.add(ORDERS)
        users.add(USERS)
        filled.wake(lambda shape: shape == USERS)
        assert [item.event.is_set() for item in (orders, users)] == [False, True]


def test_channel_is_removed_with_its_last_subscriber() -> None:
    filled = window()
    with filled.subscribers() as stays:
        stays.add(ORDERS)
        with filled.subscribers() as leaves:
            for shape in (ORDERS, USERS, ONE):
                leaves.add(shape)
            leaves.remove(Shape("unknown"))
        assert list(filled._channels) == [ORDERS.topic]
    assert not filled._channels


def test_frame_of_a_live_cursor_is_not_affected_by_cursors_far_behind() -> None:
    filled = window()
    filled.extend(event(seq) for seq in range(1, 101))
    assert read(filled.frame(ORDERS, Seq(0)))[2] == [*range(1, 101)]
    assert read(filled.frame(ORDERS, Seq(99)))[2] == [100]
    newest = filled.frame(ORDERS, Seq(99))
    filled.frame(ORDERS, Seq(0))
    assert filled.frame(ORDERS, Seq(99)) is newest


class Attached:
    """A client with attached subscribers at the window's head."""

    def __init__(self, window: Window, *shapes: Shape) -> None:
        self.sent: list[tuple[Shape, int, int, list[int]]] = []
        self.subscribers = Subscribers(window)
        for shape in shapes:
            self.subscribers.add(shape).attach(Position(LOG, window.head), DirectWriter(self._encode, lambda _: True))

    def _encode(self, publication: Publication) -> bytes:
        start, end, seqs = span(publication.data)
        assert publication.end == Position(LOG, Seq(end))
        self.sent.append((publication.shape, start, end, seqs))
        return publication.data

    @property
    def woken(self) -> bool:
        return self.subscribers.event.is_set()


def test_extend_publishes_to_attached_subscribers_from_their_position() -> None:
    filled = window(at=10)
    filled.extend([event(11), event(12, "users")])
    orders, both = Attached(filled, ORDERS), Attached(filled, ORDERS, USERS)
    filled.extend([event(13, "users"), event(14), event(15)])
    assert orders.sent == [(ORDERS, 11, 15, [14, 15])]
    assert sorted(both.sent, key=str) == [(ORDERS, 11, 15, [14, 15]), (USERS, 12, 13, [13])]
    assert (orders.woken, both.woken) == (False, False)


def test_extend_by_more_than_a_frame_only_wakes() -> None:
    filled = window(frame=PageLimit(2, 1_000_000))
    client = Attached(filled, ORDERS)
    filled.extend([event(1), event(2), event(3)])
    assert (client.sent, client.woken) == ([], True)


def test_extend_by_more_than_the_window_only_wakes() -> None:
    filled = window(limit=1000)
    client = Attached(filled, ORDERS)
    filled.extend([event(seq) for seq in range(1, 10)])
    assert filled.floor > 0
    assert (client.sent, client.woken) == ([], True)


def test_channel_of_a_rare_shape_stays_covered_below_the_floor() -> None:
    filled = window(limit=4000)
    filled.extend([event(1), event(2)])
    client = Attached(filled, ORDERS)
    filled.extend([event(seq, "users") for seq in range(3, 60)])
    assert filled.floor > 10
    assert filled.covers(Seq(2), ORDERS)
    assert not filled.covers(Seq(1), ORDERS), "the second event has left"
    assert not filled.covers(Seq(2), USERS)
    filled.extend([event(60)])
    assert client.sent == [(ORDERS, 2, 60, [60])]
    client.subscribers.remove(ORDERS)
    assert not filled.covers(Seq(2), ORDERS)
    assert not filled._channels


def test_start_uncovers_positions_of_subscribers_and_wakes_them() -> None:
    filled = window(at=10)
    client = Attached(filled, ORDERS)
    filled.start(LOG, Seq(50))
    assert not filled.covers(Seq(10), ORDERS)
    assert filled.covers(Seq(50), ORDERS)
    assert client.woken
