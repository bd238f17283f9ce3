from __future__ import annotations

import json
from typing import Any

import pytest

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Frame, Listener, Window
from support.logged import event, transaction

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


def test_an_empty_window_covers_only_its_head() -> None:
    empty = window(at=7)
    assert (empty.floor, empty.head, empty.covers(Seq(7)), empty.covers(Seq(6))) == (7, 7, True, False)
    assert empty.frame(ORDERS, Seq(7)) is None
    assert list(empty.events(ORDERS, Seq(7))) == []


def test_before_it_is_started_a_window_has_nothing() -> None:
    assert Window(1000, ALL).frame(ORDERS, Seq(0)) is None
    assert Window(1000, ALL).log is None


def test_a_frame_has_the_events_of_its_shape_from_where_the_previous_stood() -> None:
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


def test_live_cursors_share_the_same_bytes() -> None:
    filled = window()
    filled.extend([event(1), event(2, "users"), event(3)])
    first = filled.frame(ORDERS, Seq(1))
    assert filled.frame(ORDERS, Seq(2)) is first
    filled.extend([event(4, "users")])
    assert filled.frame(ORDERS, Seq(2)) is first
    filled.extend([event(5)])
    assert read(filled.frame(ORDERS, Seq(2))) == (1, 5, [3, 5])


def test_a_cursor_behind_a_kept_frame_gets_one_of_its_own() -> None:
    filled = window()
    filled.extend([event(seq) for seq in range(1, 5)])
    assert read(filled.frame(ORDERS, Seq(3))) == (3, 4, [4])
    assert read(filled.frame(ORDERS, Seq(1))) == (1, 4, [2, 3, 4])


def test_a_cursor_between_two_frames_of_a_long_run_gets_the_rest() -> None:
    filled = window(frame=PageLimit(2, 1_000_000))
    filled.extend([event(seq) for seq in range(1, 6)])
    assert read(filled.frame(ORDERS, Seq(0))) == (0, 2, [1, 2])
    assert read(filled.frame(ORDERS, Seq(2))) == (2, 4, [3, 4])
    assert read(filled.frame(ORDERS, Seq(4))) == (4, 5, [5])


def test_a_transaction_is_one_frame_whatever_its_size() -> None:
    filled = window(frame=PageLimit(1, 1))
    filled.extend([*transaction(1, [("orders", "1"), ("users", "1"), ("orders", "2")]), event(4)])
    assert read(filled.frame(ORDERS, Seq(0))) == (0, 3, [1, 3])
    assert read(filled.frame(ORDERS, Seq(3))) == (3, 4, [4])


def test_events_must_follow_each_other() -> None:
    filled = window(at=3)
    for wrong in (3, 5):
        with pytest.raises(ValueError, match="does not follow 3"):
            filled.extend([event(wrong)])


def test_the_oldest_events_leave_when_it_is_full_and_with_them_all_that_is_kept_of_their_shapes() -> None:
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
    assert len(filled._by_shape) == kept + 1
    assert len(filled._frames) <= kept + 1
    assert read(filled.frame(ORDERS, filled.floor)) == (filled.floor, 100, list(range(filled.floor + 1, 101)))


def test_one_event_larger_than_the_window_stays_until_the_next() -> None:
    filled = window(limit=1000)
    filled.extend([event(1, size=5000)])
    assert read(filled.frame(ORDERS, Seq(0))) == (0, 1, [1])
    filled.extend([event(2)])
    assert (filled.floor, filled.head) == (1, 2)


def test_a_new_log_begins_empty() -> None:
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


def test_who_listens_is_told_of_its_shapes_only() -> None:
    filled = window()
    with filled.listening() as orders, filled.listening() as one, filled.listening() as users:
        orders.add(ORDERS)
        one.add(ONE)
        users.add(USERS)
        filled.extend([event(1, key="2")])
        assert [item.event.is_set() for item in (orders, one, users)] == [True, False, False]
        filled.extend([event(2, key="1")])
        assert [item.event.is_set() for item in (orders, one, users)] == [True, True, False]
        one.event.clear()
        one.forget(ONE)
        filled.extend([event(3, key="1")])
        assert not one.event.is_set()


def test_everybody_is_told_of_a_new_log_and_of_a_call() -> None:
    filled = window()
    with filled.listening() as listener:
        listener.add(USERS)
        filled.start(LogId("bbbb"), Seq(0))
        assert listener.event.is_set()
        listener.event.clear()
        filled.wake_all()
        assert listener.event.is_set()


def test_nothing_is_kept_of_who_has_left() -> None:
    filled = window()
    with filled.listening() as stays:
        stays.add(ORDERS)
        with filled.listening() as leaves:
            for shape in (ORDERS, USERS, ONE):
                leaves.add(shape)
            leaves.forget(Shape("unknown"))
        assert list(filled._audiences) == [ORDERS]
    assert not filled._audiences


def test_a_live_cursor_gets_only_what_is_new_also_behind_one_that_is_far_behind() -> None:
    filled = window()
    filled.extend(event(seq) for seq in range(1, 101))
    assert read(filled.frame(ORDERS, Seq(0)))[2] == [*range(1, 101)]
    assert read(filled.frame(ORDERS, Seq(99)))[2] == [100]
    newest = filled.frame(ORDERS, Seq(99))
    filled.frame(ORDERS, Seq(0))
    assert filled.frame(ORDERS, Seq(99)) is newest


class Resting:
    """A listener that rests at the window's head, and is woken when there is more than it can be sent."""

    def __init__(self, window: Window, *shapes: Shape) -> None:
        self.sent: list[tuple[Shape, int, int, list[int]]] = []
        self.listener = Listener(window)
        for shape in shapes:
            self.listener.add(shape).rest(Position(LOG, window.head), DirectWriter(self._read, lambda _: True))

    def _read(self, news: Publication) -> bytes:
        start, end, seqs = span(news.data)
        assert news.end == Position(LOG, Seq(end))
        self.sent.append((news.shape, start, end, seqs))
        return news.data

    @property
    def woken(self) -> bool:
        return self.listener.event.is_set()


def test_news_go_to_who_rests_from_where_it_stands() -> None:
    filled = window(at=10)
    filled.extend([event(11), event(12, "users")])
    orders, both = Resting(filled, ORDERS), Resting(filled, ORDERS, USERS)
    filled.extend([event(13, "users"), event(14), event(15)])
    assert orders.sent == [(ORDERS, 11, 15, [14, 15])]
    assert sorted(both.sent, key=str) == [(ORDERS, 11, 15, [14, 15]), (USERS, 12, 13, [13])]
    assert (orders.woken, both.woken) == (False, False)


def test_more_news_than_a_frame_holds_only_wake() -> None:
    filled = window(frame=PageLimit(2, 1_000_000))
    taker = Resting(filled, ORDERS)
    filled.extend([event(1), event(2), event(3)])
    assert (taker.sent, taker.woken) == ([], True)


def test_news_that_do_not_fit_in_the_window_only_wake() -> None:
    filled = window(limit=1000)
    taker = Resting(filled, ORDERS)
    filled.extend([event(seq) for seq in range(1, 10)])
    assert filled.floor > 0
    assert (taker.sent, taker.woken) == ([], True)


def test_who_listens_to_something_rare_is_not_behind_because_much_else_happens() -> None:
    filled = window(limit=4000)
    filled.extend([event(1), event(2)])
    taker = Resting(filled, ORDERS)
    filled.extend([event(seq, "users") for seq in range(3, 60)])
    assert filled.floor > 10
    assert filled.covers(Seq(2), ORDERS)
    assert not filled.covers(Seq(1), ORDERS), "the second event has left"
    assert not filled.covers(Seq(2), USERS)
    filled.extend([event(60)])
    assert taker.sent == [(ORDERS, 2, 60, [60])]
    taker.listener.forget(ORDERS)
    assert not filled.covers(Seq(2), ORDERS)
    assert not filled._audiences


def test_beginning_anew_nothing_is_known_of_before() -> None:
    filled = window(at=10)
    taker = Resting(filled, ORDERS)
    filled.start(LOG, Seq(50))
    assert not filled.covers(Seq(10), ORDERS)
    assert filled.covers(Seq(50), ORDERS)
    assert taker.woken
