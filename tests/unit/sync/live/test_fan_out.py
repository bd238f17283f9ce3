from __future__ import annotations

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.sync.live.fan_out import Channel, DirectWriter, Publication

LOG = LogId("aaaaaaaa")
ORDERS = Shape("orders")


def at(seq: int) -> Position:
    return Position(LOG, Seq(seq))


class Member:
    """Somebody on a seat, whose connection takes what it is given, or nothing."""

    def __init__(self, audience: Channel) -> None:
        self.event = LightEvent()
        self.seat = audience.join(self.event)
        self.takes = True
        self.got: list[bytes] = []

    def write(self, data: bytes) -> bool:
        if self.takes:
            self.got.append(data)
        return self.takes

    def woken(self) -> bool:
        woken = self.event.is_set()
        self.event.clear()
        return woken


def plain(news: Publication) -> bytes:
    return news.data


class Loud:
    """An encoding that counts."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, news: Publication) -> bytes:
        self.made += 1
        return news.data.upper()


def test_who_rests_is_sent_news_and_the_others_are_woken() -> None:
    audience = Channel(ORDERS, Seq(0))
    rests, awake = Member(audience), Member(audience)
    rests.seat.rest(at(3), DirectWriter(plain, rests.write))
    assert rests.seat.position == at(3)
    audience.tell(b"a", at(5))
    assert (rests.got, rests.woken(), rests.seat.position) == ([b"a"], False, at(5))
    assert (awake.got, awake.woken()) == ([], True)
    rests.seat.rouse()
    assert (rests.seat.position, rests.seat.sent) == (at(5), audience.told)
    audience.tell(b"b", at(6))
    assert (rests.got, rests.woken(), rests.seat.position) == ([b"a"], True, at(5))


def test_each_kind_of_connection_encodes_once() -> None:
    audience, loud = Channel(ORDERS, Seq(0)), Loud()
    members = [Member(audience) for _ in range(6)]
    for number, member in enumerate(members):
        member.seat.rest(at(0), DirectWriter(loud if number % 2 else plain, member.write))
    audience.tell(b"a", at(1))
    assert loud.made == 1
    assert [member.got for member in members] == [[b"a"], [b"A"]] * 3
    assert len({id(member.got[0]) for member in members[1::2]}) == 1


def test_who_does_not_take_them_is_roused_and_woken_where_it_stands() -> None:
    audience = Channel(ORDERS, Seq(0))
    slow, other = Member(audience), Member(audience)
    for member in (slow, other):
        member.seat.rest(at(0), DirectWriter(plain, member.write))
    audience.tell(b"a", at(1))
    told, slow.takes = audience.told, False
    audience.tell(b"b", at(2))
    slow.takes = True
    audience.tell(b"c", at(3))
    assert (slow.got, slow.seat.position, slow.seat.sent) == ([b"a"], at(1), told)
    assert slow.woken()
    assert (other.got, other.seat.position, other.woken()) == ([b"a", b"b", b"c"], at(3), False)


def test_who_was_sent_nothing_stays_where_it_was_however_far_the_others_are() -> None:
    audience = Channel(ORDERS, Seq(0))
    audience.tell(b"a", at(4))
    late = Member(audience)
    late.seat.rest(at(9), DirectWriter(plain, late.write))
    late.seat.rouse()
    assert (late.seat.position, late.seat.sent) == (at(9), 0.0)


def test_all_are_woken_and_nobody_rests() -> None:
    audience = Channel(ORDERS, Seq(0))
    rests, awake = Member(audience), Member(audience)
    rests.seat.rest(at(0), DirectWriter(plain, rests.write))
    audience.tell(b"a", at(7))
    assert awake.woken()
    audience.wake()
    assert (rests.woken(), awake.woken(), rests.seat.position) == (True, True, at(7))
    audience.tell(b"b", at(8))
    assert rests.got == [b"a"]


def test_behind_a_new_beginning_nothing_of_before_counts() -> None:
    audience, other = Channel(ORDERS, Seq(0)), LogId("bbbbbbbb")
    member = Member(audience)
    member.seat.rest(at(0), DirectWriter(plain, member.write))
    audience.tell(b"a", at(7))
    audience.begin_anew(Seq(2))
    assert (member.woken(), member.seat.position, audience.since) == (True, at(7), 2)
    member.seat.rest(Position(other, Seq(2)), DirectWriter(plain, member.write))
    assert member.seat.position == Position(other, Seq(2)), "that log has not come so far"


def test_who_leaves_is_sent_nothing_and_not_woken() -> None:
    audience = Channel(ORDERS, Seq(0))
    rests, awake = Member(audience), Member(audience)
    rests.seat.rest(at(0), DirectWriter(plain, rests.write))
    assert len(audience) == 2
    audience.leave(rests.seat)
    audience.leave(awake.seat)
    audience.tell(b"a", at(1))
    assert len(audience) == 0
    assert (rests.got, rests.woken(), awake.woken()) == ([], False, False)
