"""What a live subscription may be given past its own messages: exactly what continues them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.domain.plan import Answer, Plan
from app.domain.position import LogId, Position, Seq
from app.domain.shape import Shape
from app.sync.pages import PageLimit
from app.sync.source import Source
from app.sync.subscription import Subscription
from app.sync.window import Frame, Window
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

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        return await Source.frame(cast("Source", SimpleNamespace(window=self.window)), shape, cursor)


class Sent:
    """Where frames go that are given."""

    def __init__(self, subscription: Subscription) -> None:
        self.ends: list[int] = []
        self._subscription = subscription

    def give(self, start: int, end: int, *, log: LogId = LOG, takes: bool = True) -> bool:
        def send(_: Frame, at: Position) -> bool:
            self.ends.append(at.seq)
            return takes

        return self._subscription.give(Frame(Seq(start), Seq(end), b""), Position(log, Seq(end)), send)


async def live(source: Windowed) -> tuple[Subscription, Sent, Any]:
    """At 12, of which it knows 10: behind there was nothing of its own."""
    subscription = Subscription(cast("Source", source), ORDERS, Position(LOG, Seq(10)))
    outgoing = subscription.outgoing()
    message = await anext(outgoing)
    assert message is not None
    assert message.kind == "live"
    source.window.extend([event(11, "users"), event(12, "users")])
    assert await anext(outgoing) is None
    assert subscription.position == Position(LOG, Seq(12))
    return subscription, Sent(subscription), outgoing


async def test_what_continues_it_is_given_and_its_own_messages_go_on_behind() -> None:
    source = Windowed()
    subscription, sent, outgoing = await live(source)
    assert sent.give(10, 13)
    assert subscription.position == Position(LOG, Seq(13))
    assert sent.give(13, 15)
    source.window.extend([event(seq) for seq in range(13, 17)])
    message = await anext(outgoing)
    assert message is not None
    assert b'"from":"aaaaaaaa:15","to":"aaaaaaaa:16"' in message.data, "none of it comes twice"
    assert sent.ends == [13, 15]


@pytest.mark.parametrize(
    ("start", "end", "log"),
    [
        (13, 14, LOG),  # it lacks something before
        (11, 13, LOG),  # it has that, but does not know it, and would take it for a hole
        (9, 12, LOG),  # it has all of it
        (8, 9, LOG),
        (10, 13, OTHER),
    ],
)
async def test_nothing_else_is_even_sent(start: int, end: int, log: LogId) -> None:
    subscription, sent, _ = await live(Windowed())
    assert not sent.give(start, end, log=log)
    assert sent.ends == []
    assert subscription.position == Position(LOG, Seq(12))


async def test_what_is_not_taken_is_not_had() -> None:
    subscription, sent, _ = await live(Windowed())
    assert not sent.give(10, 13, takes=False)
    assert subscription.position == Position(LOG, Seq(12))


async def test_while_it_is_not_live_it_is_given_nothing() -> None:
    subscription, sent, _ = await live(Windowed())
    subscription.live = False
    assert not sent.give(10, 13)
    assert sent.ends == []
