"""Subscriptions: attaching and detaching while live, and parts of bounded size."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventsync.access.access import UNRESTRICTED, Access
from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.plan import Answer, Plan
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.sync.catch_up.source import Source
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Frame, Subscribers, Window
from eventsync.sync.sessions.scheduler import SubscriptionScheduler
from eventsync.sync.sessions.subscription import Extent, Part, Subscription, parts_of
from support.logs_by_hand import event
from support.waiting import within

LOG, OTHER = LogId("aaaaaaaa"), LogId("bbbbbbbb")
ORDERS = Shape("orders")


class Windowed:
    """A source whose window holds every event, as far as a subscription uses it."""

    def __init__(self) -> None:
        self.window = Window(1_000_000, PageLimit(1000, 1_000_000))
        self.window.start(LOG, Seq(10))
        self.planner = self
        self.interrupted: set[Shape] = set()
        """Shapes that wait for their activation."""
        self.changed = asyncio.Event()

    def has_all_after(self, shape: Shape, position: Position) -> bool:
        return position.log == self.window.log and shape not in self.interrupted

    async def plan(self, *_: Any) -> Plan:
        return Plan(Answer.EVENTS, 0.0)

    def bind(self, shape: Shape, _: Access) -> Shape:
        return shape

    async def wait_until_servable(self, shape: Shape, _: Any) -> None:
        while shape in self.interrupted:
            self.changed.clear()
            await self.changed.wait()

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        return await Source.frame(cast("Source", SimpleNamespace(window=self.window)), shape, cursor)


def subscribed(source: Windowed, seq: int) -> Subscription:
    return Subscription(
        cast("Source", source), Subscribers(source.window), ORDERS, Position(LOG, Seq(seq)), lambda: UNRESTRICTED
    )


async def live(source: Windowed) -> tuple[Subscription, Any]:
    """Return a live subscription at the window's head, which is 10, and its messages."""
    subscription = subscribed(source, 10)
    messages = subscription.messages()
    message = await anext(messages)
    assert message is not None
    assert message.kind == "live"
    return subscription, messages


class Attached:
    """A connection whose subscription is attached, if it may be, and the direct writes to it."""

    def __init__(self, subscription: Subscription) -> None:
        self.sent: list[str] = []
        self.takes = True
        self.subscription = subscription
        self.event = subscription._subscriber.event
        self.attach()

    def attach(self) -> None:
        self.subscription.attach(DirectWriter(lambda publication: publication.data, self._write))

    def _write(self, data: bytes) -> bool:
        if self.takes:
            message = json.loads(data)
            self.sent.append(f"{message['from']} {message['to']}")
        return self.takes


async def test_attached_subscription_is_written_to_and_its_messages_continue_after_detach() -> None:
    source = Windowed()
    subscription, messages = await live(source)
    connection = Attached(subscription)
    source.window.extend([event(11), event(12, "users"), event(13)])
    assert subscription.position == Position(LOG, Seq(13))
    source.window.extend([event(14)])
    assert connection.sent == ["aaaaaaaa:10 aaaaaaaa:13", "aaaaaaaa:13 aaaaaaaa:14"]
    assert not connection.event.is_set()
    assert subscription.detach() > 0
    source.window.extend([event(15), event(16)])
    assert connection.event.is_set()
    message = await anext(messages)
    assert message is not None
    assert b'"from":"aaaaaaaa:14","to":"aaaaaaaa:16"' in message.data, "none of it comes twice"
    assert len(connection.sent) == 2


async def test_direct_write_begins_at_the_announced_position() -> None:
    source = Windowed()
    subscription, messages = await live(source)
    source.window.extend([event(11, "users"), event(12, "users")])
    assert await anext(messages) is None
    assert subscription.position == Position(LOG, Seq(12))
    connection = Attached(subscription)
    assert subscription.position == Position(LOG, Seq(12))
    source.window.extend([event(13)])
    assert connection.sent == ["aaaaaaaa:10 aaaaaaaa:13"]


async def test_attach_does_nothing_while_events_are_missing() -> None:
    source = Windowed()
    subscription, _ = await live(source)
    source.window.extend([event(11)])
    connection = Attached(subscription)
    source.window.extend([event(12)])
    assert (connection.sent, connection.event.is_set()) == ([], True)
    assert subscription.position == Position(LOG, Seq(10))
    assert subscription.detach() == 0.0


async def test_attach_does_nothing_while_the_client_is_ahead_of_the_window() -> None:
    """A snapshot's checkpoint may be ahead of the feed of a busy server."""
    source = Windowed()
    subscription = subscribed(source, 13)
    messages = subscription.messages()
    await anext(messages)
    assert subscription.live
    connection = Attached(subscription)
    source.window.extend([event(11), event(12)])
    assert (connection.sent, connection.event.is_set()) == ([], True)
    assert subscription.position == Position(LOG, Seq(13))
    source.window.extend([event(13)])
    assert await anext(messages) is None
    connection.attach()
    source.window.extend([event(14)])
    assert connection.sent == ["aaaaaaaa:13 aaaaaaaa:14"]


async def test_refused_write_does_not_advance_the_position() -> None:
    source = Windowed()
    subscription, messages = await live(source)
    connection = Attached(subscription)
    source.window.extend([event(11)])
    connection.takes = False
    source.window.extend([event(12)])
    source.window.extend([event(13)])
    assert connection.event.is_set()
    assert subscription.position == Position(LOG, Seq(11))
    subscription.detach()
    message = await anext(messages)
    assert message is not None
    assert b'"from":"aaaaaaaa:11","to":"aaaaaaaa:13"' in message.data


async def test_attach_does_nothing_before_live_and_for_another_log() -> None:
    source = Windowed()
    subscription, _ = await live(source)
    subscription.live = False
    connection = Attached(subscription)
    source.window.extend([event(11)])
    assert connection.sent == []
    subscription.live = True
    source.window.start(OTHER, Seq(10))
    connection.attach()
    source.window.extend([event(11)])
    assert connection.sent == []
    assert subscription.position == Position(LOG, Seq(10))


async def test_new_log_detaches_at_the_old_position() -> None:
    source = Windowed()
    subscription, _ = await live(source)
    connection = Attached(subscription)
    source.window.extend([event(11)])
    source.window.start(OTHER, Seq(3))
    assert connection.event.is_set()
    assert subscription.position == Position(LOG, Seq(11))
    source.window.extend([event(4)])
    assert len(connection.sent) == 1


async def test_shape_that_waits_for_its_activation_delays_no_other_of_its_session() -> None:
    source, users, woken = Windowed(), Shape("users"), LightEvent()
    subscribers, scheduler = Subscribers(source.window), SubscriptionScheduler(woken.set, lambda *_: None)
    for shape in (ORDERS, users):
        position = Position(LOG, Seq(10))
        scheduler.add(Subscription(cast("Source", source), subscribers, shape, position, lambda: UNRESTRICTED))

    async def received() -> list[str]:
        """Return the messages of the next round that has some."""
        async with within(10):
            while not (got := [message async for message in scheduler.round()]):
                await woken.wait()
                woken.clear()
        return [f"{message.kind} {cast('Extent', message.extent).shape}" for message in got]

    assert await received() + await received() == ["live orders", "live users"]
    source.interrupted.add(ORDERS)
    source.window.extend([event(11), event(12, "users")])
    assert await received() == ["events users"]
    source.window.extend([event(13, "users")])
    assert await received() == ["events users"]
    source.interrupted.clear()
    source.changed.set()
    assert await received() == ["events orders"]
    await scheduler.aclose()


async def batches(*given: list[bytes]) -> AsyncIterator[list[bytes]]:
    for batch in given:
        yield batch


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], [[]]),
        ([[]], [[]]),
        ([[b"aa", b"bb"], [b"cc"]], [[b"aa", b"bb"], [b"cc"]]),
        ([[b"aa"], [b"bb"]], [[b"aa", b"bb"]]),
        ([[b"a", b"far too large", b"b"]], [[b"a"], [b"far too large"], [b"b"]]),
    ],
)
async def test_parts_of_cuts_rows_into_parts_of_bounded_size(
    given: list[list[bytes]], expected: list[list[bytes]]
) -> None:
    found = [part async for part in parts_of(batches(*given), 4)]
    assert found == [Part(number, rows, number == len(expected) - 1) for number, rows in enumerate(expected)]
