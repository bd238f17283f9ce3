"""A live subscription rests only where what comes next continues what the client has, and knows of."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.plan import Answer, Plan
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Frame, Window
from eventsync.sync.sessions.subscription import Subscription
from support.logged import event

LOG, OTHER = LogId("aaaaaaaa"), LogId("bbbbbbbb")
ORDERS = Shape("orders")


class Windowed:
    """What a subscription needs of a source whose window has everything."""

    def __init__(self) -> None:
        self.window = Window(1_000_000, PageLimit(1000, 1_000_000))
        self.window.start(LOG, Seq(10))
        self.tracking = {"orders", "users"}
        self.planner = self

    async def plan(self, *_: Any) -> Plan:
        return Plan(Answer.EVENTS, 0.0)

    async def settled(self, shape: Shape) -> None:
        """No new log is about to begin."""

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        return await Source.frame(cast("Source", SimpleNamespace(window=self.window)), shape, cursor)


async def live(source: Windowed) -> tuple[Subscription, Any]:
    """At 10, with nothing behind it."""
    subscription = Subscription(cast("Source", source), ORDERS, Position(LOG, Seq(10)))
    outgoing = subscription.outgoing()
    message = await anext(outgoing)
    assert message is not None
    assert message.kind == "live"
    return subscription, outgoing


class Resting:
    """A seat in the window's audience, and what was sent to it."""

    def __init__(self, source: Windowed, subscription: Subscription) -> None:
        self.sent: list[str] = []
        self.takes = True
        self.subscription = subscription
        self.event = LightEvent()
        self.seat = source.window.join(ORDERS, self.event)
        self.rest()

    def rest(self) -> None:
        self.subscription.rest(self.seat, DirectWriter(lambda news: news.data, self._write))

    def _write(self, data: bytes) -> bool:
        if self.takes:
            message = json.loads(data)
            self.sent.append(f"{message['from']} {message['to']}")
        return self.takes


async def test_what_continues_it_is_sent_straight_and_its_own_messages_go_on_behind() -> None:
    source = Windowed()
    subscription, outgoing = await live(source)
    resting = Resting(source, subscription)
    source.window.extend([event(11), event(12, "users"), event(13)])
    assert subscription.position == Position(LOG, Seq(13))
    source.window.extend([event(14)])
    assert resting.sent == ["aaaaaaaa:10 aaaaaaaa:13", "aaaaaaaa:13 aaaaaaaa:14"]
    assert not resting.event.is_set()
    assert subscription.rouse() > 0
    source.window.extend([event(15), event(16)])
    assert resting.event.is_set()
    message = await anext(outgoing)
    assert message is not None
    assert b'"from":"aaaaaaaa:14","to":"aaaaaaaa:16"' in message.data, "none of it comes twice"
    assert len(resting.sent) == 2


async def test_who_has_more_than_it_knows_of_is_sent_what_begins_where_it_knows() -> None:
    source = Windowed()
    subscription, outgoing = await live(source)
    source.window.extend([event(11, "users"), event(12, "users")])
    assert await anext(outgoing) is None
    assert subscription.position == Position(LOG, Seq(12))
    resting = Resting(source, subscription)
    assert subscription.position == Position(LOG, Seq(12))
    source.window.extend([event(13)])
    assert resting.sent == ["aaaaaaaa:10 aaaaaaaa:13"]


async def test_who_lacks_something_does_not_rest() -> None:
    source = Windowed()
    subscription, _ = await live(source)
    source.window.extend([event(11)])
    resting = Resting(source, subscription)
    source.window.extend([event(12)])
    assert (resting.sent, resting.event.is_set()) == ([], True)
    assert subscription.position == Position(LOG, Seq(10))
    assert subscription.rouse() == 0.0


async def test_who_is_further_than_the_window_is_not_sent_what_it_has() -> None:
    """A snapshot is of a checkpoint, which the feed of a busy server may not have reached yet."""
    source = Windowed()
    subscription = Subscription(cast("Source", source), ORDERS, Position(LOG, Seq(13)))
    outgoing = subscription.outgoing()
    await anext(outgoing)
    assert subscription.live
    resting = Resting(source, subscription)
    source.window.extend([event(11), event(12)])
    assert (resting.sent, resting.event.is_set()) == ([], True)
    assert subscription.position == Position(LOG, Seq(13))
    source.window.extend([event(13)])
    assert await anext(outgoing) is None
    resting.rest()
    source.window.extend([event(14)])
    assert resting.sent == ["aaaaaaaa:13 aaaaaaaa:14"]


async def test_what_is_not_taken_is_not_had() -> None:
    source = Windowed()
    subscription, outgoing = await live(source)
    resting = Resting(source, subscription)
    source.window.extend([event(11)])
    resting.takes = False
    source.window.extend([event(12)])
    source.window.extend([event(13)])
    assert resting.event.is_set()
    assert subscription.position == Position(LOG, Seq(11))
    subscription.rouse()
    message = await anext(outgoing)
    assert message is not None
    assert b'"from":"aaaaaaaa:11","to":"aaaaaaaa:13"' in message.data


async def test_who_is_not_live_or_of_another_log_does_not_rest() -> None:
    source = Windowed()
    subscription, _ = await live(source)
    subscription.live = False
    resting = Resting(source, subscription)
    source.window.extend([event(11)])
    assert resting.sent == []
    subscription.live = True
    source.window.start(OTHER, Seq(10))
    resting.rest()
    source.window.extend([event(11)])
    assert resting.sent == []
    assert subscription.position == Position(LOG, Seq(10))


async def test_a_new_log_rouses_who_rests_where_it_stood() -> None:
    source = Windowed()
    subscription, _ = await live(source)
    resting = Resting(source, subscription)
    source.window.extend([event(11)])
    source.window.start(OTHER, Seq(3))
    assert resting.event.is_set()
    assert subscription.position == Position(LOG, Seq(11))
    source.window.extend([event(4)])
    assert len(resting.sent) == 1
